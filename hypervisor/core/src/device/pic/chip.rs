//! One 8259A: requests, priorities, command words. The pair and its ports are in the parent module.

use super::spec::*;

/// Which initialization command word the data port expects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expect {
    /// None: the data port is the mask (OCW1).
    Ocw1,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Clone, Debug)]
pub(super) struct Chip {
    /// The IR inputs as they are now.
    lines: u8,
    /// Edge sense latches: a low-to-high transition that was not acknowledged yet.
    edges: u8,
    /// In-service register.
    isr: u8,
    /// Interrupt mask register.
    imr: u8,
    /// Inputs that are level triggered by the ELCR.
    elcr: u8,
    /// Inputs that a slave drives.
    cascade: u8,
    vector_base: u8,
    /// The level of the lowest priority; the next one (cyclic) has the highest.
    lowest: u8,
    expect: Expect,
    single: bool,
    needs_icw4: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
    special_mask: bool,
    poll: bool,
    read_isr: bool,
}

impl Chip {
    /// A chip whose inputs in `cascade` are driven by slaves. As long as nobody has initialized it, it asks for nothing: all
    /// inputs are masked.
    pub(super) const fn new(cascade: u8) -> Self {
        Self {
            lines: 0,
            edges: 0,
            isr: 0,
            imr: 0xff,
            elcr: 0,
            cascade,
            vector_base: 0,
            lowest: 7,
            expect: Expect::Ocw1,
            single: false,
            needs_icw4: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_fully_nested: false,
            special_mask: false,
            poll: false,
            read_isr: false,
        }
    }

    /// The interrupt request register.
    ///
    /// An edge stays latched until it is acknowledged, also if the line falls before (a real 8259A then gives its spurious
    /// level 7): a CPU that is not running just now must not lose a tick. A slave's INT is taken as a level, so a request that
    /// the slave took back leaves nothing behind in the master.
    pub(super) const fn irr(&self) -> u8 {
        let level_triggered = self.elcr | self.cascade;
        (self.edges & !level_triggered) | (self.lines & level_triggered)
    }

    /// The interrupt mask register.
    pub(super) const fn mask(&self) -> u8 {
        self.imr
    }

    /// The vector of `level`.
    pub(super) const fn vector(&self, level: u8) -> u8 {
        self.vector_base | level
    }

    /// Drives one IR input.
    pub(super) const fn set_line(&mut self, level: u8, high: bool) {
        let bit = 1 << (level & 7);
        if high {
            self.edges |= bit & !self.lines;
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
    }

    pub(super) const fn elcr(&self) -> u8 {
        self.elcr
    }

    /// Chooses edge or level for each input. An input that changes starts with a clear edge latch.
    pub(super) const fn set_elcr(&mut self, level_triggered: u8) {
        self.edges &= !(self.elcr ^ level_triggered);
        self.elcr = level_triggered;
    }

    /// The level for which INT is raised: the highest unmasked request, if nothing in service holds it off.
    pub(super) fn request(&self) -> Option<u8> {
        let requests = self.irr() & !self.imr;
        if requests == 0 || self.expect != Expect::Ocw1 {
            return None;
        }
        let rank = self.rank(requests);
        let level = self.level_of(rank);
        // "When a mask bit is set in special mask mode, it inhibits further interrupts at that level and enables interrupts
        // from all other levels that are not masked."
        let in_service = if self.special_mask { self.isr & !self.imr } else { self.isr };
        if in_service != 0 {
            let blocked_from = self.rank(in_service);
            // Special fully nested mode: a slave in service is not locked out from the master's priority logic.
            let same_slave = self.special_fully_nested && blocked_from == rank && self.cascade & (1 << level) != 0;
            if blocked_from <= rank && !same_slave {
                return None;
            }
        }
        Some(level)
    }

    /// The CPU's interrupt acknowledge: the request becomes in service. `None` if there is no request.
    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        let level = self.request()?;
        self.edges &= !(1 << level);
        if !self.auto_eoi {
            self.isr |= 1 << level;
        } else if self.rotate_on_auto_eoi {
            self.lowest = level;
        }
        Some(level)
    }

    /// A read of the command port.
    pub(super) fn read_command(&mut self) -> u8 {
        if self.poll {
            return self.read_poll();
        }
        if self.read_isr { self.isr } else { self.irr() }
    }

    /// A read of the data port.
    pub(super) fn read_data(&mut self) -> u8 {
        if self.poll {
            return self.read_poll();
        }
        self.imr
    }

    /// "The 8259A treats the next RD# pulse as an interrupt acknowledge, sets the appropriate IS bit if there is a request,
    /// and reads the priority level."
    fn read_poll(&mut self) -> u8 {
        self.poll = false;
        self.acknowledge().map_or(0, |level| POLL_INTERRUPT | level)
    }

    /// A write to the command port: ICW1, OCW2 or OCW3.
    pub(super) fn write_command(&mut self, value: u8) {
        if value & ICW1_SELECT != 0 {
            self.initialize(value);
        } else if value & OCW3_SELECT != 0 {
            self.write_ocw3(value);
        } else {
            self.write_ocw2(value);
        }
    }

    /// A write to the data port: the next ICW, or the mask.
    pub(super) const fn write_data(&mut self, value: u8) {
        match self.expect {
            Expect::Ocw1 => self.imr = value,
            Expect::Icw2 => {
                self.vector_base = value & ICW2_VECTOR;
                self.expect = if !self.single {
                    Expect::Icw3
                } else if self.needs_icw4 {
                    Expect::Icw4
                } else {
                    Expect::Ocw1
                };
            }
            // The wiring of a PC is fixed: what ICW3 says of it changes nothing.
            Expect::Icw3 => self.expect = if self.needs_icw4 { Expect::Icw4 } else { Expect::Ocw1 },
            Expect::Icw4 => {
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                self.special_fully_nested = value & ICW4_SPECIAL_FULLY_NESTED != 0;
                self.expect = Expect::Ocw1;
            }
        }
    }

    /// ICW1: "the edge sense circuit is reset, the interrupt mask register is cleared, IR7 input is assigned priority 7,
    /// special mask mode is cleared and status read is set to IRR. If IC4 = 0, all functions selected in ICW4 are set to zero."
    /// ICW1's LTIM has no function beside an ELCR.
    const fn initialize(&mut self, icw1: u8) {
        self.edges = 0;
        self.isr = 0;
        self.imr = 0;
        self.lowest = 7;
        self.special_mask = false;
        self.poll = false;
        self.read_isr = false;
        self.rotate_on_auto_eoi = false;
        self.auto_eoi = false;
        self.special_fully_nested = false;
        self.single = icw1 & ICW1_SINGLE != 0;
        self.needs_icw4 = icw1 & ICW1_NEEDS_ICW4 != 0;
        self.expect = Expect::Icw2;
    }

    /// OCW2: end of interrupt and rotation.
    fn write_ocw2(&mut self, value: u8) {
        let rotate = value & OCW2_ROTATE != 0;
        let level = value & OCW2_LEVEL;
        match (value & OCW2_EOI != 0, value & OCW2_SPECIFIC != 0) {
            (false, false) => self.rotate_on_auto_eoi = rotate,
            // "Set priority command"; without R this is "no operation".
            (false, true) if rotate => self.lowest = level,
            (false, true) => {}
            (true, specific) => {
                let Some(level) = (if specific { Some(level) } else { self.highest_in_service() }) else { return };
                self.isr &= !(1 << level);
                if rotate {
                    self.lowest = level;
                }
            }
        }
    }

    /// OCW3: special mask mode, poll, what the command port reads.
    const fn write_ocw3(&mut self, value: u8) {
        if value & OCW3_ENABLE_SPECIAL_MASK != 0 {
            self.special_mask = value & OCW3_SPECIAL_MASK != 0;
        }
        if value & OCW3_POLL != 0 {
            self.poll = true;
        } else if value & OCW3_READ_REGISTER != 0 {
            self.read_isr = value & OCW3_READ_ISR != 0;
        }
    }

    /// What a non-specific EOI ends. "An IS bit that is masked by an IMR bit will not be cleared by a non-specific EOI if the
    /// 8259A is in the special mask mode."
    fn highest_in_service(&self) -> Option<u8> {
        let in_service = if self.special_mask { self.isr & !self.imr } else { self.isr };
        (in_service != 0).then(|| self.level_of(self.rank(in_service)))
    }

    /// The priority of the most urgent level in a mask that is not empty: 0 is the highest.
    #[expect(clippy::cast_possible_truncation, reason = "trailing_zeros of a u8 is at most 8")]
    const fn rank(&self, levels: u8) -> u8 {
        levels.rotate_right((self.lowest as u32 + 1) & 7).trailing_zeros() as u8
    }

    const fn level_of(&self, rank: u8) -> u8 {
        (rank + self.lowest + 1) & 7
    }
}
