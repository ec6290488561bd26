//! Addresses, host frames and guest memory.

mod address;
mod frames;
mod guest;

pub use address::{Frame, GuestLinearAddr, GuestPhysAddr, HostPhysAddr, PAGE_SIZE};
pub use frames::{FrameAllocator, FrameError, FrameKind, OutOfFrames, Owner};
pub use guest::{FlatMemory, GuestMemory, MemoryError};
