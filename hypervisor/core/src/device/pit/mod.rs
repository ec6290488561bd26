//! The Intel 8254 Programmable Interval Timer as a PC wires it.
//!
//! Counter 0's OUT is IRQ 0, counter 1 is the refresh timer, counter 2 is gated and read back through System Control Port B
//! (port 61h). [`Pit`] is the device, `counter` one counter, `spec` the registers. There is no thread of time here: a
//! count is worked out when it is read, and IRQ 0 is a deadline.

mod counter;
pub mod spec;
#[cfg(test)]
mod tests;

use super::oscillator::Oscillator;
use crate::time::TickClock;
use counter::Counter;
use spec::*;

/// The 8254 and port 61h.
#[derive(Clone, Debug)]
pub struct Pit {
    oscillator: Oscillator,
    counters: [Counter; 3],
    /// The writable bits of port 61h.
    port_b: u8,
    /// The cycle of counter 0's next rising OUT.
    next_rise: Option<i64>,
    /// The tick of `next_rise`; `u64::MAX` if there is none.
    deadline: u64,
    /// OUT of counter 0 rose since the last [`Self::take_edge`].
    edge: bool,
    level: bool,
}

impl Pit {
    /// The timer at guest tick 0: nothing programmed, OUT 0 high, gate 2 low.
    #[must_use]
    pub const fn new(clock: TickClock) -> Self {
        Self {
            oscillator: Oscillator::new(clock, PIT_HZ),
            counters: [Counter::new(true), Counter::new(true), Counter::new(false)],
            port_b: 0,
            next_rise: None,
            deadline: u64::MAX,
            edge: false,
            level: true,
        }
    }

    /// OUT of counter 0, the IRQ 0 line, as of the last write or [`Self::expire`].
    #[must_use]
    pub const fn irq_level(&self) -> bool {
        self.level
    }

    /// Whether IRQ 0 rose since the last call. Edges that nobody took are one: the 8259A would have latched no more.
    pub const fn take_edge(&mut self) -> bool {
        core::mem::replace(&mut self.edge, false)
    }

    /// The tick at which IRQ 0 rises next; `u64::MAX` for never.
    #[must_use]
    pub const fn deadline(&self) -> u64 {
        self.deadline
    }

    /// Makes IRQ 0 what it is at `now`. Edges that were missed count as one, and the next one keeps its phase.
    pub fn expire(&mut self, now: u64) {
        let cycle = self.cycle(now);
        self.note_edge(cycle);
        self.update_line(cycle);
    }

    /// A read of ports 40h to 43h, or 61h.
    pub fn read(&mut self, port: u16, now: u64) -> u8 {
        let cycle = self.cycle(now);
        match port {
            PORT_B => self.read_port_b(cycle),
            // "No-operation (3-state)" at the control word register: nothing drives the bus.
            _ => self.counter(port).map_or(0xff, |counter| counter.read(cycle)),
        }
    }

    /// A write to ports 40h to 43h, or 61h. Answers whether IRQ 0 was worked out anew.
    pub fn write(&mut self, port: u16, value: u8, now: u64) -> bool {
        let cycle = self.cycle(now);
        match port {
            PORT_B => {
                self.port_b = value & PORT_B_WRITABLE;
                let [_, _, counter_2] = &mut self.counters;
                counter_2.set_gate(cycle, value & PORT_B_GATE_2 != 0);
                false
            }
            CONTROL => self.write_control(cycle, value),
            COUNTER_0 => {
                self.note_edge(cycle);
                let [counter_0, ..] = &mut self.counters;
                counter_0.write(cycle, value);
                self.update_line(cycle);
                true
            }
            _ => {
                if let Some(counter) = self.counter(port) {
                    counter.write(cycle, value);
                }
                false
            }
        }
    }

    /// See [`Self::write`].
    fn write_control(&mut self, cycle: i64, value: u8) -> bool {
        let select = value >> SELECT_SHIFT;
        if select == SELECT_READ_BACK {
            for (index, counter) in self.counters.iter_mut().enumerate() {
                if value & (2 << index) == 0 {
                    continue;
                }
                if value & READ_BACK_NO_COUNT == 0 {
                    counter.latch_count(cycle);
                }
                if value & READ_BACK_NO_STATUS == 0 {
                    counter.latch_status(cycle);
                }
            }
            return false;
        }
        let Some(counter) = self.counters.get_mut(usize::from(select)) else { return false };
        let Some(access) = Access::from_bits(value >> ACCESS_SHIFT) else {
            counter.latch_count(cycle);
            return false;
        };
        let mode = Mode::from_bits(value >> MODE_SHIFT);
        if select == 0 {
            self.note_edge(cycle);
        }
        if let Some(counter) = self.counters.get_mut(usize::from(select)) {
            counter.program(access, mode, value & BCD != 0);
        }
        if select == 0 {
            self.update_line(cycle);
        }
        select == 0
    }

    fn read_port_b(&mut self, cycle: i64) -> u8 {
        let [_, _, counter_2] = &mut self.counters;
        counter_2.settle(cycle);
        let mut value = self.port_b;
        if counter_2.out(cycle) {
            value |= PORT_B_OUT_2;
        }
        let refreshes = cycle.unsigned_abs() / REFRESH_CYCLES;
        if refreshes & 1 != 0 {
            value |= PORT_B_REFRESH;
        }
        value
    }

    fn counter(&mut self, port: u16) -> Option<&mut Counter> {
        self.counters.get_mut(usize::from(port.wrapping_sub(COUNTER_0)))
    }

    fn cycle(&mut self, now: u64) -> i64 {
        i64::try_from(self.oscillator.cycles(now)).unwrap_or(i64::MAX)
    }

    /// Records that the awaited edge of OUT 0 has come by `cycle`.
    fn note_edge(&mut self, cycle: i64) {
        if self.next_rise.is_some_and(|rise| rise <= cycle) {
            self.edge = true;
            self.next_rise = None;
        }
    }

    /// Works out OUT 0 and its next edge, after whatever changed it.
    fn update_line(&mut self, cycle: i64) {
        let [counter_0, ..] = &mut self.counters;
        counter_0.settle(cycle);
        self.level = counter_0.out(cycle);
        self.next_rise = counter_0.next_rise(cycle);
        self.deadline = match self.next_rise {
            Some(rise) => self.oscillator.tick_of(rise.unsigned_abs()),
            None => u64::MAX,
        };
    }
}
