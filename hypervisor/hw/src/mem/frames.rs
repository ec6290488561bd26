//! Owned page frames.
//!
//! Which frame to give is decided in `lamina-core` ([`FrameAllocator`]); that a frame is used by one owner only follows
//! from its table of owners, which refuses to give back what the owner does not hold. A [`HostFrame`] is such a frame as
//! a value: zeroed when it comes, given back when it is dropped.

use super::window::{ptr_to, zero_frame};
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};
use lamina_core::memory::{Frame, FrameAllocator, HostPhysAddr, OutOfFrames, Owner, PAGE_SIZE};
use spin::Mutex;

static FRAMES: Mutex<Option<FrameAllocator>> = Mutex::new(None);

/// Hands the machine's frames to the hypervisor. The allocator must know only frames that nobody else uses; `boot` sees to that.
pub(crate) fn init_frames(allocator: FrameAllocator) {
    *FRAMES.lock() = Some(allocator);
}

/// Runs `f` on the allocator; an error before [`init_frames`].
pub(super) fn with_frames<T>(f: impl FnOnce(&mut FrameAllocator) -> T) -> Option<T> {
    FRAMES.lock().as_mut().map(f)
}

/// `count` frames (a power of two, aligned to as many) for `owner`, filled with zeros.
pub(super) fn alloc_zeroed(count: usize, owner: Owner) -> Result<Frame, OutOfFrames> {
    let none = OutOfFrames { requested_frames: count as u64, free_frames: 0 };
    let frame = with_frames(|frames| frames.alloc_aligned(count, owner)).unwrap_or(Err(none))?;
    // SAFETY: the allocator has just given these frames to us alone.
    unsafe { zero_frame(frame, count as u64) };
    Ok(frame)
}

/// Gives frames back. That they were not `owner`'s would be a bug of this crate.
pub(super) fn free(frame: Frame, count: usize, owner: Owner) {
    let freed = with_frames(|frames| frames.free(frame, count, owner));
    debug_assert!(matches!(freed, Some(Ok(()))), "frame {frame:?} x {count} was not {owner:?}'s");
}

/// Refuses the `nth` request for frames from now on, and that one alone, or no request any more: [`FrameAllocator::refuse`].
pub fn refuse_frames(nth: Option<u64>) -> Option<u64> {
    with_frames(|frames| frames.refuse(nth)).flatten()
}

/// Who holds how many frames.
#[derive(Clone, Debug)]
pub struct Accounting {
    /// Frames that can be given out.
    pub free: u64,
    /// Frames of RAM that the allocator manages, free or not.
    pub total: u64,
    /// (owner, frames held), for the owners asked about.
    pub held: Vec<(Owner, u64)>,
}

/// The accounting of frames, for these owners.
#[must_use]
pub fn accounting(owners: &[Owner]) -> Accounting {
    with_frames(|frames| Accounting {
        free: frames.free_count(),
        total: frames.total_count() - frames.held_by(Owner::RESERVED),
        held: owners.iter().map(|&owner| (owner, frames.held_by(owner))).collect(),
    })
    .unwrap_or(Accounting { free: 0, total: 0, held: Vec::new() })
}

/// A run of frames that the hypervisor owns, as bytes: for what is too large for the heap. Given back when dropped.
#[derive(Debug)]
pub struct HostBuffer {
    first: Frame,
    frame_count: usize,
    len_bytes: usize,
}

impl HostBuffer {
    /// `len_bytes` bytes of zeros.
    ///
    /// # Errors
    /// [`OutOfFrames`] when there is no such run of frames.
    pub fn new(len_bytes: usize) -> Result<Self, OutOfFrames> {
        let frame_count = len_bytes.div_ceil(PAGE_SIZE as usize).next_power_of_two();
        Ok(Self { first: alloc_zeroed(frame_count, Owner::HOST)?, frame_count, len_bytes })
    }

    fn start(&self) -> *mut u8 {
        let Some(start) = ptr_to(self.first.base(), self.len_bytes as u64) else {
            panic!("frame {:?} is outside the window onto physical memory", self.first)
        };
        start
    }
}

impl Deref for HostBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the frames are ours alone, `len_bytes` of them initialised to zero at least; the borrow is `self`'s.
        unsafe { core::slice::from_raw_parts(self.start(), self.len_bytes) }
    }
}

impl DerefMut for HostBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and the borrow is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.start(), self.len_bytes) }
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        free(self.first, self.frame_count, Owner::HOST);
    }
}

/// A page frame that the hypervisor owns. Zeroed when made; given back when dropped.
#[derive(Debug)]
pub struct HostFrame {
    frame: Frame,
    owner: Owner,
}

impl HostFrame {
    /// A zeroed frame on `owner`'s account.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    pub fn new(owner: Owner) -> Result<Self, OutOfFrames> {
        Ok(Self { frame: alloc_zeroed(1, owner)?, owner })
    }

    /// Its host-physical address.
    #[must_use]
    pub fn address(&self) -> HostPhysAddr {
        self.frame.base()
    }

    /// Fills the whole frame with one byte.
    pub fn fill(&mut self, byte: u8) {
        // SAFETY: the frame is ours alone and `as_mut_ptr` points to its 4096 bytes.
        unsafe { core::ptr::write_bytes(self.as_mut_ptr(), byte, PAGE_SIZE as usize) };
    }

    /// The frame's bytes, for a frame that no hardware writes to.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8; 4096] {
        // SAFETY: the frame is ours alone and 4096 bytes long; the borrow is as long as that of `self`.
        unsafe { &mut *self.as_mut_ptr().cast() }
    }

    /// Reads the doubleword at this offset (rounded down to 4, taken modulo the page).
    #[must_use]
    pub fn read_u32(&self, offset: usize) -> u32 {
        self.doubleword(offset).load(Ordering::Relaxed)
    }

    /// Writes the doubleword at this offset (rounded down to 4, taken modulo the page).
    pub fn write_u32(&mut self, offset: usize, value: u32) {
        self.store_u32(offset, value);
    }

    /// [`HostFrame::write_u32`] for a frame that is shared with the CPU itself, such as a virtual-APIC page.
    pub(crate) fn store_u32(&self, offset: usize, value: u32) {
        self.doubleword(offset).store(value, Ordering::Relaxed);
    }

    fn doubleword(&self, offset: usize) -> &AtomicU32 {
        let offset = offset & 0xffc;
        // SAFETY: the offset is aligned and within the frame, which is ours as long as `self` lives; atomic, since the CPU
        // itself may write the page meanwhile.
        unsafe { AtomicU32::from_ptr(self.window_ptr().add(offset).cast()) }
    }

    /// The frame in the window.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.window_ptr()
    }

    fn window_ptr(&self) -> *mut u8 {
        let Some(ptr) = ptr_to(self.frame.base(), PAGE_SIZE) else {
            panic!("frame {:?} is outside the window onto physical memory", self.frame)
        };
        ptr
    }
}

impl Drop for HostFrame {
    fn drop(&mut self) {
        free(self.frame, 1, self.owner);
    }
}
