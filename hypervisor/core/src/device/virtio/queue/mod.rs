//! [`Queue`]: the device's side of a split virtqueue ("Split Virtqueues").
//!
//! A device asks [`Queue::waiting`] once per notification, then, so many times, [`Queue::next_chain`], walks the chain
//! with [`Queue::segment`] and gives it back with [`Queue::finish`] ([`Queue::take`] and [`Queue::give_back`] where
//! some time lies between). Nothing is cached: every address and index is checked when it is used.

#[cfg(test)]
mod tests;

use super::spec::*;
use crate::memory::{GuestMemory, GuestPhysAddr, MemoryError};

/// Why a ring could not be followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueueError {
    /// The ring is not as the specification wants it; the device needs a reset.
    Broken(&'static str),
    /// The host has no memory for a page that must be written. Nothing was taken: the same can be tried again.
    Memory(MemoryError),
}

impl From<MemoryError> for QueueError {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::OutsideRam { .. } => Self::Broken("an address outside of RAM"),
            MemoryError::OutOfFrames { .. } => Self::Memory(error),
        }
    }
}

/// A buffer that the driver made available.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chain {
    /// The index of its first descriptor, by which the driver knows it.
    pub head: u16,
    /// The descriptor that comes next.
    next: Option<u16>,
    /// How many more there can be: "Drivers MUST NOT create [...] a loop in the descriptor chain".
    left: u16,
}

/// A part of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Where it is; not checked to be RAM.
    pub gpa: GuestPhysAddr,
    /// Bytes in it.
    pub len_bytes: u32,
    /// Whether the device may write to it; else it may only read.
    pub writable: bool,
}

/// A split virtqueue: where its rings are, and how far the device is in them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Queue {
    size_max: u16,
    size: u16,
    ready: bool,
    descriptors: u64,
    available: u64,
    used: u64,
    /// The next entry of the available ring to look at; wraps as the driver's `idx` does.
    next_available: u16,
    /// The next entry of the used ring to write; the device's `idx`.
    next_used: u16,
    /// A buffer was used since [`Self::take_used`].
    has_used: bool,
}

/// The three addresses that the driver sets up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Area {
    /// Descriptor table ("Descriptor Area").
    Descriptors,
    /// Available ring ("Driver Area").
    Available,
    /// Used ring ("Device Area").
    Used,
}

impl Queue {
    /// A queue that is not set up. `size_max` is a power of two.
    #[must_use]
    pub const fn new(size_max: u16) -> Self {
        Self {
            size_max,
            size: size_max,
            ready: false,
            descriptors: 0,
            available: 0,
            used: 0,
            next_available: 0,
            next_used: 0,
            has_used: false,
        }
    }

    /// The largest size that the driver may choose.
    #[must_use]
    pub const fn size_max(&self) -> u16 {
        self.size_max
    }

    /// Whether the driver has enabled it.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.ready
    }

    /// Sets the size; checked by [`Self::enable`]. Ignored while the queue is in use.
    pub fn set_size(&mut self, size: u32) {
        if !self.ready {
            // What is no 16-bit number is no valid size either.
            self.size = u16::try_from(size).unwrap_or(0);
        }
    }

    /// Sets one half of an address. Ignored while the queue is in use.
    pub fn set_address(&mut self, area: Area, high: bool, value: u32) {
        if self.ready {
            return;
        }
        let address = match area {
            Area::Descriptors => &mut self.descriptors,
            Area::Available => &mut self.available,
            Area::Used => &mut self.used,
        };
        let (shift, kept) = if high { (32, 0xffff_ffff) } else { (0, 0xffff_ffff << 32) };
        *address = *address & kept | u64::from(value) << shift;
    }

    /// Takes the queue into use, from its first entries on.
    ///
    /// # Errors
    /// [`QueueError::Broken`] for a size or an alignment that the specification forbids; the queue stays disabled.
    pub fn enable(&mut self) -> Result<(), QueueError> {
        if !self.size.is_power_of_two() || self.size > self.size_max {
            return Err(QueueError::Broken("a queue size that is no power of two up to QueueNumMax"));
        }
        let areas = [(self.descriptors, DESC_ALIGN), (self.available, AVAIL_ALIGN), (self.used, USED_ALIGN)];
        if areas.iter().any(|(address, align)| !address.is_multiple_of(*align)) {
            return Err(QueueError::Broken("a ring that is not aligned"));
        }
        *self = Self { ready: true, next_available: 0, next_used: 0, has_used: false, ..*self };
        Ok(())
    }

    /// Takes the queue out of use.
    pub fn disable(&mut self) {
        self.ready = false;
    }

    /// How many buffers the driver has made available: at most the queue's size; none where the queue is not in use.
    ///
    /// # Errors
    /// [`QueueError::Broken`] for more than fit.
    pub fn waiting(&self, memory: &dyn GuestMemory) -> Result<u16, QueueError> {
        if !self.ready {
            return Ok(0);
        }
        let idx = read_u16(memory, self.available, RING_IDX)?;
        let waiting = idx.wrapping_sub(self.next_available);
        if waiting > self.size {
            return Err(QueueError::Broken("more buffers available than the queue has entries"));
        }
        Ok(waiting)
    }

    /// The next buffer, which stays the next until it is taken. There must be one [`Self::waiting`].
    ///
    /// # Errors
    /// [`QueueError::Broken`] where its entry names no descriptor.
    pub fn next_chain(&self, memory: &dyn GuestMemory) -> Result<Chain, QueueError> {
        let entry = u64::from(self.next_available % self.size.max(1));
        let head = read_u16(memory, self.available, RING_ENTRIES + entry * AVAIL_ENTRY_LEN)?;
        Ok(Chain { head, next: Some(head), left: self.size })
    }

    /// The next part of the buffer; `None` at its end.
    ///
    /// # Errors
    /// [`QueueError::Broken`] for an index that is no descriptor, for a loop, and for an indirect table.
    pub fn segment(&self, chain: &mut Chain, memory: &dyn GuestMemory) -> Result<Option<Segment>, QueueError> {
        let Some(index) = chain.next else { return Ok(None) };
        if index >= self.size {
            return Err(QueueError::Broken("a descriptor index beyond the table"));
        }
        let Some(left) = chain.left.checked_sub(1) else {
            return Err(QueueError::Broken("a descriptor chain longer than the table: a loop"));
        };
        chain.left = left;
        let mut bytes = [0; 16];
        memory.read(at(self.descriptors, u64::from(index) * DESCRIPTOR_LEN)?, &mut bytes)?;
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = bytes;
        let flags = u16::from_le_bytes([f0, f1]);
        if flags & DESC_F_INDIRECT != 0 {
            return Err(QueueError::Broken("an indirect descriptor, which was not negotiated"));
        }
        chain.next = (flags & DESC_F_NEXT != 0).then_some(u16::from_le_bytes([n0, n1]));
        Ok(Some(Segment {
            gpa: GuestPhysAddr(u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7])),
            len_bytes: u32::from_le_bytes([l0, l1, l2, l3]),
            writable: flags & DESC_F_WRITE != 0,
        }))
    }

    /// Gives the next buffer back to the driver, `written` bytes having been written into it.
    ///
    /// # Errors
    /// [`QueueError`]; the buffer was not taken then.
    pub fn finish(&mut self, head: u16, written: u32, memory: &mut dyn GuestMemory) -> Result<(), QueueError> {
        self.give_back(head, written, memory)?;
        self.take();
        Ok(())
    }

    /// Takes the next buffer, to be given back later.
    pub fn take(&mut self) {
        self.next_available = self.next_available.wrapping_add(1);
    }

    /// Gives a buffer back that was taken.
    ///
    /// # Errors
    /// [`QueueError`]; the driver has not got it back then.
    pub fn give_back(&mut self, head: u16, written: u32, memory: &mut dyn GuestMemory) -> Result<(), QueueError> {
        let entry = u64::from(self.next_used % self.size.max(1));
        let [i0, i1, i2, i3] = u32::from(head).to_le_bytes();
        let [w0, w1, w2, w3] = written.to_le_bytes();
        memory.write(at(self.used, RING_ENTRIES + entry * USED_ENTRY_LEN)?, &[i0, i1, i2, i3, w0, w1, w2, w3])?;
        // The entry before the index: the driver looks at what the index says is there.
        let idx = self.next_used.wrapping_add(1);
        memory.write(at(self.used, RING_IDX)?, &idx.to_le_bytes())?;
        self.next_used = idx;
        self.has_used = true;
        Ok(())
    }

    /// Whether buffers were given back since the last call, and the driver wants an interrupt for them.
    pub fn take_used(&mut self, memory: &dyn GuestMemory) -> bool {
        let has_used = core::mem::take(&mut self.has_used);
        // A ring that has become unreadable silences nothing.
        has_used && read_u16(memory, self.available, 0).unwrap_or(0) & AVAIL_F_NO_INTERRUPT == 0
    }
}

/// The address `offset` bytes behind the start of a ring.
fn at(base: u64, offset: u64) -> Result<GuestPhysAddr, QueueError> {
    GuestPhysAddr(base).checked_add(offset).ok_or(QueueError::Broken("a ring that ends beyond the address space"))
}

fn read_u16(memory: &dyn GuestMemory, base: u64, offset: u64) -> Result<u16, QueueError> {
    let mut bytes = [0; 2];
    memory.read(at(base, offset)?, &mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}
