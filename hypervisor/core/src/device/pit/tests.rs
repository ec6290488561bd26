//! The 8254 against a model that counts clock by clock as the datasheet's timing diagrams do, and the PC's wiring.

use super::*;
use proptest::prelude::*;

/// One counter in binary, counted clock by clock ("Mode Definitions").
#[derive(Clone, Debug)]
struct Model {
    mode: Mode,
    gate: bool,
    /// Count register: a written count that is not loaded yet.
    written: Option<i64>,
    count: i64,
    /// Counting element; `None` before the first load.
    element: Option<i64>,
    out: bool,
    trigger: bool,
    /// Mode 4 and 5: the strobe is yet to come.
    armed: bool,
}

impl Model {
    fn new(mode: Mode, gate: bool) -> Self {
        let out = mode != Mode::InterruptOnTerminalCount;
        Self { mode, gate, written: None, count: 0, element: None, out, trigger: false, armed: false }
    }

    fn write(&mut self, count: i64) {
        self.written = Some(count);
        if self.mode == Mode::InterruptOnTerminalCount {
            self.out = false;
        }
    }

    fn set_gate(&mut self, high: bool) {
        self.trigger |= high && !self.gate;
        self.gate = high;
        if !high && self.mode.is_periodic() {
            self.out = true;
        }
    }

    fn load(&mut self) {
        self.count = self.written.take().unwrap_or(self.count);
        self.element = Some(if self.mode == Mode::SquareWave { self.count & !1 } else { self.count });
        self.armed = true;
    }

    fn clock(&mut self) {
        let trigger = std::mem::take(&mut self.trigger);
        match self.mode {
            Mode::InterruptOnTerminalCount => {
                if self.written.is_some() {
                    self.load();
                } else if self.gate
                    && let Some(element) = &mut self.element
                {
                    *element -= 1;
                    self.out |= *element == 0;
                }
            }
            Mode::SoftwareTriggeredStrobe => {
                self.out = true;
                if self.written.is_some() {
                    self.load();
                } else if self.gate {
                    self.count_to_strobe();
                }
            }
            Mode::HardwareRetriggerableOneShot | Mode::HardwareTriggeredStrobe => {
                let one_shot = self.mode == Mode::HardwareRetriggerableOneShot;
                if trigger && (self.written.is_some() || self.count != 0) {
                    self.load();
                    self.out = !one_shot;
                } else if one_shot {
                    if let Some(element) = &mut self.element {
                        *element -= 1;
                        self.out |= *element == 0;
                    }
                } else {
                    self.out = true;
                    self.count_to_strobe();
                }
            }
            Mode::RateGenerator => {
                if self.element.is_none() {
                    if self.written.is_some() {
                        self.load();
                    }
                } else if trigger {
                    self.load();
                } else if self.gate
                    && let Some(element) = &mut self.element
                {
                    *element -= 1;
                    match *element {
                        1 => self.out = false,
                        0 => {
                            self.load();
                            self.out = true;
                        }
                        _ => {}
                    }
                }
            }
            Mode::SquareWave => {
                if self.element.is_none() {
                    if self.written.is_some() {
                        self.load();
                    }
                } else if trigger {
                    self.load();
                } else if self.gate
                    && let Some(element) = &mut self.element
                {
                    *element -= 2;
                    // An odd count's high half shows 0 for one clock before it reloads.
                    let last = if self.out && self.count % 2 == 1 { -2 } else { 0 };
                    if *element == last {
                        self.out = !self.out;
                        self.load();
                    }
                }
            }
        }
    }

    fn count_to_strobe(&mut self) {
        if let Some(element) = &mut self.element {
            *element -= 1;
            if *element == 0 && self.armed {
                self.armed = false;
                self.out = false;
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Program(u8),
    Write(i64),
    Gate(bool),
    Clocks(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0u8..8).prop_map(Step::Program),
        3 => (12i64..40).prop_map(Step::Write),
        2 => any::<bool>().prop_map(Step::Gate),
        8 => (1usize..60).prop_map(Step::Clocks),
    ]
}

/// Reads the count through the port, as a guest does: latch, low byte, high byte.
fn read_count(counter: &Counter, cycle: i64) -> u16 {
    let mut counter = counter.clone();
    counter.latch_count(cycle);
    u16::from_le_bytes([counter.read(cycle), counter.read(cycle)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn counts_like_the_datasheet(mode in 0u8..6, steps in prop::collection::vec(step(), 1..40)) {
        let mut cycle = 0;
        let mut counter = Counter::new(true);
        let mut model = Model::new(Mode::from_bits(mode), true);
        counter.program(Access::LowHigh, Mode::from_bits(mode), false);
        for step in steps {
            // Guest accesses are a clock apart at least, as on an ISA bus.
            let clocks = if let Step::Clocks(clocks) = step { clocks } else { 1 };
            match step {
                Step::Program(bits) => {
                    counter.program(Access::LowHigh, Mode::from_bits(bits), false);
                    model = Model::new(Mode::from_bits(bits), model.gate);
                }
                Step::Write(count) => {
                    let [low, high, ..] = count.to_le_bytes();
                    counter.write(cycle, low);
                    counter.write(cycle, high);
                    model.write(count);
                }
                // The datasheet leaves open whether GATE stretches a strobe.
                Step::Gate(_) if model.mode == Mode::SoftwareTriggeredStrobe && !model.out => {}
                Step::Gate(high) => {
                    counter.set_gate(cycle, high);
                    model.set_gate(high);
                }
                Step::Clocks(_) => {}
            }
            counter.settle(cycle);
            let mut next_rise = counter.next_rise(cycle);
            for _ in 0..clocks {
                let before = model.out;
                model.clock();
                cycle += 1;
                counter.settle(cycle);
                prop_assert_eq!(counter.out(cycle), model.out, "OUT at {}: {:?} {:?}", cycle, &counter, &model);
                if let Some(element) = model.element {
                    let shown = i64::from(read_count(&counter, cycle));
                    let counted = element.rem_euclid(1 << 16);
                    prop_assert_eq!(shown, counted, "count at {}: {:?} {:?}", cycle, &counter, &model);
                }
                if model.out && !before {
                    prop_assert_eq!(next_rise, Some(cycle), "{:?} {:?}", &counter, &model);
                    next_rise = counter.next_rise(cycle);
                }
                let awaited = next_rise.is_none_or(|rise| rise > cycle);
                prop_assert!(awaited, "no rise at {:?}: {:?} {:?}", next_rise, &counter, &model);
            }
        }
    }
}

const TSC_HZ: u64 = 1_000 * PIT_HZ;

/// A PIT whose cycles are exactly 1,000 ticks.
fn pit() -> Pit {
    Pit::new(TickClock::new(TSC_HZ))
}

fn at(cycle: u64) -> u64 {
    cycle * 1_000
}

fn program(pit: &mut Pit, control: u8, bytes: &[u8], now: u64) {
    pit.write(CONTROL, control, now);
    let port = COUNTER_0 + u16::from(control >> SELECT_SHIFT);
    for &byte in bytes {
        pit.write(port, byte, now);
    }
}

#[test]
fn mode_0_interrupts_n_plus_1_clocks_after_the_write() {
    let mut pit = pit();
    program(&mut pit, 0x30, &[100, 0], at(10));
    assert!(!pit.irq_level(), "the control word takes OUT low");
    assert_eq!(pit.deadline(), at(111));
    pit.expire(at(110));
    assert!(!pit.irq_level());
    pit.expire(at(111));
    assert!(pit.irq_level() && pit.take_edge());
    assert_eq!(pit.deadline(), u64::MAX, "once");
}

#[test]
fn mode_2_and_3_interrupt_every_n_clocks() {
    for control in [0x34, 0x36] {
        let mut pit = pit();
        program(&mut pit, control, &[0xe8, 0x03], at(0));
        for tick in 1..10 {
            assert_eq!(pit.deadline(), at(1 + tick * 1000), "control word {control:#x}");
            pit.expire(pit.deadline());
            assert!(pit.take_edge() && pit.irq_level());
        }
    }
}

#[test]
fn a_very_fast_timer_is_held_back() {
    let mut pit = pit();
    program(&mut pit, 0x34, &[2, 0], at(0));
    let mut interrupts = 0;
    while pit.deadline() <= at(PIT_HZ / 100) {
        pit.expire(pit.deadline());
        interrupts += u32::from(pit.take_edge());
    }
    assert!((500..=1000).contains(&interrupts), "{interrupts} in 10 ms");
}

#[test]
fn zero_is_the_largest_count() {
    let mut pit = pit();
    program(&mut pit, 0x30, &[0, 0], at(0));
    assert_eq!(pit.deadline(), at(65_537));
    program(&mut pit, 0x31, &[0, 0], at(0));
    assert_eq!(pit.deadline(), at(10_001));
}

#[test]
fn bcd_counts_in_decimal() {
    let mut pit = pit();
    program(&mut pit, 0xb1, &[0x34, 0x12], at(0));
    pit.write(PORT_B, PORT_B_GATE_2, at(0));
    for (cycle, low, high) in [(1, 0x34, 0x12), (36, 0x99, 0x11), (1236, 0x99, 0x99)] {
        pit.write(CONTROL, 0x80, at(cycle));
        assert_eq!((pit.read(COUNTER_2, at(cycle)), pit.read(COUNTER_2, at(cycle))), (low, high), "cycle {cycle}");
    }
}

#[test]
fn one_byte_accesses() {
    let mut pit = pit();
    // LSB only: the count is 0x0050.
    program(&mut pit, 0x10, &[0x50], at(0));
    assert_eq!(pit.deadline(), at(0x51));
    assert_eq!((pit.read(COUNTER_0, at(1)), pit.read(COUNTER_0, at(2))), (0x50, 0x4f));
    // MSB only: 0x0200.
    program(&mut pit, 0x20, &[0x02], at(0));
    assert_eq!(pit.deadline(), at(0x201));
    assert_eq!(pit.read(COUNTER_0, at(2)), 0x01);
}

#[test]
fn latches_hold_until_they_are_read() {
    let mut pit = pit();
    program(&mut pit, 0x34, &[0, 0x10], at(0));
    pit.write(CONTROL, 0x00, at(0x101));
    pit.write(CONTROL, 0x00, at(0x201));
    assert_eq!(pit.read(COUNTER_0, at(0x301)), 0x00);
    assert_eq!(pit.read(COUNTER_0, at(0x301)), 0x0f, "of the first latch command");
    assert_eq!(pit.read(COUNTER_0, at(0x401)), 0x00);
    assert_eq!(pit.read(COUNTER_0, at(0x401)), 0x0c, "live again");
}

#[test]
fn read_back_gives_status_then_count() {
    let mut pit = pit();
    program(&mut pit, 0x30, &[0x34, 0x12], at(0));
    // Status and count of counter 0 and 1, before and after the count is loaded.
    pit.write(CONTROL, 0xc2, at(0));
    assert_eq!(pit.read(COUNTER_0, at(0)), 0x30 | STATUS_NULL_COUNT);
    assert_eq!((pit.read(COUNTER_0, at(0)), pit.read(COUNTER_0, at(0))), (0, 0));
    pit.write(CONTROL, 0xc2, at(1));
    pit.write(CONTROL, 0xc2, at(9));
    assert_eq!(pit.read(COUNTER_0, at(2)), 0x30);
    assert_eq!((pit.read(COUNTER_0, at(3)), pit.read(COUNTER_0, at(3))), (0x34, 0x12));
    // Status alone, OUT high.
    pit.write(CONTROL, 0xe2, at(0x2000));
    assert_eq!(pit.read(COUNTER_0, at(0x2000)), 0x30 | STATUS_OUT);
    // A control word ends the latches.
    pit.write(CONTROL, 0xc2, at(0x2000));
    program(&mut pit, 0x34, &[0x10, 0], at(0x3000));
    assert_eq!(pit.read(COUNTER_0, at(0x3001)), 0x10);
    assert_eq!(pit.read(CONTROL, at(0x3001)), 0xff);
}

#[test]
fn half_a_count_stops_mode_0() {
    let mut pit = pit();
    program(&mut pit, 0x30, &[100, 0], at(0));
    pit.write(COUNTER_0, 50, at(10));
    assert_eq!(pit.deadline(), u64::MAX);
    pit.write(COUNTER_0, 0, at(500));
    assert_eq!(pit.deadline(), at(551));
}

#[test]
fn port_61_gates_channel_2_and_shows_its_out() {
    let mut pit = pit();
    program(&mut pit, 0xb0, &[100, 0], at(0));
    assert_eq!(pit.read(PORT_B, at(1)) & !PORT_B_REFRESH, 0);
    pit.write(PORT_B, 0xff, at(50));
    assert_eq!(pit.read(PORT_B, at(149)) & !PORT_B_REFRESH, 0x0f);
    assert_eq!(pit.read(PORT_B, at(150)) & !PORT_B_REFRESH, 0x0f | PORT_B_OUT_2);
    // The refresh bit toggles every 18 cycles, 15 us.
    let toggles = (0..1800)
        .filter(|&cycle| (pit.read(PORT_B, at(cycle)) ^ pit.read(PORT_B, at(cycle + 1))) & PORT_B_REFRESH != 0);
    assert_eq!(toggles.count(), 100);
}
