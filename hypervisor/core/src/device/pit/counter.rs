//! One counter of the 8254: its six modes as functions of the oscillator's cycle.
//!
//! Nothing counts here. A counter remembers the cycle at which its count was loaded; value, OUT pin and the next rising edge of
//! OUT follow from the cycle that is asked about (8254 datasheet, "Mode Definitions"). Cycles are signed, because a period can have
//! begun before cycle 0. They stay far below 2^63 (a quarter of a million years), so sums wrap instead of being checked.

use super::spec::*;

/// A periodic OUT gives an edge at most this often (10 us): a guest that asks for a faster timer than any PC had gets merged
/// ticks, not a host that does nothing else.
const MIN_EDGE_CYCLES: i64 = 12;

/// The counting element.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Counting {
    /// No count was loaded since the control word.
    Idle,
    /// Counts; the count was loaded at this cycle (which may lie before cycle 0, or one ahead).
    Since(i64),
    /// GATE stopped it so many cycles after the load.
    Held(i64),
}

/// A written count on its way into the counting element.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Written {
    count: i64,
    /// When it is loaded; `None`: at the next rising GATE.
    load_at: Option<i64>,
    /// How far into its period the new count begins: mode 3 loads at the end of a half-cycle.
    phase: i64,
}

/// One 8254 counter. All cycles are those of the PIT's oscillator.
#[derive(Clone, Debug)]
pub(super) struct Counter {
    access: Access,
    mode: Mode,
    bcd: bool,
    gate: bool,
    counting: Counting,
    /// The count in use, N: 1 to 65,536 (10,000 in BCD).
    count: i64,
    written: Option<Written>,
    /// The low byte of a two-byte count, when the high one is awaited.
    low_byte: Option<u8>,
    read_high_next: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Counter {
    /// A counter that nobody has programmed. The datasheet leaves its state undefined; here it stands still.
    pub(super) const fn new(gate: bool) -> Self {
        Self {
            access: Access::LowHigh,
            mode: Mode::SquareWave,
            bcd: false,
            gate,
            counting: Counting::Idle,
            count: 1 << 16,
            written: None,
            low_byte: None,
            read_high_next: false,
            latched_count: None,
            latched_status: None,
        }
    }

    /// A control word: "all control logic is immediately reset and OUT goes to a known initial state".
    pub(super) const fn program(&mut self, access: Access, mode: Mode, bcd: bool) {
        *self = Self { access, mode, bcd, ..Self::new(self.gate) };
    }

    /// Loads a written count whose time has come.
    pub(super) fn settle(&mut self, cycle: i64) {
        if let Some(Written { count, load_at: Some(load_at), phase }) = self.written
            && load_at <= cycle
        {
            self.written = None;
            self.count = count;
            self.counting =
                if self.runs() { Counting::Since(load_at.wrapping_sub(phase)) } else { Counting::Held(phase) };
        }
    }

    /// A write of one byte of the count.
    pub(super) fn write(&mut self, cycle: i64, value: u8) {
        self.settle(cycle);
        let raw = match self.access {
            Access::Low => u16::from(value),
            Access::High => u16::from_be_bytes([value, 0]),
            Access::LowHigh => match self.low_byte.take() {
                Some(low) => u16::from_le_bytes([low, value]),
                None => {
                    self.low_byte = Some(value);
                    // Mode 0: "writing the first byte disables counting. OUT is set low immediately."
                    if self.mode == Mode::InterruptOnTerminalCount {
                        self.counting = Counting::Idle;
                        self.written = None;
                    }
                    return;
                }
            },
        };
        self.written = Some(self.plan_load(cycle, self.decode(raw)));
    }

    /// When and where in its period a new count takes effect.
    fn plan_load(&self, cycle: i64, count: i64) -> Written {
        let next_clock = Some(cycle.wrapping_add(1));
        let at_once = Written { count, load_at: next_clock, phase: 0 };
        // GATE rose since the last clock: what the next clock loads is this count.
        if let Counting::Since(start) = self.counting
            && start > cycle
        {
            return Written { load_at: Some(start), ..at_once };
        }
        if self.mode.needs_trigger() {
            return Written { load_at: self.written.and_then(|written| written.load_at), ..at_once };
        }
        if !self.mode.is_periodic() {
            return at_once;
        }
        // "Writing a new count while counting does not affect the current counting sequence": mode 2 loads it at the end of
        // the period, mode 3 at the end of the half-cycle.
        match self.counting {
            Counting::Idle => at_once,
            // GATE is low: its rise will load the count, or has been and is about to.
            Counting::Held(_) => Written { load_at: self.written.and_then(|written| written.load_at), ..at_once },
            Counting::Since(start) => {
                let position = self.position(cycle);
                let period_start = cycle.max(start).wrapping_sub(position);
                if self.mode == Mode::SquareWave && position < self.high_half(self.count) {
                    let load_at = period_start.wrapping_add(self.high_half(self.count));
                    Written { count, load_at: Some(load_at), phase: self.high_half(count) }
                } else {
                    Written { count, load_at: Some(period_start.wrapping_add(self.count)), phase: 0 }
                }
            }
        }
    }

    /// Drives GATE.
    pub(super) fn set_gate(&mut self, cycle: i64, high: bool) {
        if high == self.gate {
            return;
        }
        self.settle(cycle);
        self.gate = high;
        if high { self.gate_rises(cycle) } else { self.gate_falls(cycle) }
    }

    fn gate_rises(&mut self, cycle: i64) {
        if self.mode.is_periodic() || self.mode.needs_trigger() {
            // A trigger: load (or reload) on the next clock.
            let load_at = cycle.wrapping_add(1);
            if let Some(written) = &mut self.written {
                *written = Written { load_at: Some(load_at), phase: 0, ..*written };
            } else if self.counting != Counting::Idle {
                self.counting = Counting::Since(load_at);
            }
        } else if let Counting::Held(elapsed) = self.counting {
            self.counting = Counting::Since(cycle.wrapping_sub(elapsed));
        }
    }

    fn gate_falls(&mut self, cycle: i64) {
        if self.mode.needs_trigger() {
            return;
        }
        let Counting::Since(start) = self.counting else { return };
        self.counting = Counting::Held(self.elapsed(cycle));
        if !self.mode.is_periodic() {
            return;
        }
        if start > cycle {
            // "A trigger will be detected no matter when it occurs; a high logic level does not have to be maintained until the
            // next rising edge of CLK."
            self.written = Some(Written { count: self.count, load_at: Some(start), phase: 0 });
        } else if let Some(written) = &mut self.written {
            written.load_at = None;
        }
    }

    /// The OUT pin.
    pub(super) fn out(&self, cycle: i64) -> bool {
        let counting = self.counting != Counting::Idle;
        let elapsed = self.elapsed(cycle);
        match self.mode {
            // Low from the control word (or a new count) on, high from the terminal count on.
            Mode::InterruptOnTerminalCount => counting && self.written.is_none() && elapsed >= self.count,
            Mode::HardwareRetriggerableOneShot => !counting || elapsed >= self.count,
            // Low for the one cycle in which the count is 1. (A count of 1 "is illegal": OUT just stays high.)
            Mode::RateGenerator => !self.gate || !counting || self.count == 1 || self.position(cycle) != self.count - 1,
            Mode::SquareWave => !self.gate || !counting || self.position(cycle) < self.high_half(self.count),
            // Low for one cycle at the terminal count.
            Mode::SoftwareTriggeredStrobe | Mode::HardwareTriggeredStrobe => !counting || elapsed != self.count,
        }
    }

    /// The first cycle behind `cycle` at which OUT rises, if nothing is written meanwhile. Call [`Self::settle`] before.
    pub(super) fn next_rise(&self, cycle: i64) -> Option<i64> {
        if !self.runs() {
            return None;
        }
        let Some(Written { count, load_at: Some(load_at), phase }) = self.written else {
            return self.next_rise_of_count(cycle);
        };
        if !self.mode.is_periodic() {
            // A strobe of the old count ends with the load.
            let strobes = Self::strobe_cycle(self.mode) != 0 && !self.out(cycle);
            let terminal = load_at.wrapping_add(count + Self::strobe_cycle(self.mode));
            return Some(if strobes { load_at } else { terminal });
        }
        // The end of the running period is an edge, the first load and the middle of a square wave are none.
        let edge_at_load = phase == 0 && matches!(self.counting, Counting::Since(start) if start < load_at);
        let rise = if edge_at_load { load_at } else { load_at.wrapping_add(count - phase) };
        (count > 1 || edge_at_load).then_some(rise.max(cycle.wrapping_add(1)))
    }

    /// [`Self::next_rise`] as long as no new count is loaded.
    fn next_rise_of_count(&self, cycle: i64) -> Option<i64> {
        let Counting::Since(start) = self.counting else { return None };
        if !self.mode.is_periodic() {
            let rise = start.wrapping_add(self.count + Self::strobe_cycle(self.mode));
            return (rise > cycle).then_some(rise);
        }
        if self.count == 1 {
            return None;
        }
        let mut earliest = cycle.max(start).wrapping_add(1);
        if self.count < MIN_EDGE_CYCLES {
            earliest = earliest.wrapping_add(MIN_EDGE_CYCLES);
        }
        let periods = earliest.wrapping_sub(start).wrapping_add(self.count - 1) / self.count;
        Some(start.wrapping_add(periods.wrapping_mul(self.count)))
    }

    /// The modes that strobe have OUT low during the terminal count, so it rises one cycle later.
    const fn strobe_cycle(mode: Mode) -> i64 {
        matches!(mode, Mode::SoftwareTriggeredStrobe | Mode::HardwareTriggeredStrobe) as i64
    }

    /// Latches the count, unless one is latched: "the counter latch command is ignored; the count read will be the count at
    /// the time the first was issued".
    pub(super) fn latch_count(&mut self, cycle: i64) {
        self.settle(cycle);
        if self.latched_count.is_none() {
            self.latched_count = Some(self.value(cycle));
        }
    }

    /// Latches the status byte, unless one is latched.
    pub(super) fn latch_status(&mut self, cycle: i64) {
        self.settle(cycle);
        if self.latched_status.is_some() {
            return;
        }
        let mut status = (self.access as u8) << ACCESS_SHIFT | (self.mode as u8) << MODE_SHIFT | u8::from(self.bcd);
        if self.out(cycle) {
            status |= STATUS_OUT;
        }
        if self.written.is_some() || self.counting == Counting::Idle {
            status |= STATUS_NULL_COUNT;
        }
        self.latched_status = Some(status);
    }

    /// A read of the counter's port: latched status first, then the latched count, else the count as it is.
    pub(super) fn read(&mut self, cycle: i64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        self.settle(cycle);
        let [low, high] = self.latched_count.unwrap_or_else(|| self.value(cycle)).to_le_bytes();
        let (byte, complete) = match self.access {
            Access::Low => (low, true),
            Access::High => (high, true),
            Access::LowHigh => {
                self.read_high_next = !self.read_high_next;
                if self.read_high_next { (low, false) } else { (high, true) }
            }
        };
        if complete {
            self.latched_count = None;
        }
        byte
    }

    /// The counting element's value as the port shows it.
    fn value(&self, cycle: i64) -> u16 {
        if self.counting == Counting::Idle {
            return 0;
        }
        let value = match self.mode {
            Mode::RateGenerator => self.count - self.position(cycle),
            // Counts down by two in each half, from N, or from N - 1 if N is odd.
            Mode::SquareWave => {
                let position = self.position(cycle);
                let high_half = self.high_half(self.count);
                let in_half = if position < high_half { position } else { position - high_half };
                (self.count & !1) - 2 * in_half
            }
            // Counts on through 0 ("wraps around to the highest count").
            _ => self.count.wrapping_sub(self.elapsed(cycle)),
        };
        self.encode(value)
    }

    /// Cycles from the load to `cycle`.
    fn elapsed(&self, cycle: i64) -> i64 {
        match self.counting {
            Counting::Idle => 0,
            Counting::Since(start) => cycle.wrapping_sub(start).max(0),
            Counting::Held(elapsed) => elapsed,
        }
    }

    /// Cycles from the begin of the period to `cycle`.
    fn position(&self, cycle: i64) -> i64 {
        let elapsed = self.elapsed(cycle);
        // Dividing is dear, and most often the period has just begun.
        if elapsed < self.count { elapsed } else { elapsed % self.count }
    }

    /// Mode 3: "OUT will be high for (N + 1)/2 counts and low for (N - 1)/2 counts" if N is odd, else half and half.
    const fn high_half(&self, count: i64) -> i64 {
        (count + 1) / 2
    }

    /// Whether GATE lets the counter count; in modes 1 and 5 it only triggers.
    const fn runs(&self) -> bool {
        self.gate || self.mode.needs_trigger()
    }

    /// The number of cycles that a written count stands for: 0 is the largest one.
    fn decode(&self, raw: u16) -> i64 {
        let count = if self.bcd {
            [12, 8, 4, 0].iter().fold(0, |value, shift| value * 10 + i64::from(raw >> shift & 0xf))
        } else {
            i64::from(raw)
        };
        if count == 0 { self.modulus() } else { count }
    }

    /// A count as the port shows it, modulo the counter's range.
    fn encode(&self, value: i64) -> u16 {
        if self.bcd {
            return Self::encode_bcd(value);
        }
        let [low, high, ..] = value.to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    #[cold]
    fn encode_bcd(value: i64) -> u16 {
        let value = value.rem_euclid(10_000);
        let digits = ((value / 1000) << 12) | ((value / 100 % 10) << 8) | ((value / 10 % 10) << 4) | (value % 10);
        u16::try_from(digits).unwrap_or(0)
    }

    const fn modulus(&self) -> i64 {
        if self.bcd { 10_000 } else { 1 << 16 }
    }
}
