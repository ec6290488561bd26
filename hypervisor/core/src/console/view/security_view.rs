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
    /// The MSRs that a guest reaches without an exit; it reaches no port so.
    pub direct_msrs: Vec<DirectMsrRow>,
}

/// A range of MSRs that a guest reaches without an exit.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DirectMsrRow {
    /// The first one.
    pub first: u32,
    /// The last one.
    pub last: u32,
    /// Reads do not exit.
    pub read: bool,
    /// Nor do writes.
    pub write: bool,
    /// Why that is safe.
    pub reason: String,
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
