//! The MC146818 against its datasheet.

use super::*;
use proptest::prelude::*;

/// A TSC of which a crystal cycle is exactly 1,000 ticks.
const TSC_HZ: u64 = 1_000 * CRYSTAL_HZ;
/// 2024-02-29 23:59:58 UTC, a Thursday.
const LEAP_DAY: u64 = 1_709_251_198;

fn rtc(unix_s: u64) -> Rtc {
    Rtc::new(TickClock::new(TSC_HZ), unix_s, 0, 0)
}

fn get(rtc: &mut Rtc, index: u8, now: u64) -> u8 {
    rtc.write(INDEX_PORT, index, now);
    rtc.read(DATA_PORT, now)
}

fn set(rtc: &mut Rtc, index: u8, value: u8, now: u64) {
    rtc.write(INDEX_PORT, index, now);
    rtc.write(DATA_PORT, value, now);
}

/// Century, year, month, day, day of week, hours, minutes, seconds.
fn date(rtc: &mut Rtc, now: u64) -> [u8; 8] {
    [CENTURY, YEAR, MONTH, DAY_OF_MONTH, DAY_OF_WEEK, HOURS, MINUTES, SECONDS].map(|index| get(rtc, index, now))
}

#[test]
fn shows_the_date_in_bcd() {
    let mut rtc = rtc(LEAP_DAY);
    assert_eq!(date(&mut rtc, 0), [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x58]);
    assert_eq!(date(&mut rtc, TSC_HZ - 1)[7], 0x58);
    assert_eq!(date(&mut rtc, 2 * TSC_HZ), [0x20, 0x24, 0x03, 0x01, 6, 0x00, 0x00, 0x00]);
    assert_eq!(date(&mut self::rtc(0), 0), [0x19, 0x70, 0x01, 0x01, 5, 0, 0, 0]);
    assert_eq!(date(&mut self::rtc(951_868_799), 0), [0x20, 0x00, 0x02, 0x29, 3, 0x23, 0x59, 0x59]);
    assert_eq!(date(&mut self::rtc(4_107_542_400), 0), [0x21, 0x00, 0x03, 0x01, 2, 0, 0, 0]);
}

#[test]
fn binary_and_12_hour_modes() {
    let mut rtc = rtc(LEAP_DAY);
    set(&mut rtc, REGISTER_B, (RegisterB::BINARY | RegisterB::HOURS_24).bits(), 0);
    assert_eq!(date(&mut rtc, 0)[1..], [24, 2, 29, 5, 23, 59, 58]);
    // "12-hour: $01-$0C (AM) and $81-$8C (PM)", in BCD $01-$12 and $81-$92.
    for (hour, binary, bcd) in
        [(0, 12, 0x12), (1, 1, 0x01), (11, 11, 0x11), (12, 0x8c, 0x92), (13, 0x81, 0x81), (23, 0x8b, 0x91)]
    {
        let mut rtc = self::rtc(hour * 3600);
        set(&mut rtc, REGISTER_B, RegisterB::BINARY.bits(), 0);
        assert_eq!(get(&mut rtc, HOURS, 0), binary);
        set(&mut rtc, REGISTER_B, 0, 0);
        assert_eq!(get(&mut rtc, HOURS, 0), bcd);
        // And back.
        set(&mut rtc, HOURS, bcd, 0);
        set(&mut rtc, REGISTER_B, (RegisterB::BINARY | RegisterB::HOURS_24).bits(), 0);
        assert_eq!(u64::from(get(&mut rtc, HOURS, 0)), hour);
    }
}

#[test]
fn setting_the_clock() {
    let mut rtc = rtc(0);
    set(&mut rtc, REGISTER_B, (RegisterB::SET | RegisterB::HOURS_24).bits(), 0);
    for (index, value) in [
        (SECONDS, 0x50),
        (MINUTES, 0x59),
        (HOURS, 0x23),
        (DAY_OF_MONTH, 0x31),
        (MONTH, 0x12),
        (YEAR, 0x99),
        (CENTURY, 0x19),
    ] {
        set(&mut rtc, index, value, 0);
    }
    assert_eq!(get(&mut rtc, SECONDS, 100 * TSC_HZ), 0x50, "SET holds the time");
    set(&mut rtc, REGISTER_B, RegisterB::HOURS_24.bits(), 100 * TSC_HZ);
    assert_eq!(date(&mut rtc, 110 * TSC_HZ), [0x20, 0x00, 0x01, 0x01, 7, 0, 0, 0]);
}

/// Linux's `mc146818_set_time` also resets the divider, so the first second is half a one.
#[test]
fn the_divider_reset_restarts_the_second_after_half_a_second() {
    let mut rtc = rtc(LEAP_DAY);
    let now = TSC_HZ / 4 * 5;
    set(&mut rtc, REGISTER_A, 0x70 | A_DEFAULT, now);
    assert_eq!(get(&mut rtc, SECONDS, 50 * TSC_HZ), 0x59);
    let now = 50 * TSC_HZ;
    set(&mut rtc, REGISTER_A, A_DEFAULT, now);
    assert_eq!(get(&mut rtc, SECONDS, now + TSC_HZ / 2 - 1), 0x59);
    assert_eq!(get(&mut rtc, SECONDS, now + TSC_HZ / 2), 0x00);
    assert_eq!(get(&mut rtc, SECONDS, now + TSC_HZ * 3 / 2), 0x01);
}

#[test]
fn update_in_progress_is_the_last_244_us_of_a_second() {
    let mut rtc = rtc(0);
    let begin = TSC_HZ - 8 * 1_000;
    for (now, updating) in [(0, 0), (begin - 1, 0), (begin, 0x80), (TSC_HZ - 1, 0x80), (TSC_HZ, 0)] {
        assert_eq!(get(&mut rtc, REGISTER_A, now) & 0x80, updating, "tick {now}");
    }
    set(&mut rtc, REGISTER_B, RegisterB::SET.bits(), begin);
    assert_eq!(get(&mut rtc, REGISTER_A, begin) & 0x80, 0, "no update comes");
    set(&mut rtc, REGISTER_A, 0xff, begin);
    assert_eq!(get(&mut rtc, REGISTER_A, begin), 0x7f, "UIP is read only");
}

#[test]
fn periodic_rates() {
    // Datasheet, "Periodic Interrupt Rate and Square Wave Output Frequency", 32.768 kHz.
    let rates = [256, 128, 8192, 4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2];
    for (rate, hz) in (1..).zip(rates) {
        let mut rtc = rtc(0);
        set(&mut rtc, REGISTER_A, 0x20 | rate, 0);
        set(&mut rtc, REGISTER_B, RegisterB::PERIODIC_INTERRUPT.bits(), 0);
        for period in 1..4 {
            assert_eq!(rtc.deadline(), period * TSC_HZ / hz, "rate {rate}");
            rtc.expire(rtc.deadline() - 1);
            assert!(!rtc.irq_level());
            let due = rtc.deadline();
            rtc.expire(due);
            assert!(rtc.irq_level());
            assert_eq!(rtc.deadline(), u64::MAX, "no edge before register C is read");
            assert_eq!(get(&mut rtc, REGISTER_C, due) & 0xc0, 0xc0);
            assert!(!rtc.irq_level());
        }
    }
    let mut rtc = rtc(0);
    set(&mut rtc, REGISTER_A, 0x20, 0);
    set(&mut rtc, REGISTER_B, RegisterB::PERIODIC_INTERRUPT.bits(), 0);
    assert_eq!(rtc.deadline(), u64::MAX, "rate 0 is none");
}

#[test]
fn update_ended_interrupt() {
    let mut rtc = rtc(0);
    set(&mut rtc, REGISTER_B, RegisterB::UPDATE_INTERRUPT.bits(), TSC_HZ / 3);
    assert_eq!(rtc.deadline(), TSC_HZ);
    rtc.expire(TSC_HZ);
    assert!(rtc.irq_level());
    assert_eq!(get(&mut rtc, REGISTER_C, TSC_HZ) & 0x90, 0x90);
    assert_eq!(get(&mut rtc, REGISTER_C, TSC_HZ), 0, "the read cleared it");
    assert_eq!(rtc.deadline(), 2 * TSC_HZ);
    set(&mut rtc, REGISTER_B, (RegisterB::SET | RegisterB::UPDATE_INTERRUPT).bits(), TSC_HZ);
    assert_eq!(get(&mut rtc, REGISTER_B, TSC_HZ), 0x80, "SET clears UIE");
    assert_eq!(rtc.deadline(), u64::MAX);
}

#[test]
fn flags_are_set_without_their_enables() {
    let mut rtc = rtc(0);
    assert_eq!(get(&mut rtc, REGISTER_C, TSC_HZ * 3 / 2), 0x50, "PF and UF, no IRQF");
    assert!(!rtc.irq_level());
    // A flag that is there when its enable comes interrupts at once.
    set(&mut rtc, REGISTER_B, 0, TSC_HZ * 5 / 2);
    set(&mut rtc, REGISTER_B, RegisterB::UPDATE_INTERRUPT.bits(), TSC_HZ * 5 / 2);
    assert!(rtc.irq_level());
}

#[test]
fn alarms() {
    // 23:59:58; the next second that matches, in seconds from there.
    for (hours, minutes, seconds, ahead) in [
        (0x23, 0x59, 0x59, Some(1)),
        (0x00, 0x00, 0x00, Some(2)),
        (0xff, 0xff, 0xff, Some(1)),
        (0xc0, 0x01, 0x00, Some(62)),
        (0x06, 0xff, 0x30, Some(2 + 6 * 3600 + 30)),
        (0x23, 0x59, 0x58, Some(86_400)),
        (0x24, 0x00, 0x00, None),
        (0x00, 0x00, 0x75, None),
    ] {
        let mut rtc = rtc(LEAP_DAY);
        set(&mut rtc, HOURS_ALARM, hours, 0);
        set(&mut rtc, MINUTES_ALARM, minutes, 0);
        set(&mut rtc, SECONDS_ALARM, seconds, 0);
        set(&mut rtc, REGISTER_B, (RegisterB::ALARM_INTERRUPT | RegisterB::HOURS_24).bits(), 0);
        let deadline = ahead.map_or(u64::MAX, |ahead: u64| ahead * TSC_HZ);
        assert_eq!(rtc.deadline(), deadline, "{hours:02x}:{minutes:02x}:{seconds:02x}");
        if ahead.is_some() {
            rtc.expire(deadline);
            assert_eq!(get(&mut rtc, REGISTER_C, deadline) & 0xa0, 0xa0);
        }
    }
}

#[test]
fn memory_bytes() {
    let mut rtc = Rtc::new(TickClock::new(TSC_HZ), 0, 3 << 30, 5 << 30);
    let mut word = |index| u16::from_le_bytes([get(&mut rtc, index, 0), get(&mut rtc, index + 1, 0)]);
    assert_eq!(word(BASE_MEMORY), 640);
    assert_eq!((word(EXTENDED_MEMORY), word(EXTENDED_MEMORY_FOUND)), (0xffff, 0xffff));
    assert_eq!(u64::from(word(MEMORY_ABOVE_16M)) << 16, (3 << 30) - (16 << 20));
    let above_4g = u64::from(word(MEMORY_ABOVE_4G)) | u64::from(word(MEMORY_ABOVE_4G + 2)) << 16;
    assert_eq!(above_4g << 16, 5 << 30);
    let sum: u16 = (0x10..=0x2d).map(|index| u16::from(get(&mut rtc, index, 0))).sum();
    assert_eq!([get(&mut rtc, 0x2e, 0), get(&mut rtc, 0x2f, 0)], sum.to_be_bytes());
    assert_eq!(get(&mut rtc, REGISTER_D, 0), 0x80);
    assert_eq!(rtc.read(INDEX_PORT, 0), 0xff, "write only");
    // Bit 7 is the NMI mask, not index 0xc0.
    set(&mut rtc, 0xc0, 0x5a, 0);
    assert_eq!(get(&mut rtc, 0x40, 0), 0x5a);
}

proptest! {
    #[test]
    fn dates_go_there_and_back(unix_s in 0u64..253_402_300_800) {
        prop_assert_eq!(Calendar::from_unix(unix_s).to_unix(), unix_s);
        let tomorrow = Calendar::from_unix(unix_s + 86_400);
        let today = Calendar::from_unix(unix_s);
        prop_assert_eq!(tomorrow.day_of_week, today.day_of_week % 7 + 1);
        prop_assert!(tomorrow.day == today.day + 1 || (tomorrow.day == 1 && today.day >= 28));
    }

    /// Any bytes in any registers: the clock still shows a date, and a deadline is never one that has passed.
    #[test]
    fn garbage_is_survived(accesses in prop::collection::vec((0u8..0x40, any::<u8>(), 0u64..1 << 36), 1..100)) {
        let mut rtc = rtc(LEAP_DAY);
        let mut now = 0;
        for (index, value, ticks) in accesses {
            now += ticks;
            set(&mut rtc, index, value, now);
            get(&mut rtc, index, now);
            rtc.expire(now);
            prop_assert!(rtc.deadline() > now);
        }
        set(&mut rtc, REGISTER_A, A_DEFAULT, now);
        set(&mut rtc, REGISTER_B, (RegisterB::BINARY | RegisterB::HOURS_24).bits(), now);
        let [.., month, day, _, hours, minutes, seconds] = date(&mut rtc, now);
        prop_assert!((1..=12).contains(&month) && (1..=31).contains(&day));
        prop_assert!(hours < 24 && minutes < 60 && seconds < 60);
    }
}
