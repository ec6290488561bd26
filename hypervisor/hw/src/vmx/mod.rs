//! VMX operation: the instructions, one root per CPU, and vCPUs with their world switch.
//!
//! - `vcpu`: what a vCPU owns, and the registers that no VMCS holds
//! - `program`: what its VMCS is filled with at first
//! - `current`: the VMCS while it is current: running the guest, changing controls, reading and writing its state
//! - `exit_fields`: what an exit left in it

mod capabilities;
mod current;
mod exit_fields;
mod instructions;
mod pages;
mod program;
mod root;
mod switch;
mod vcpu;
mod vpid;

pub use capabilities::cpu_facts;
pub use current::{AtOnce, CurrentVmcs, EntryFailure};
pub(crate) use instructions::invept;
pub use pages::VirtualApicPage;
pub use root::{VmxError, VmxRoot};
pub use vcpu::{Vcpu, VcpuError};
pub use vpid::vpids_in_use;
