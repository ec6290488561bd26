//! The reset ports CF9h and 92h. Each write answers whether the machine is to be reset.

pub mod spec;
#[cfg(test)]
mod tests;

use spec::*;

/// State of the two ports.
#[derive(Clone, Copy, Default, Debug)]
pub struct ResetPorts {
    reset_control: u8,
    fast_init: bool,
}

impl ResetPorts {
    /// Reads the Reset Control register.
    #[must_use]
    pub const fn read_reset_control(&self) -> u8 {
        self.reset_control
    }

    /// Writes the Reset Control register.
    pub const fn write_reset_control(&mut self, value: u8) -> bool {
        let reset = value & !self.reset_control & RESET_CPU != 0;
        self.reset_control = value & (SYSTEM_RESET | RESET_CPU | FULL_RESET);
        reset
    }

    /// Reads port 92h. A20 is always on.
    #[must_use]
    pub const fn read_port_92(&self) -> u8 {
        FAST_A20 | self.fast_init as u8
    }

    /// Writes port 92h.
    pub const fn write_port_92(&mut self, value: u8) -> bool {
        let fast_init = value & FAST_INIT != 0;
        let reset = fast_init && !self.fast_init;
        self.fast_init = fast_init;
        reset
    }
}
