//! The ACPI fixed hardware against the ACPI specification.

use super::*;

const TSC_HZ: u64 = 1_000 * PM_TIMER_HZ;

fn pm() -> AcpiPm {
    AcpiPm::new(TickClock::new(TSC_HZ))
}

fn write_word(pm: &mut AcpiPm, port: u16, value: u16, now: u64) -> bool {
    let [low, high] = value.to_le_bytes();
    let (low, high) = (pm.write(port, low, now).unwrap(), pm.write(port + 1, high, now).unwrap());
    low || high
}

fn read_word(pm: &mut AcpiPm, port: u16, now: u64) -> u16 {
    u16::from_le_bytes([pm.read(port, now).unwrap(), pm.read(port + 1, now).unwrap()])
}

const STATUS: u16 = PM1A_EVENT;
const ENABLE: u16 = PM1A_EVENT + 2;

#[test]
fn only_s5_switches_off() {
    for sleep_type in 0..8 {
        let mut pm = pm();
        let typed = sleep_type << SLP_TYP_SHIFT;
        assert!(!write_word(&mut pm, PM1A_CONTROL, typed, 0), "SLP_EN is not set");
        assert_eq!(read_word(&mut pm, PM1A_CONTROL, 0), typed | SCI_EN);
        assert_eq!(write_word(&mut pm, PM1A_CONTROL, typed | SLP_EN, 0), sleep_type == SLP_TYP_S5);
        assert_eq!(read_word(&mut pm, PM1A_CONTROL, 0) & SLP_EN, 0, "write only");
    }
}

#[test]
fn the_power_button_raises_the_sci_until_it_is_cleared() {
    let mut pm = pm();
    pm.press_power_button();
    assert!(!pm.irq_level(), "not enabled");
    assert_eq!(read_word(&mut pm, STATUS, 0), 0x100);
    write_word(&mut pm, ENABLE, 0xffff, 0);
    assert_eq!(read_word(&mut pm, ENABLE, 0), 0x521, "the events that there are");
    assert!(pm.irq_level());
    write_word(&mut pm, STATUS, 0x0021, 0);
    assert!(pm.irq_level(), "zeros clear nothing");
    write_word(&mut pm, STATUS, 0x0100, 0);
    assert!(!pm.irq_level());
}

#[test]
fn an_alarm_raises_the_sci_only_where_enabled() {
    let mut pm = pm();
    pm.rtc_alarm();
    assert!(!pm.irq_level(), "not enabled");
    assert_eq!(read_word(&mut pm, STATUS, 0), 0x400);
    write_word(&mut pm, ENABLE, 0x400, 0);
    assert_eq!(read_word(&mut pm, ENABLE, 0), 0x400);
    assert!(pm.irq_level());
    write_word(&mut pm, STATUS, 0x400, 0);
    assert!(!pm.irq_level());
}

#[test]
fn the_timer_counts_and_overflows() {
    let mut pm = pm();
    assert_eq!(pm.timer(TSC_HZ), 3_579_545);
    assert_eq!(pm.timer(((1 << 32) + 5) * 1_000), 5, "32 bits");
    let mut pm = self::pm();
    let bytes: std::vec::Vec<u8> = (PM_TIMER..PM_END).map(|port| pm.read(port, 0x1234_5678 * 1_000).unwrap()).collect();
    assert_eq!(bytes, [0x78, 0x56, 0x34, 0x12]);
}

#[test]
fn tmr_sts_is_set_at_each_change_of_the_top_bit() {
    let mut pm = pm();
    assert_eq!(pm.deadline(), u64::MAX);
    write_word(&mut pm, ENABLE, 1, 0);
    for turn in 1..5u64 {
        let at = turn * PM_TIMER_HALF * 1_000;
        assert_eq!(pm.deadline(), at);
        pm.expire(at - 1);
        assert!(!pm.irq_level());
        pm.expire(at);
        assert!(pm.irq_level());
        assert_eq!(pm.deadline(), u64::MAX, "until it is cleared");
        write_word(&mut pm, STATUS, 1, at);
        assert!(!pm.irq_level());
    }
}

#[test]
fn no_register_no_answer() {
    let mut pm = pm();
    assert_eq!(pm.read(0x606, 0), None);
    assert_eq!(pm.write(0x607, 0xff, 0), None);
}
