//! The PC's pair of Intel 8259A interrupt controllers.
//!
//! [`PicPair`] is the master and the slave at its input 2, with the chipset's edge/level control registers. `chip` is one
//! 8259A, `spec` its command words. The neighbour is [`crate::device::board`], which drives the lines.

mod chip;
pub mod spec;
#[cfg(test)]
mod tests;

use chip::Chip;
use spec::{
    CASCADE_INPUT, ELCR_MASTER, ELCR_MASTER_WRITABLE, ELCR_SLAVE, ELCR_SLAVE_WRITABLE, MASTER_COMMAND, MASTER_DATA,
    SLAVE_COMMAND, SLAVE_DATA, SPURIOUS_LEVEL,
};

/// Master and slave 8259A, cascaded as in a PC.
#[derive(Clone, Debug)]
pub struct PicPair {
    master: Chip,
    slave: Chip,
}

impl Default for PicPair {
    fn default() -> Self {
        Self::new()
    }
}

impl PicPair {
    /// The pair after a reset: everything masked until the guest initializes it.
    #[must_use]
    pub const fn new() -> Self {
        Self { master: Chip::new(1 << CASCADE_INPUT), slave: Chip::new(0) }
    }

    /// Drives the line of ISA interrupt `irq` (0 to 15; 2 is the cascade and cannot be driven).
    pub fn set_line(&mut self, irq: u8, high: bool) {
        match irq {
            CASCADE_INPUT => {}
            0..=7 => self.master.set_line(irq, high),
            8..=15 => {
                self.slave.set_line(irq - 8, high);
                self.update_cascade();
            }
            _ => {}
        }
    }

    /// The INT output to the CPU.
    #[must_use]
    pub fn pending(&self) -> bool {
        self.master.request().is_some()
    }

    /// Whether an input that is not masked can raise the INT output.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        const CASCADE: u8 = 1 << CASCADE_INPUT;
        let (master, slave) = (!self.master.mask(), !self.slave.mask());
        master & !CASCADE != 0 || master & CASCADE != 0 && slave != 0
    }

    /// The CPU's interrupt acknowledge cycle: the vector. If the request is gone meanwhile, it is the spurious one (IRQ 7, or
    /// IRQ 15 when the slave took its request back), for which nothing is in service.
    pub fn acknowledge(&mut self) -> u8 {
        match self.master.acknowledge() {
            None => self.master.vector(SPURIOUS_LEVEL),
            Some(CASCADE_INPUT) => {
                let level = self.slave.acknowledge().unwrap_or(SPURIOUS_LEVEL);
                self.update_cascade();
                self.slave.vector(level)
            }
            Some(level) => self.master.vector(level),
        }
    }

    /// A read of one of the pair's ports (see [`spec`]). Other ports read all-ones.
    pub fn read(&mut self, port: u16) -> u8 {
        match port {
            MASTER_COMMAND => self.master.read_command(),
            MASTER_DATA => self.master.read_data(),
            SLAVE_COMMAND | SLAVE_DATA => {
                let value = if port == SLAVE_COMMAND { self.slave.read_command() } else { self.slave.read_data() };
                self.update_cascade();
                value
            }
            ELCR_MASTER => self.master.elcr(),
            ELCR_SLAVE => self.slave.elcr(),
            _ => 0xff,
        }
    }

    /// A write to one of the pair's ports (see [`spec`]). Writes to other ports do nothing.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            // The master's state does not change the slave's INT.
            MASTER_COMMAND => return self.master.write_command(value),
            MASTER_DATA => return self.master.write_data(value),
            SLAVE_COMMAND => self.slave.write_command(value),
            SLAVE_DATA => self.slave.write_data(value),
            ELCR_MASTER => return self.master.set_elcr(value & ELCR_MASTER_WRITABLE),
            ELCR_SLAVE => self.slave.set_elcr(value & ELCR_SLAVE_WRITABLE),
            _ => return,
        }
        self.update_cascade();
    }

    fn update_cascade(&mut self) {
        self.master.set_line(CASCADE_INPUT, self.slave.request().is_some());
    }
}
