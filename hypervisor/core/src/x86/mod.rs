//! The processor's architecture as values: registers, CPUID, MSRs, descriptors, page tables.

mod segment;
mod state;

pub use segment::{DescriptorTable, SegmentState, Segments};
pub use state::{Gprs, VcpuState};
