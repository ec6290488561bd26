//! VMX as values: the VMCS's fields, the capabilities, the controls and the rules of VM entry.

mod exit_reason;
mod fields;

pub use exit_reason::{ExitReason, FieldSet};
pub use fields::{ControlField, GuestField, HostField, ReadOnlyField};
