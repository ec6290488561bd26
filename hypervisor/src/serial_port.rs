//! The host's side of a VM's serial port: what the guest wrote, kept and passed on.

use crate::logger;
use lamina_core::ring::ByteRing;
use lamina_core::vm::SerialLines;
use lamina_hw::serial;

/// Bytes of a guest's serial output that `vm log` can show.
const LOG_BYTES: usize = 64 * 1024;

/// Where a guest's serial output goes.
pub(crate) struct SerialPort {
    log: ByteRing,
    lines: SerialLines,
    /// Whole lines are also shown on the host's console.
    tee: bool,
    /// The terminal is attached: every byte goes there.
    attached: bool,
}

impl SerialPort {
    /// The port of the VM called `name`.
    pub(crate) fn new(name: &str, tee: bool) -> Self {
        Self { log: ByteRing::new(LOG_BYTES), lines: SerialLines::new(name), tee, attached: false }
    }

    /// The guest wrote these bytes.
    pub(crate) fn guest_wrote(&mut self, bytes: &[u8]) {
        self.log.extend(bytes);
        if self.attached {
            serial::write(bytes);
        }
        if self.tee {
            self.lines.feed(bytes, &mut logger::say);
        }
    }

    /// The guest writes no more: a line it has begun is shown as it is.
    pub(crate) fn guest_ended(&mut self) {
        if self.tee {
            self.lines.flush(&mut logger::say);
        }
    }

    /// Attaches the terminal, or detaches it.
    pub(crate) fn set_attached(&mut self, attached: bool) {
        self.attached = attached;
    }

    /// What the guest wrote, as far as it is kept.
    pub(crate) const fn log(&self) -> &ByteRing {
        &self.log
    }
}
