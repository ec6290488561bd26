//! The 16-byte receiver FIFO.

use super::spec::FIFO_LEN;

/// A ring of [`FIFO_LEN`] bytes.
#[derive(Clone, Default, Debug)]
pub(super) struct Fifo {
    bytes: [u8; FIFO_LEN],
    head: usize,
    len: usize,
}

impl Fifo {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a byte; `false` if there is no room.
    pub(super) fn push(&mut self, byte: u8) -> bool {
        if self.len == FIFO_LEN {
            return false;
        }
        if let Some(slot) = self.bytes.get_mut((self.head + self.len) % FIFO_LEN) {
            *slot = byte;
        }
        self.len += 1;
        true
    }

    /// Takes the oldest byte.
    pub(super) fn pop(&mut self) -> Option<u8> {
        if self.len == 0 {
            return None;
        }
        let byte = self.bytes.get(self.head).copied();
        self.head = (self.head + 1) % FIFO_LEN;
        self.len -= 1;
        byte
    }

    pub(super) const fn clear(&mut self) {
        self.len = 0;
    }
}
