use alloc::string::String;
use alloc::vec::Vec;
use serde::Serialize;

/// `security`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SecurityView {
    /// What protects the hypervisor from its own mistakes, as it is in the CPU and the page tables now.
    pub protections: Vec<SecurityRow>,
    /// What is done against speculative execution.
    pub mitigations: Vec<SecurityRow>,
}

/// A protection or a mitigation.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SecurityRow {
    /// Its name.
    pub name: String,
    /// `on`, `off`, `not needed` or `unavailable`.
    pub state: String,
    /// Why.
    pub reason: String,
}
