//! VMX operation: the instructions, one root per CPU, and vCPUs with their world switch.

mod capabilities;
mod instructions;
mod pages;
mod root;
mod switch;
mod vcpu;

pub use capabilities::{cpu_facts, probe};
pub use pages::VirtualApicPage;
pub use root::{VmxError, VmxRoot};
pub use vcpu::{ApicVirtualization, CurrentVmcs, EntryFailure, Vcpu};
