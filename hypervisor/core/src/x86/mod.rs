//! The processor's architecture as values: registers, CPUID, MSRs, descriptors, page tables.

mod state;

pub use state::{Gprs, VcpuState};
