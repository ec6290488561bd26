//! [`ExitTrail`]: the last exits of a vCPU.

use alloc::vec::Vec;

/// How many exits are remembered.
pub const TRAIL_LEN: usize = 64;

/// A VM exit.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ExitMark {
    /// The exit-reason field.
    pub reason: u32,
    /// When it was, in ticks of the guest's clock.
    pub tick: u64,
}

/// The last exits of a vCPU. Each costs three stores.
#[derive(Clone, Debug)]
pub struct ExitTrail {
    /// The newest at `written - 1`, modulo the length.
    marks: [ExitMark; TRAIL_LEN],
    written: usize,
}

impl ExitTrail {
    /// No exits yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { marks: [ExitMark { reason: 0, tick: 0 }; TRAIL_LEN], written: 0 }
    }

    /// Remembers an exit.
    pub fn record(&mut self, reason: u32, tick: u64) {
        if let Some(mark) = self.marks.get_mut(self.written % TRAIL_LEN) {
            *mark = ExitMark { reason, tick };
        }
        self.written = self.written.wrapping_add(1);
    }

    /// What is remembered, the oldest first.
    #[must_use]
    pub fn exits(&self) -> Vec<ExitMark> {
        let kept = self.written.min(TRAIL_LEN);
        let oldest = if kept == TRAIL_LEN { self.written % TRAIL_LEN } else { 0 };
        self.marks.iter().cycle().skip(oldest).take(kept).copied().collect()
    }
}

impl Default for ExitTrail {
    fn default() -> Self {
        Self::new()
    }
}
