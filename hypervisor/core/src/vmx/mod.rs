//! VMX as values: the VMCS's fields, the capabilities, the controls and the rules of VM entry.

mod fields;

pub use fields::{ControlField, GuestField, HostField, ReadOnlyField};
