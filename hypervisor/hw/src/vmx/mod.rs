//! VMX operation: the instructions, one root per CPU, and vCPUs with their world switch.

mod capabilities;
mod instructions;
mod pages;
mod root;
mod switch;
mod vcpu;

pub use capabilities::cpu_facts;
pub use pages::VirtualApicPage;
pub(crate) use root::invalidate_ept;
pub use root::{VmxError, VmxRoot};
pub use vcpu::{CurrentVmcs, EntryFailure, Vcpu};
