//! The board as a guest sees it: ports, interrupt wires, and what Linux does with them when it boots.

use super::*;
use crate::device::uart::OUTPUT_LEN;
use crate::memory::FlatMemory;
use proptest::prelude::*;
use std::vec::Vec;

const TSC_HZ: u64 = 2_000_000_000;
/// Ticks that a guest spends from one port access to the next in these tests: a VM exit's worth.
const ACCESS_TICKS: u64 = 2_000;

/// A guest that executes port instructions while its TSC runs.
struct Guest {
    board: Board,
    now: u64,
    memory: FlatMemory,
}

impl Guest {
    fn new() -> Self {
        let config = BoardConfig {
            clock: TickClock::new(TSC_HZ),
            ram_len_bytes: 512 << 20,
            boot_time_unix_s: 1_700_000_000,
            ioapic_id: 1,
            balloon: true,
            watchdog_fired: false,
        };
        Self { board: Board::new(&config), now: 0, memory: FlatMemory::new(1 << 16) }
    }

    fn inb(&mut self, port: u16) -> u8 {
        self.now += ACCESS_TICKS;
        self.board.port_read(port, Width::Byte, self.now).unwrap_or(0xff).try_into().unwrap()
    }

    fn outb(&mut self, value: u8, port: u16) -> PortWrite {
        self.now += ACCESS_TICKS;
        self.board.port_write(port, Width::Byte, value.into(), self.now)
    }

    fn inl(&mut self, port: u16) -> u32 {
        self.board.port_read(port, Width::Dword, self.now).unwrap_or(u32::MAX)
    }

    fn outl(&mut self, value: u32, port: u16) -> PortWrite {
        self.board.port_write(port, Width::Dword, value, self.now)
    }

    /// Initializes the PICs as Linux does, with everything masked but `irqs`.
    fn init_pics(&mut self, irqs: u16) {
        let [low, high] = (!irqs).to_le_bytes();
        for (value, port) in [
            (0x11, 0x20),
            (0x30, 0x21),
            (0x04, 0x21),
            (0x01, 0x21),
            (0x11, 0xa0),
            (0x38, 0xa1),
            (0x02, 0xa1),
            (0x01, 0xa1),
            (low, 0x21),
            (high, 0xa1),
        ] {
            assert_eq!(self.outb(value, port), PortWrite::Done);
        }
    }

    /// Lets time pass until the next deadline.
    fn wait(&mut self) {
        self.now = self.board.next_deadline().expect("something to wait for");
        self.board.expire(self.now);
    }

    fn ioapic_write(&mut self, register: u8, value: u32) {
        let (select, window) = (GuestPhysAddr(IOAPIC_BASE), GuestPhysAddr(IOAPIC_BASE + 0x10));
        self.mmio_write(select, Width::Dword, register.into());
        self.mmio_write(window, Width::Dword, value.into());
    }

    fn mmio_write(&mut self, gpa: GuestPhysAddr, width: Width, value: u64) {
        self.board.mmio_write(gpa, width, value, self.now, &mut self.memory).unwrap().unwrap();
    }

    fn balloon_write(&mut self, register: u64, value: u32) {
        self.mmio_write(GuestPhysAddr(BALLOON_BASE + register), Width::Dword, value.into());
    }

    fn balloon_read(&mut self, register: u64) -> u64 {
        self.board.mmio_read(GuestPhysAddr(BALLOON_BASE + register), Width::Dword, self.now).unwrap()
    }

    /// A driver without queues runs the balloon.
    fn drive_balloon(&mut self) {
        for (register, value) in [(0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11), (0x70, 15)] {
            self.balloon_write(register, value);
        }
    }
}

#[test]
fn pit_ticks_reach_the_pic_at_their_rate() {
    let mut guest = Guest::new();
    guest.init_pics(1 << PIT_IRQ);
    // 100 Hz in mode 2.
    guest.outb(0x34, 0x43);
    guest.outb(0x9c, 0x40);
    guest.outb(0x2e, 0x40);
    let mut ticks = Vec::new();
    for _ in 0..5 {
        assert!(!guest.board.pic_pending());
        guest.wait();
        assert!(guest.board.pic_pending());
        assert_eq!(guest.board.pic_acknowledge(), 0x30);
        guest.outb(0x60, 0x20);
        ticks.push(guest.now);
    }
    for pair in ticks.windows(2) {
        let interval = pair[1] - pair[0];
        assert!(interval.abs_diff(TSC_HZ * 11_932 / 1_193_182) < 4 * ACCESS_TICKS, "{interval}");
    }
}

#[test]
fn late_pit_ticks_are_one_and_keep_their_phase() {
    let mut guest = Guest::new();
    guest.init_pics(1 << PIT_IRQ);
    guest.outb(0x34, 0x43);
    guest.outb(0x9c, 0x40);
    guest.outb(0x2e, 0x40);
    let first = guest.board.next_deadline().unwrap();
    let period = TSC_HZ * 11_932 / 1_193_182;
    // The VM does not run for ten and a half periods.
    guest.now = first + 10 * period + period / 2;
    guest.board.expire(guest.now);
    assert_eq!(guest.board.pic_acknowledge(), 0x30);
    guest.outb(0x20, 0x20);
    assert!(!guest.board.pic_pending(), "one tick, not eleven");
    let next = guest.board.next_deadline().unwrap();
    assert!(next.abs_diff(first + 11 * period) <= TSC_HZ / 1_193_182 + 11, "on the old grid");
}

#[test]
fn pit_reaches_ioapic_pin_2_and_the_sci_pin_9() {
    let mut guest = Guest::new();
    // Pin 2: vector 0x40, edge. Pin 9: vector 0x49, level.
    guest.ioapic_write(0x14, 0x40);
    guest.ioapic_write(0x22, 0x8049);
    guest.outb(0x34, 0x43);
    guest.outb(0, 0x40);
    guest.outb(0, 0x40);
    while guest.board.take_message().is_some() {}
    guest.wait();
    let message = guest.board.take_message().unwrap();
    assert_eq!((message.vector, message.level), (0x40, false));
    assert!(guest.board.take_message().is_none());

    // PWRBTN_EN, then the button.
    assert_eq!(guest.board.port_write(0x602, Width::Word, 0x100, guest.now), PortWrite::Done);
    guest.board.power_button(guest.now);
    let message = guest.board.take_message().unwrap();
    assert_eq!((message.vector, message.level), (0x49, true));
    guest.board.ioapic_eoi(0x49);
    assert!(guest.board.take_message().is_some(), "the line is still high");
    guest.board.port_write(0x600, Width::Word, 0x100, guest.now);
    guest.board.ioapic_eoi(0x49);
    assert!(guest.board.take_message().is_none());
}

/// Linux's `quick_pit_calibrate`: channel 2 in mode 0 is watched through its unlatched high byte.
#[test]
fn linux_calibrates_its_tsc_against_channel_2() {
    let mut guest = Guest::new();
    let port_b = guest.inb(0x61);
    guest.outb((port_b & !2) | 1, 0x61);
    guest.outb(0xb0, 0x43);
    guest.outb(0xff, 0x42);
    guest.outb(0xff, 0x42);
    let read_high = |guest: &mut Guest| {
        guest.inb(0x42);
        guest.inb(0x42)
    };
    read_high(&mut guest);
    // pit_expect_msb: wait while the byte is `expected`; it must be seen more than five times.
    let expect = |guest: &mut Guest, expected: u8| {
        let mut seen = 0;
        while read_high(guest) == expected {
            seen += 1;
        }
        assert!(seen > 5, "{expected:#x} was seen {seen} times");
        guest.now
    };
    let start = expect(&mut guest, 0xff);
    let steps = 100;
    let mut end = start;
    for step in 1..=steps {
        end = expect(&mut guest, 0xff - step);
    }
    let measured_hz = u128::from(end - start) * 1_193_182 / u128::from(steps) / 256;
    let error_ppm = measured_hz.abs_diff(TSC_HZ.into()) * 1_000_000 / u128::from(TSC_HZ);
    assert!(error_ppm < 500, "{measured_hz} Hz is {error_ppm} ppm off");
}

/// Linux's `pit_calibrate_tsc`: how long until OUT of channel 2 rises, seen in port 61h bit 5.
#[test]
fn port_61_shows_the_end_of_channel_2() {
    let mut guest = Guest::new();
    guest.outb(1, 0x61);
    guest.outb(0xb0, 0x43);
    let latch = 1_193_182 / 20;
    guest.outb((latch & 0xff).try_into().unwrap(), 0x42);
    guest.outb((latch >> 8).try_into().unwrap(), 0x42);
    let start = guest.now;
    while guest.inb(0x61) & 0x20 == 0 {}
    let took = guest.now - start;
    assert!(took.abs_diff(TSC_HZ / 20) < 2 * ACCESS_TICKS + 2 * TSC_HZ / 1_193_182, "{took} ticks");
}

/// What Linux's `pci_check_type1` does, and the scan of bus 0.
#[test]
fn linux_finds_the_host_bridge_and_nothing_else() {
    let mut guest = Guest::new();
    assert_eq!(guest.outb(0x01, 0xcfb), PortWrite::Unclaimed);
    let saved = guest.inl(0xcf8);
    guest.outl(0x8000_0000, 0xcf8);
    assert_eq!(guest.inl(0xcf8), 0x8000_0000);
    guest.outl(saved, 0xcf8);
    for device in 0..32u32 {
        for function in 0..8 {
            guest.outl(0x8000_0000 | device << 11 | function << 8, 0xcf8);
            let id = guest.inl(0xcfc);
            assert_eq!(id, if device == 0 && function == 0 { 0x1237_8086 } else { u32::MAX });
        }
    }
    guest.outl(0x8000_0008, 0xcf8);
    assert_eq!(guest.board.port_read(0xcfe, Width::Word, 0), Some(0x0600), "class code");
}

#[test]
fn every_way_out_of_the_machine() {
    for (port, width, value, expected) in [
        (0xf4, Width::Dword, 0x1234_5678, PortWrite::Exit(0x1234_5678)),
        (0xf4, Width::Word, 0x1234_5678, PortWrite::Exit(0x5678)),
        (0xf4, Width::Byte, 0x1234_5678, PortWrite::Exit(0x78)),
        (0xf5, Width::Byte, 0, PortWrite::Unclaimed),
        (0x604, Width::Word, 0x3400, PortWrite::PowerOff),
        (0x605, Width::Byte, 0x34, PortWrite::PowerOff),
        (0x604, Width::Word, 0x2000, PortWrite::Done),
        (0xcf9, Width::Byte, 6, PortWrite::Reset),
        (0x64, Width::Byte, 0xfe, PortWrite::Reset),
        (0x92, Width::Byte, 1, PortWrite::Reset),
        (0x91, Width::Word, 0x0100, PortWrite::Reset),
        (0x80, Width::Byte, 0x55, PortWrite::Done),
        (0x1f0, Width::Word, 0, PortWrite::Unclaimed),
        (0xffff, Width::Dword, 0, PortWrite::Unclaimed),
    ] {
        let mut guest = Guest::new();
        assert_eq!(guest.board.port_write(port, width, value, 0), expected, "{port:#x} {width:?} {value:#x}");
    }
}

#[test]
fn wide_accesses_are_split_into_bytes() {
    let mut guest = Guest::new();
    // Index and data in one: write NVRAM byte 0x40, then read it.
    assert_eq!(guest.board.port_write(0x70, Width::Word, 0xa540, 0), PortWrite::Done);
    assert_eq!(guest.inb(0x71), 0xa5);
    assert_eq!(guest.board.port_write(0x4d0, Width::Word, 0xffff, 0), PortWrite::Done);
    assert_eq!(guest.board.port_read(0x4d0, Width::Word, 0), Some(0xdef8));
    // One byte of four has a device.
    guest.outb(0x77, 0x80);
    assert_eq!(guest.inl(0x7f), 0xffff_77ff);
    assert_eq!(guest.board.port_read(0xfffe, Width::Dword, 0), None);
    // CONFIG_ADDRESS takes dwords only; the byte at CF9 is the reset register.
    guest.outl(0x8000_0000, 0xcf8);
    assert_eq!(guest.inb(0xcf8), 0xff);
    assert_eq!(guest.inb(0xcf9), 0);
    // The PM timer is one dword, and runs.
    let first = guest.board.port_read(0x608, Width::Dword, TSC_HZ).unwrap();
    assert_eq!(first, 3_579_545);
}

#[test]
fn output_fills_up_holds_the_guest_and_is_drained() {
    let mut guest = Guest::new();
    for _ in 0..OUTPUT_LEN {
        assert_ne!(guest.inb(0x3fd) & 0x20, 0);
        guest.outb(b'x', 0x3f8);
    }
    assert_eq!(guest.inb(0x3fd) & 0x60, 0, "the transmitter is full");
    let mut taken = 0;
    guest.board.serial_output(|bytes| taken = bytes.len());
    assert_eq!(taken, OUTPUT_LEN);
    assert_eq!(guest.inb(0x3fd) & 0x60, 0x60);
    guest.board.serial_output(|_| unreachable!("nothing is left"));
}

/// An edge-triggered driver that reads no more per interrupt than the receiver holds gets every byte of a paste: each refill is a
/// new edge.
#[test]
fn a_paste_reaches_an_edge_triggered_driver_whole() {
    for (fcr, per_interrupt) in [(0x00, 1), (0x01, 16), (0x81, 16), (0xc1, 3 + 16)] {
        let mut guest = Guest::new();
        guest.init_pics(1 << COM1_IRQ);
        guest.outb(fcr, 0x3fa);
        guest.outb(0x0b, 0x3fc);
        guest.outb(0x01, 0x3f9);
        let text: Vec<u8> = (0..5000u32).map(|n| (n % 251).try_into().unwrap()).collect();
        assert_eq!(guest.board.serial_input(&text), text.len());
        let mut received = Vec::new();
        while guest.board.pic_pending() {
            assert_eq!(guest.board.pic_acknowledge(), 0x34);
            for _ in 0..per_interrupt {
                if guest.inb(0x3fd) & 1 != 0 {
                    received.push(guest.inb(0x3f8));
                }
            }
            guest.outb(0x20, 0x20);
        }
        assert!(received == text, "FCR {fcr:#x}: {} of {} bytes", received.len(), text.len());
    }
}

#[test]
fn a_reset_starts_anew_but_keeps_the_clock() {
    let mut guest = Guest::new();
    guest.init_pics(0xffff);
    guest.outb(0x34, 0x43);
    guest.outb(0, 0x40);
    guest.outb(0, 0x40);
    guest.outb(0x40, 0x70);
    guest.outb(0x99, 0x71);
    guest.now = 90 * TSC_HZ;
    guest.board.expire(guest.now);
    guest.board.reset();
    assert!(!guest.board.pic_pending());
    assert_eq!(guest.board.next_deadline(), None);
    guest.now = 0;
    guest.outb(0x40, 0x70);
    assert_eq!(guest.inb(0x71), 0x99, "the battery keeps the memory");
    // 1,700,000,000 is 2023-11-14 22:13:20 UTC.
    guest.outb(0x02, 0x70);
    assert_eq!(guest.inb(0x71), 0x14);
    guest.outb(0x00, 0x70);
    assert_eq!(guest.inb(0x71), 0x50);
}

/// The ports that have a device, and some that have none.
fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        prop::sample::select(std::vec![
            0x20u16, 0x21, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0x92, 0xa0, 0xa1, 0x4d0, 0x4d1,
            0xcf8, 0xcf9, 0xcfc, 0xcfd, 0xcff, 0xfffe, 0xffff,
        ]),
        0x3f8u16..=0x400,
        0x5ffu16..=0x60d,
        any::<u16>(),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Read(u16, Width),
    Write(u16, Width, u32),
    IoApic(u64, Width, u64),
    Balloon(u64, Width, u64),
    Target(u32),
    Expire(u64),
    Input(Vec<u8>),
    Output,
    Acknowledge,
    Button,
    Reset,
}

fn width() -> impl Strategy<Value = Width> {
    prop::sample::select(std::vec![Width::Byte, Width::Word, Width::Dword, Width::Qword])
}

fn balloon_step() -> impl Strategy<Value = Step> {
    let access = (0u64..0x110, width(), any::<u64>());
    prop_oneof![
        2 => access.prop_map(|(offset, width, value)| Step::Balloon(offset, width, value)),
        1 => any::<u32>().prop_map(Step::Target),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (port(), width()).prop_map(|(port, width)| Step::Read(port, width)),
        16 => (port(), width(), any::<u32>()).prop_map(|(port, width, value)| Step::Write(port, width, value)),
        2 => (0u64..0x44, width(), any::<u64>()).prop_map(|(offset, width, value)| Step::IoApic(offset, width, value)),
        3 => balloon_step(),
        4 => (0u64..1 << 42).prop_map(Step::Expire),
        1 => prop::collection::vec(any::<u8>(), 0..64).prop_map(Step::Input),
        1 => Just(Step::Output),
        2 => Just(Step::Acknowledge),
        1 => Just(Step::Button),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_sequence_of_accesses_breaks_the_board(steps in prop::collection::vec(step(), 1..300)) {
        let mut guest = Guest::new();
        for step in steps {
            guest.now += ACCESS_TICKS;
            match step {
                Step::Read(port, width) => {
                    if let Some(value) = guest.board.port_read(port, width, guest.now) {
                        prop_assert!(u64::from(value) <= width.mask());
                    }
                }
                Step::Write(port, width, value) => {
                    guest.board.port_write(port, width, value, guest.now);
                }
                Step::IoApic(offset, width, value) => {
                    let gpa = GuestPhysAddr(IOAPIC_BASE + offset);
                    guest.mmio_write(gpa, width, value);
                    prop_assert!(guest.board.mmio_read(gpa, width, guest.now).is_some());
                }
                Step::Balloon(offset, width, value) => {
                    let gpa = GuestPhysAddr(BALLOON_BASE + offset);
                    guest.mmio_write(gpa, width, value);
                    prop_assert!(guest.board.mmio_read(gpa, width, guest.now).is_some_and(|value| value <= width.mask()));
                }
                Step::Target(pages) => prop_assert!(guest.board.balloon_set_target_pages(pages)),
                Step::Expire(ticks) => {
                    guest.now += ticks;
                    guest.board.expire(guest.now);
                    if let Some(deadline) = guest.board.next_deadline() {
                        prop_assert!(deadline > guest.now, "a deadline that has passed would be due for ever");
                    }
                }
                Step::Input(bytes) => {
                    guest.board.serial_input(&bytes);
                }
                Step::Output => guest.board.serial_output(|bytes| assert!(bytes.len() <= OUTPUT_LEN)),
                Step::Acknowledge => {
                    guest.board.pic_acknowledge();
                }
                Step::Button => guest.board.power_button(guest.now),
                Step::Reset => {
                    guest.board.reset();
                    guest.now = 0;
                }
            }
            for _ in 0..24 {
                guest.board.take_message();
            }
            prop_assert!(guest.board.take_message().is_none(), "one message per pin at most");
        }
    }
}

/// What ACPICA does with the RTC's fixed event: enable, read back, disable; and an operating system that waits for it.
#[test]
fn an_rtc_interrupt_is_an_acpi_event() {
    const RTC_EVENT: u8 = 0x04;
    const UPDATE_INTERRUPT: u8 = 0x12;
    let mut guest = Guest::new();
    guest.init_pics(1 << 2 | 1 << SCI_IRQ);
    guest.outb(RTC_EVENT, 0x603);
    assert_eq!(guest.inb(0x603), RTC_EVENT);
    guest.outb(0x0b, 0x70);
    guest.outb(UPDATE_INTERRUPT, 0x71);
    assert_eq!(guest.inb(0x601), 0, "the second is not over");
    assert!(!guest.board.pic_pending());
    guest.wait();
    assert_eq!(guest.inb(0x601), RTC_EVENT);
    assert!(guest.board.pic_pending());
    assert_eq!(guest.board.pic_acknowledge(), 0x39, "the SCI");
    guest.outb(RTC_EVENT, 0x601);
    assert_eq!(guest.inb(0x601), 0);
}

/// A driver that unmasks the balloon's pin as Linux does for a level-triggered interrupt without a number of the ISA
/// bus.
#[test]
fn a_new_target_interrupts_the_balloons_driver_until_it_is_acknowledged() {
    const VECTOR: u8 = 0x51;
    let mut guest = Guest::new();
    guest.ioapic_write(0x10 + 2 * 16 + 1, 0);
    guest.ioapic_write(0x10 + 2 * 16, 1 << 15 | u32::from(VECTOR));
    assert!(guest.board.balloon_set_target_pages(10));
    assert!(guest.board.take_message().is_none(), "nobody drives it yet");
    assert!(!guest.board.balloon_status().unwrap().driver_ready);

    guest.drive_balloon();
    assert!(guest.board.balloon_status().unwrap().driver_ready);
    assert_eq!(guest.balloon_read(0x100), 10, "the driver finds what was set before");
    assert!(guest.board.balloon_set_target_pages(20));
    let message = guest.board.take_message().unwrap();
    assert_eq!((message.vector, message.level), (VECTOR, true));
    assert!(!guest.board.pic_pending(), "it is not wired to the PIC");
    guest.board.ioapic_eoi(VECTOR);
    assert!(guest.board.take_message().is_some(), "the line is still high");
    guest.balloon_write(0x64, 2);
    guest.board.ioapic_eoi(VECTOR);
    assert!(guest.board.take_message().is_none());

    assert!(guest.board.balloon_set_target_pages(20));
    assert!(guest.board.take_message().is_none(), "no news");
    guest.balloon_write(0x104, 15);
    let status = guest.board.balloon_status().unwrap();
    assert_eq!((status.target_pages, status.actual_pages, status.driver_ready, status.fault), (20, 15, true, None));

    guest.board.balloon_set_target_pages(30);
    guest.board.reset();
    let status = guest.board.balloon_status().unwrap();
    assert_eq!((status.target_pages, status.actual_pages, status.driver_ready), (30, 0, false));
    guest.ioapic_write(0x10 + 2 * 16, 1 << 15 | u32::from(VECTOR));
    assert!(guest.board.take_message().is_none(), "the line is low again");
}

#[test]
fn a_vm_without_a_balloon_has_nothing_at_its_place() {
    let mut guest = Guest::new();
    guest.board.balloon = None;
    let gpa = GuestPhysAddr(BALLOON_BASE);
    assert_eq!(guest.board.mmio_read(gpa, Width::Dword, 0), None);
    assert_eq!(guest.board.mmio_write(gpa, Width::Dword, 0, 0, &mut guest.memory), None);
    assert!(!guest.board.balloon_set_target_pages(1));
    assert_eq!(guest.board.balloon_status(), None);
    assert_eq!(guest.board.balloon_request_stats(&mut guest.memory), Ok(()));
}

#[test]
fn the_io_apics_id_is_none_of_the_local_apics_while_it_can_be() {
    for vcpus in 1..=64 {
        let id = ioapic_id(vcpus);
        assert!(id < 16);
        assert!(u32::from(id) >= vcpus || vcpus > 15 && id == 0);
    }
}
