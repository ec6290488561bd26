//! The MC146818 real-time clock with its battery-backed memory ("CMOS").
//!
//! [`Rtc`] is the device at ports 70h and 71h; its interrupt is IRQ 8. `calendar` is the date arithmetic, `interrupts` the flags
//! and alarms, `memory` what firmware leaves in the memory, `spec` the registers; `host` reads the machine's own clock. The time
//! is not counted: it is the crystal's whole seconds plus an offset, and setting the clock changes the offset.

mod calendar;
mod host;
mod interrupts;
mod memory;
pub mod spec;
#[cfg(test)]
mod tests;

pub use host::read_clock;

use super::oscillator::Oscillator;
use crate::time::TickClock;
use calendar::Calendar;
use spec::*;

/// MC146818.
#[derive(Clone, Debug)]
pub struct Rtc {
    crystal: Oscillator,
    /// The crystal's cycle at which the divider chain started (wrapping).
    divider_start: u64,
    /// Unix time minus the whole seconds of the divider chain (wrapping).
    offset_s: u64,
    /// The time while it stands still: SET, or the divider in reset.
    halted: Option<Calendar>,
    index: u8,
    register_a: u8,
    register_b: RegisterB,
    register_c: RegisterC,
    /// Seconds, minutes, hours alarm, as written.
    alarm: [u8; 3],
    memory: [u8; 128],
    /// Up to which chain cycle the flags of register C are worked out.
    flags_until: u64,
    /// The next second (Unix time) that matches the alarm.
    next_alarm_s: Option<u64>,
    /// The tick at which an enabled interrupt comes next; `u64::MAX` if none.
    deadline: u64,
}

impl Rtc {
    /// A clock that shows `unix_s` at guest tick 0, in a machine with so much memory below and above 4 GiB.
    #[must_use]
    pub fn new(clock: TickClock, unix_s: u64, low_ram_len_bytes: u64, high_ram_len_bytes: u64) -> Self {
        let mut rtc = Self {
            crystal: Oscillator::new(clock, CRYSTAL_HZ),
            divider_start: 0,
            offset_s: unix_s,
            halted: None,
            index: 0,
            register_a: A_DEFAULT,
            register_b: RegisterB::HOURS_24,
            register_c: RegisterC::empty(),
            alarm: [0; 3],
            memory: [0; 128],
            flags_until: 0,
            next_alarm_s: None,
            deadline: u64::MAX,
        };
        rtc.describe_memory(low_ram_len_bytes, high_ram_len_bytes);
        rtc
    }

    /// A reset of the machine, after which the guest's ticks start at 0 again. The battery keeps the time and the memory; "RESET
    /// clears PIE, AIE, UIE, SQWE, IRQF, PF, AF and UF".
    pub fn reset(&mut self, now: u64) {
        let chain = self.chain(now);
        let time = self.halted.unwrap_or_else(|| self.calendar(chain));
        self.crystal = self.crystal.restarted();
        self.divider_start = 0;
        self.flags_until = 0;
        self.register_b &= !(RegisterB::PERIODIC_INTERRUPT
            | RegisterB::ALARM_INTERRUPT
            | RegisterB::UPDATE_INTERRUPT
            | RegisterB::SQUARE_WAVE
            | RegisterB::SET);
        self.register_a = A_DEFAULT;
        self.register_c = RegisterC::empty();
        self.halted = None;
        self.index = 0;
        self.offset_s = time.to_unix();
        self.deadline = u64::MAX;
        self.next_alarm_s = self.find_alarm(self.unix_s(0));
    }

    /// Sets the clock from outside, as after a pause.
    pub fn set_unix_s(&mut self, unix_s: u64, now: u64) {
        let chain = self.chain(now);
        self.update_flags(chain);
        self.set_time(Calendar::from_unix(unix_s), chain);
        self.update_deadline(chain);
    }

    /// The IRQ 8 line: IRQF.
    #[must_use]
    pub const fn irq_level(&self) -> bool {
        self.register_c.contains(RegisterC::INTERRUPT)
    }

    /// The tick at which IRQ 8 rises next; `u64::MAX` for never.
    #[must_use]
    pub const fn deadline(&self) -> u64 {
        self.deadline
    }

    /// Makes IRQ 8 what it is at `now`.
    pub fn expire(&mut self, now: u64) {
        let chain = self.chain(now);
        self.update_flags(chain);
        self.update_deadline(chain);
    }

    /// A read of port 70h or 71h.
    pub fn read(&mut self, port: u16, now: u64) -> u8 {
        if port == DATA_PORT { self.read_register(self.index, now) } else { 0xff }
    }

    /// A write to port 70h or 71h.
    pub fn write(&mut self, port: u16, value: u8, now: u64) {
        match port {
            INDEX_PORT => self.index = value & INDEX_MASK,
            DATA_PORT => self.write_register(self.index, value, now),
            _ => {}
        }
    }

    fn read_register(&mut self, index: u8, now: u64) -> u8 {
        match index {
            SECONDS | MINUTES | HOURS | DAY_OF_WEEK..=YEAR | CENTURY => {
                let chain = self.chain(now);
                let time = self.halted.unwrap_or_else(|| self.calendar(chain));
                self.show(index, &time)
            }
            SECONDS_ALARM | MINUTES_ALARM | HOURS_ALARM => self.alarm.get(usize::from(index / 2)).copied().unwrap_or(0),
            REGISTER_A => {
                let in_second = self.chain(now) % CRYSTAL_HZ;
                let updating = self.halted.is_none() && in_second >= CRYSTAL_HZ - UPDATE_IN_PROGRESS_CYCLES;
                self.register_a | if updating { A_UPDATE_IN_PROGRESS } else { 0 }
            }
            REGISTER_B => self.register_b.bits(),
            REGISTER_C => {
                let chain = self.chain(now);
                self.update_flags(chain);
                let flags = core::mem::replace(&mut self.register_c, RegisterC::empty());
                self.update_deadline(chain);
                flags.bits()
            }
            REGISTER_D => D_VALID,
            _ => self.memory.get(usize::from(index)).copied().unwrap_or(0xff),
        }
    }

    fn write_register(&mut self, index: u8, value: u8, now: u64) {
        match index {
            SECONDS..=REGISTER_B | CENTURY => {
                let chain = self.chain(now);
                self.update_flags(chain);
                match index {
                    SECONDS_ALARM | MINUTES_ALARM | HOURS_ALARM => {
                        if let Some(alarm) = self.alarm.get_mut(usize::from(index / 2)) {
                            *alarm = value;
                        }
                    }
                    REGISTER_A => self.write_register_a(value, now),
                    REGISTER_B => self.write_register_b(value, chain),
                    _ => self.write_time(index, value, chain),
                }
                // Register A may have moved the chain.
                let chain = self.chain(now);
                self.next_alarm_s = self.find_alarm(self.unix_s(chain));
                self.update_deadline(chain);
            }
            // Read only.
            REGISTER_C | REGISTER_D => {}
            _ => {
                if let Some(byte) = self.memory.get_mut(usize::from(index)) {
                    *byte = value;
                }
            }
        }
    }

    fn write_time(&mut self, index: u8, value: u8, chain: u64) {
        let mut time = self.halted.unwrap_or_else(|| self.calendar(chain));
        self.put(index, value, &mut time);
        if self.halted.is_some() {
            self.halted = Some(time);
        } else {
            self.set_time(time, chain);
        }
    }

    /// Register A: the periodic rate, and the divider chain, whose reset stops the clock.
    fn write_register_a(&mut self, value: u8, now: u64) {
        let chain = self.chain(now);
        let was_reset = self.divider_is_reset();
        self.register_a = value & !A_UPDATE_IN_PROGRESS;
        match (was_reset, self.divider_is_reset()) {
            (false, true) if self.halted.is_none() => self.halted = Some(self.calendar(chain)),
            (true, false) => {
                self.divider_start = self.crystal.cycles(now).wrapping_sub(DIVIDER_RESTART_CYCLES);
                self.flags_until = DIVIDER_RESTART_CYCLES;
                self.resume_unless_halted(DIVIDER_RESTART_CYCLES);
            }
            _ => {}
        }
    }

    /// Register B. "SET: a program-initiated 1 aborts any update cycle; it clears UIE."
    fn write_register_b(&mut self, value: u8, chain: u64) {
        let mut new = RegisterB::from_bits_truncate(value);
        if new.contains(RegisterB::SET) {
            new.remove(RegisterB::UPDATE_INTERRUPT);
        }
        if new.contains(RegisterB::SET) && self.halted.is_none() {
            self.halted = Some(self.calendar(chain));
        }
        self.register_b = new;
        self.resume_unless_halted(chain);
        self.update_interrupt();
    }

    /// Lets the time run from where it was set, when neither SET nor the divider's reset holds it.
    fn resume_unless_halted(&mut self, chain: u64) {
        if !self.register_b.contains(RegisterB::SET)
            && !self.divider_is_reset()
            && let Some(time) = self.halted.take()
        {
            self.set_time(time, chain);
        }
    }

    fn set_time(&mut self, time: Calendar, chain: u64) {
        if self.halted.is_some() {
            self.halted = Some(time);
            return;
        }
        self.offset_s = time.to_unix().wrapping_sub(chain / CRYSTAL_HZ);
        self.flags_until = chain;
        self.next_alarm_s = self.find_alarm(self.unix_s(chain));
    }

    const fn divider_is_reset(&self) -> bool {
        self.register_a & A_DIVIDER_RESET == A_DIVIDER_RESET
    }

    /// Cycles that the divider chain has counted.
    fn chain(&mut self, now: u64) -> u64 {
        self.crystal.cycles(now).wrapping_sub(self.divider_start)
    }

    const fn unix_s(&self, chain: u64) -> u64 {
        (chain / CRYSTAL_HZ).wrapping_add(self.offset_s)
    }

    fn calendar(&self, chain: u64) -> Calendar {
        Calendar::from_unix(self.unix_s(chain))
    }

    /// A field of the time as its register shows it.
    fn show(&self, index: u8, time: &Calendar) -> u8 {
        match index {
            SECONDS => self.encode(time.second),
            MINUTES => self.encode(time.minute),
            HOURS if self.register_b.contains(RegisterB::HOURS_24) => self.encode(time.hour),
            HOURS => {
                let hour = time.hour % 12;
                self.encode(if hour == 0 { 12 } else { hour }) | if time.hour >= 12 { HOURS_PM } else { 0 }
            }
            DAY_OF_WEEK => self.encode(time.day_of_week),
            DAY_OF_MONTH => self.encode(time.day),
            MONTH => self.encode(time.month),
            YEAR => self.encode(time.year),
            // Firmware keeps the century in BCD whatever the data mode is.
            CENTURY => to_bcd(time.century),
            _ => 0,
        }
    }

    /// The inverse of [`Self::show`].
    fn put(&self, index: u8, value: u8, time: &mut Calendar) {
        match index {
            SECONDS => time.second = self.decode(value),
            MINUTES => time.minute = self.decode(value),
            HOURS if self.register_b.contains(RegisterB::HOURS_24) => time.hour = self.decode(value),
            HOURS => time.hour = self.decode(value & !HOURS_PM) % 12 + if value & HOURS_PM != 0 { 12 } else { 0 },
            DAY_OF_WEEK => time.day_of_week = self.decode(value),
            DAY_OF_MONTH => time.day = self.decode(value),
            MONTH => time.month = self.decode(value),
            YEAR => time.year = self.decode(value),
            CENTURY => time.century = from_bcd(value),
            _ => {}
        }
    }

    const fn encode(&self, value: u8) -> u8 {
        if self.register_b.contains(RegisterB::BINARY) { value } else { to_bcd(value) }
    }

    const fn decode(&self, value: u8) -> u8 {
        if self.register_b.contains(RegisterB::BINARY) { value } else { from_bcd(value) }
    }
}

const fn to_bcd(value: u8) -> u8 {
    ((value / 10 % 10) << 4) | (value % 10)
}

const fn from_bcd(value: u8) -> u8 {
    (value >> 4) * 10 + (value & 0xf)
}
