//! The host's page frames: who holds which, exactly.
//!
//! [`FrameAllocator`] keeps one number per frame of the machine, its [`Owner`]; the buddy allocator beneath only finds
//! free runs. It checks nothing that is given back to it, so every free is checked against the table first: a frame
//! freed twice, or by somebody who does not hold it, is refused. The counters are the table's, kept along with it.

mod owner;
#[cfg(test)]
mod tests;

pub use owner::{FrameKind, Owner};

use super::{Frame, PAGE_SIZE};
use alloc::vec::Vec;
use core::ops::Range;
use thiserror::Error;

/// Insufficient memory: no free run of host frames of the wanted size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error(
    "insufficient host memory: {requested_frames} contiguous frames ({} KiB) wanted, {free_frames} frames ({} KiB) are free",
    kib(*requested_frames),
    kib(*free_frames)
)]
pub struct OutOfFrames {
    /// The wanted run, in 4 KiB frames.
    pub requested_frames: u64,
    /// All free frames, in one run or not.
    pub free_frames: u64,
}

const fn kib(frames: u64) -> u64 {
    frames.saturating_mul(PAGE_SIZE / 1024)
}

/// Why frames could not be taken over or given back. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FrameError {
    /// The frame lies past the end of the frame table.
    #[error("frame {:#x} is past the end of the machine's memory", .frame.0)]
    NoSuchFrame {
        /// The frame, or the first of the run.
        frame: Frame,
    },
    /// The frame is held by somebody else, or by nobody.
    #[error("frame {:#x} is held by {holder}, not by {expected}", .frame.0)]
    NotHeld {
        /// The first frame of the run that is not held as expected.
        frame: Frame,
        /// Who should hold it.
        expected: Owner,
        /// Who does.
        holder: Owner,
    },
}

/// Allocator of host frames with an account of who holds which.
///
/// `Table` holds one `u16` per frame, from frame 0 to the machine's highest: on the machine a slice in memory put aside
/// for it, in a test a vector.
pub struct FrameAllocator<Table = &'static mut [u16]> {
    owners: Table,
    free_runs: buddy_system_allocator::FrameAllocator,
    /// Frames held, by [`Owner`] number. Grows to the highest number seen.
    held: Vec<u64>,
    /// How many more requests until one is refused; see [`FrameAllocator::refuse`].
    refusal: Option<u64>,
}

impl<Table: AsRef<[u16]> + AsMut<[u16]>> FrameAllocator<Table> {
    /// An allocator over frames `0..owners.len()`, all of them [`Owner::RESERVED`] for now. What is in `owners` is lost.
    #[must_use]
    pub fn new(mut owners: Table) -> Self {
        let table = owners.as_mut();
        table.fill(Owner::RESERVED.number());
        let reserved = table.len() as u64;
        Self {
            owners,
            free_runs: buddy_system_allocator::FrameAllocator::new(),
            held: alloc::vec![0, reserved],
            refusal: None,
        }
    }

    /// Makes reserved frames free.
    ///
    /// # Errors
    /// If a frame is past the table, or not reserved (added before).
    pub fn add_usable(&mut self, frames: Range<Frame>) -> Result<(), FrameError> {
        let run = self.run_held_by(frames.start, frames.end.0.saturating_sub(frames.start.0), Owner::RESERVED)?;
        for (start, size) in aligned_blocks(run.clone()) {
            self.free_runs.insert(start..start + size);
            // `insert` leaves neighbours apart; given back once, the block joins its free buddies.
            if self.free_runs.alloc_at(start, size).is_some() {
                self.free_runs.dealloc(start, size);
            }
        }
        self.set_owner(run, Owner::RESERVED, Owner::FREE);
        Ok(())
    }

    /// Books reserved frames that were taken before this allocator was there (the heap's, the frame table's own) on
    /// `owner`, who may free them later like any other.
    ///
    /// # Errors
    /// If a frame is past the table, or not reserved.
    ///
    /// # Panics
    /// If `owner` is [`Owner::FREE`] or [`Owner::RESERVED`].
    pub fn adopt(&mut self, frames: Range<Frame>, owner: Owner) -> Result<(), FrameError> {
        assert!(owner.can_hold(), "frames are adopted for an owner");
        let run = self.run_held_by(frames.start, frames.end.0.saturating_sub(frames.start.0), Owner::RESERVED)?;
        for (start, size) in aligned_blocks(run.clone()) {
            // In and out at once: now the buddy allocator knows the block as allocated.
            self.free_runs.insert(start..start + size);
            self.free_runs.alloc_at(start, size);
        }
        self.set_owner(run, Owner::RESERVED, owner);
        Ok(())
    }

    /// Refuses the `nth` request from now on (1 is the next one) as if there were no memory, and that one alone; `None` takes
    /// that back. Answers with what was left of an earlier order: `None` where none was given, or it was carried out. For
    /// tests of what a failure leaves behind.
    pub fn refuse(&mut self, nth: Option<u64>) -> Option<u64> {
        core::mem::replace(&mut self.refusal, nth)
    }

    /// Whether this is the request that [`FrameAllocator::refuse`] is about.
    fn is_refused(&mut self) -> bool {
        let Some(left) = self.refusal else { return false };
        self.refusal = left.checked_sub(1).filter(|&left| left > 0);
        self.refusal.is_none()
    }

    /// Allocates one frame. Its content is whatever its last holder left.
    ///
    /// # Errors
    /// [`OutOfFrames`] when none is free.
    ///
    /// # Panics
    /// If `owner` is [`Owner::FREE`] or [`Owner::RESERVED`].
    pub fn alloc(&mut self, owner: Owner) -> Result<Frame, OutOfFrames> {
        self.alloc_aligned(1, owner)
    }

    /// Allocates `count` contiguous frames (0 is taken as 1), aligned to `count` rounded up to a power of two: 512 for a
    /// 2 MiB page, 262,144 for a 1 GiB page. Exactly `count` frames are booked, whatever was rounded up.
    ///
    /// # Errors
    /// [`OutOfFrames`] when there is no such run.
    ///
    /// # Panics
    /// If `owner` is [`Owner::FREE`] or [`Owner::RESERVED`].
    pub fn alloc_aligned(&mut self, count: usize, owner: Owner) -> Result<Frame, OutOfFrames> {
        assert!(owner.can_hold(), "frames are allocated for an owner");
        let count = count.max(1);
        let error = OutOfFrames { requested_frames: count as u64, free_frames: self.free_count() };
        if self.is_refused() {
            return Err(error);
        }
        let size = count.checked_next_power_of_two().ok_or(error)?;
        let start = self.free_runs.alloc(size).ok_or(error)?;
        for (tail, size) in aligned_blocks(start + count..start + size) {
            self.free_runs.dealloc(tail, size);
        }
        self.set_owner(start..start + count, Owner::FREE, owner);
        Ok(Frame(start as u64))
    }

    /// Gives `count` frames from `frame` on back. They need not be a whole run as it was allocated.
    ///
    /// # Errors
    /// [`FrameError`] when any of them is not held by `owner`: freed twice, or somebody else's.
    ///
    /// # Panics
    /// If `owner` is [`Owner::FREE`] or [`Owner::RESERVED`].
    pub fn free(&mut self, frame: Frame, count: usize, owner: Owner) -> Result<(), FrameError> {
        assert!(owner.can_hold(), "frames are given back by an owner");
        let run = self.run_held_by(frame, count as u64, owner)?;
        for (start, size) in aligned_blocks(run.clone()) {
            self.free_runs.dealloc(start, size);
        }
        self.set_owner(run, owner, Owner::FREE);
        Ok(())
    }

    /// Who holds the frame; a frame past the table is [`Owner::RESERVED`].
    #[must_use]
    pub fn owner_of(&self, frame: Frame) -> Owner {
        usize::try_from(frame.0)
            .ok()
            .and_then(|index| self.owners.as_ref().get(index))
            .map_or(Owner::RESERVED, |&number| Owner::from_number(number))
    }

    /// How many frames the owner holds.
    #[must_use]
    pub fn held_by(&self, owner: Owner) -> u64 {
        self.held.get(usize::from(owner.number())).copied().unwrap_or(0)
    }

    /// How many frames the VM in `slot` holds, of every kind.
    #[must_use]
    pub fn held_by_vm(&self, slot: u16) -> u64 {
        FrameKind::ALL.iter().map(|&kind| self.held_by(Owner::vm(slot, kind))).sum()
    }

    /// Free frames.
    #[must_use]
    pub fn free_count(&self) -> u64 {
        self.held_by(Owner::FREE)
    }

    /// Frames that somebody holds.
    #[must_use]
    pub fn used_count(&self) -> u64 {
        self.total_count() - self.free_count() - self.held_by(Owner::RESERVED)
    }

    /// Frames in the table, reserved ones included.
    #[must_use]
    pub fn total_count(&self) -> u64 {
        self.owners.as_ref().len() as u64
    }

    /// The run of `count` frames from `first` on as table indices, if `expected` holds them all.
    fn run_held_by(&self, first: Frame, count: u64, expected: Owner) -> Result<Range<usize>, FrameError> {
        let no_such_frame = FrameError::NoSuchFrame { frame: first };
        let end = first.0.checked_add(count).ok_or(no_such_frame)?;
        let run =
            usize::try_from(first.0).map_err(|_| no_such_frame)?..usize::try_from(end).map_err(|_| no_such_frame)?;
        let owners = self.owners.as_ref().get(run.clone()).ok_or(no_such_frame)?;
        match owners.iter().position(|&number| number != expected.number()) {
            None => Ok(run),
            Some(offset) => {
                let frame = Frame(first.0 + offset as u64);
                Err(FrameError::NotHeld { frame, expected, holder: self.owner_of(frame) })
            }
        }
    }

    /// Books a run, all of it held by `from`, on `to`.
    fn set_owner(&mut self, run: Range<usize>, from: Owner, to: Owner) {
        let count = run.len() as u64;
        if let Some(owners) = self.owners.as_mut().get_mut(run) {
            owners.fill(to.number());
            *self.count_of(from) -= count;
            *self.count_of(to) += count;
        }
    }

    fn count_of(&mut self, owner: Owner) -> &mut u64 {
        let index = usize::from(owner.number());
        if self.held.len() <= index {
            // For all that a VM holds at once: what it is given when it is built makes room for its first touch of its memory.
            self.held.resize((index + 1).next_multiple_of(Owner::NUMBERS_PER_VM), 0);
        }
        &mut self.held[index]
    }
}

/// Cuts a run of frames into the largest blocks that are a power of two long and aligned to their length.
fn aligned_blocks(run: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
    let mut start = run.start;
    core::iter::from_fn(move || {
        let left = run.end.checked_sub(start).filter(|&left| left > 0)?;
        let alignment = if start == 0 { usize::MAX } else { 1 << start.trailing_zeros() };
        let size = (1 << left.ilog2()).min(alignment).min(LARGEST_BLOCK);
        let block = (start, size);
        start += size;
        Some(block)
    })
}

/// The buddy allocator's largest block: order 32 of `ORDER = 33`.
const LARGEST_BLOCK: usize = 1 << 32;
