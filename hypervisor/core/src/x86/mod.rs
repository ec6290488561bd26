//! The processor's architecture as values: registers, CPUID, MSRs, descriptors, page tables.

pub mod control;
mod cpu;
pub mod cpuid;
pub mod msr;
pub mod paging;
mod segment;
pub mod speculation;
mod state;

pub use cpu::{CpuChanges, CpuState};
pub use segment::{DescriptorTable, SegmentState, Segments};
pub use state::{Gprs, VcpuState};
