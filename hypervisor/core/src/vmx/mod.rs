//! VMX as values: the VMCS's fields, the capabilities, the controls and the rules of VM entry.

pub mod capabilities;
pub mod controls;
mod exit_reason;
mod fields;
pub mod guest_state;
mod instruction_error;
pub mod refusal;

pub use capabilities::Capabilities;
pub use exit_reason::{ExitReason, FieldSet};
pub use fields::{ControlField, GuestField, HostField, ReadOnlyField};
pub use instruction_error::instruction_error;
