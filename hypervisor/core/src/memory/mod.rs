//! Addresses, host frames and guest memory.

mod address;
mod guest;

pub use address::{Frame, GuestLinearAddr, GuestPhysAddr, HostPhysAddr, PAGE_SIZE};
pub use guest::{FlatMemory, GuestMemory, MemoryError};
