//! The hypervisor's memory: the window onto physical memory, the heap, owned frames, its own mappings, guests' RAM.

mod frames;
mod guest_ram;
mod heap;
mod map;
mod seal;
mod window;

pub(crate) use frames::init_frames;
pub use frames::{Accounting, HostBuffer, HostFrame, accounting, refuse_frames};
pub(crate) use guest_ram::RamId;
pub use guest_ram::{GuestRam, PopulateError};
pub(crate) use heap::init as init_heap;
pub use heap::usage as heap_usage;
pub use lamina_core::memory::{OutOfFrames, Owner};
pub use map::Guards;
pub use map::MapError;
pub(crate) use map::{RUN_TIME_BASE, audit_stacks, map_mmio, map_stack, peek, root_entries};
pub use seal::{MappingFault, audit_mappings};
pub(crate) use seal::{drop_low_half, protect_image};
pub(crate) use window::{Window, ptr_to, set_window};
