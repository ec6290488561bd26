//! A byte ring that keeps the newest bytes: serial output of a guest, the host's own log.

use alloc::boxed::Box;
use alloc::vec::Vec;

/// The newest `capacity` bytes of a stream, with a count of all bytes ever written.
///
/// Writing never allocates and never fails: the oldest bytes give way.
#[derive(Clone, Debug)]
pub struct ByteRing {
    bytes: Box<[u8]>,
    written: u64,
}

impl ByteRing {
    /// A ring that keeps `capacity` bytes (at least 1).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { bytes: alloc::vec![0; capacity.max(1)].into_boxed_slice(), written: 0 }
    }

    /// Appends one byte.
    pub fn push(&mut self, byte: u8) {
        let at = self.index(self.written);
        if let Some(slot) = self.bytes.get_mut(at) {
            *slot = byte;
        }
        self.written += 1;
    }

    /// Appends bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.push(byte);
        }
    }

    /// How many bytes were ever written: the position that the next byte gets.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// The position of the oldest byte still kept.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.written.saturating_sub(self.bytes.len() as u64)
    }

    /// The kept byte at `position`.
    #[must_use]
    pub fn get(&self, position: u64) -> Option<u8> {
        if position < self.oldest() || position >= self.written {
            return None;
        }
        self.bytes.get(self.index(position)).copied()
    }

    /// A copy of all bytes from `position` on (or from the oldest kept one, if that is newer).
    #[must_use]
    pub fn since(&self, position: u64) -> Vec<u8> {
        (position.max(self.oldest())..self.written).filter_map(|position| self.get(position)).collect()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.written = 0;
    }

    fn index(&self, position: u64) -> usize {
        usize::try_from(position % self.bytes.len() as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keeps_the_newest(capacity in 1usize..40, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut ring = ByteRing::new(capacity);
            ring.extend(&bytes);
            let kept = bytes.len().min(capacity);
            prop_assert_eq!(ring.since(0), &bytes[bytes.len() - kept..]);
            prop_assert_eq!(ring.written(), bytes.len() as u64);
            prop_assert_eq!(ring.get(ring.written()), None);
        }
    }
}
