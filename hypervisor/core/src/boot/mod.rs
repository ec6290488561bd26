//! What the boot loader and the firmware hand over, checked once and turned into what the rest works with.

pub mod acpi_s5;
pub mod memory_map;
pub mod ramdisk;
pub mod tsc;
pub mod tsc_skew;

pub use memory_map::{MemoryPlan, MemoryRegion, RegionKind, find_place, plan};
