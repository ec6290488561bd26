//! The other side for the tests of this folder: memory that can give pages away and run out, and a driver's half of a
//! virtqueue, with the numbers of the specification's C header.

mod random;

use crate::memory::{FlatMemory, GuestMemory, GuestPhysAddr, MemoryError};
use std::vec::Vec;

/// Bytes of RAM.
pub(crate) const RAM_LEN: usize = 1 << 20;

/// RAM from 0 on, whose pages can be given away.
#[derive(Clone, Debug)]
pub(crate) struct Ram {
    flat: FlatMemory,
    /// The pages given away, in order.
    pub(crate) discarded: Vec<u64>,
    /// How many of them were flushed.
    pub(crate) flushed: usize,
    /// A page that the host has no frame for, if there is one.
    pub(crate) unbacked: Option<u64>,
}

impl Ram {
    pub(crate) fn new() -> Self {
        Self { flat: FlatMemory::new(RAM_LEN), discarded: Vec::new(), flushed: 0, unbacked: None }
    }

    pub(crate) fn u16_at(&self, gpa: u64) -> u16 {
        let mut bytes = [0; 2];
        self.read(GuestPhysAddr(gpa), &mut bytes).unwrap();
        u16::from_le_bytes(bytes)
    }

    pub(crate) fn put(&mut self, gpa: u64, bytes: &[u8]) {
        self.flat.write(GuestPhysAddr(gpa), bytes).unwrap();
    }
}

impl GuestMemory for Ram {
    fn read(&self, gpa: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), MemoryError> {
        self.flat.read(gpa, bytes)
    }

    fn write(&mut self, gpa: GuestPhysAddr, bytes: &[u8]) -> Result<(), MemoryError> {
        if self.unbacked == Some(gpa.page_base().0) {
            return Err(MemoryError::OutOfFrames { gpa });
        }
        self.flat.write(gpa, bytes)
    }

    fn discard(&mut self, gpa: GuestPhysAddr) {
        self.discarded.push(gpa.0);
        let _ = self.flat.write(gpa.page_base(), &[0; 4096]);
    }

    fn flush_discards(&mut self) {
        self.flushed = self.discarded.len();
    }
}

/// A part of a buffer as a driver describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) gpa: u64,
    pub(crate) len: u32,
    pub(crate) writable: bool,
}

impl Part {
    pub(crate) const fn readable(gpa: u64, len: u32) -> Self {
        Self { gpa, len, writable: false }
    }
}

/// A driver's half of a split virtqueue in one page: descriptors at its start, the available ring at 0x800, the used
/// ring at 0xc00.
#[derive(Clone, Debug)]
pub(crate) struct DriverQueue {
    pub(crate) base: u64,
    pub(crate) size: u16,
    next_descriptor: u16,
    available: u16,
    seen: u16,
}

impl DriverQueue {
    pub(crate) const fn new(base: u64, size: u16) -> Self {
        Self { base, size, next_descriptor: 0, available: 0, seen: 0 }
    }

    pub(crate) const fn available_ring(&self) -> u64 {
        self.base + 0x800
    }

    pub(crate) const fn used_ring(&self) -> u64 {
        self.base + 0xc00
    }

    /// The register writes that set queue `index` up: offset and value.
    pub(crate) fn set_up(&self, index: u32) -> Vec<(u32, u32)> {
        let low = |address: u64| u32::try_from(address).unwrap();
        std::vec![
            (0x030, index),
            (0x038, self.size.into()),
            (0x080, low(self.base)),
            (0x084, 0),
            (0x090, low(self.available_ring())),
            (0x094, 0),
            (0x0a0, low(self.used_ring())),
            (0x0a4, 0),
            (0x044, 1),
        ]
    }

    /// Writes a descriptor.
    pub(crate) fn describe(&self, ram: &mut Ram, index: u16, part: Part, flags: u16, next: u16) {
        let at = self.base + u64::from(index) * 16;
        let flags = flags | if part.writable { 2 } else { 0 };
        ram.put(at, &part.gpa.to_le_bytes());
        ram.put(at + 8, &part.len.to_le_bytes());
        ram.put(at + 12, &flags.to_le_bytes());
        ram.put(at + 14, &next.to_le_bytes());
    }

    /// Makes the chain at `head` available.
    pub(crate) fn publish(&mut self, ram: &mut Ram, head: u16) {
        ram.put(self.available_ring() + 4 + u64::from(self.available % self.size) * 2, &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        ram.put(self.available_ring() + 2, &self.available.to_le_bytes());
    }

    /// Makes a buffer of these parts available; gives its head.
    pub(crate) fn offer(&mut self, ram: &mut Ram, parts: &[Part]) -> u16 {
        let head = self.next_descriptor;
        for (number, part) in parts.iter().enumerate() {
            let index = self.next_descriptor;
            self.next_descriptor = (self.next_descriptor + 1) % self.size;
            let flags = if number + 1 < parts.len() { 1 } else { 0 };
            self.describe(ram, index, *part, flags, self.next_descriptor);
        }
        self.publish(ram, head);
        head
    }

    /// The next buffer that has come back: its head and how much was written.
    pub(crate) fn collect(&mut self, ram: &Ram) -> Option<(u32, u32)> {
        if ram.u16_at(self.used_ring() + 2) == self.seen {
            return None;
        }
        let at = GuestPhysAddr(self.used_ring() + 4 + u64::from(self.seen % self.size) * 8);
        self.seen = self.seen.wrapping_add(1);
        Some((ram.read_u32(at).unwrap(), ram.read_u32(GuestPhysAddr(at.0 + 4)).unwrap()))
    }
}

/// Page numbers as a driver writes them.
pub(crate) fn pfns(numbers: impl IntoIterator<Item = u32>) -> Vec<u8> {
    numbers.into_iter().flat_map(u32::to_le_bytes).collect()
}
