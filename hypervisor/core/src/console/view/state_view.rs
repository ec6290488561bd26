//! What `state` and `config save` show. The JSON of `state` is a documented schema: docs/STATE.md.

use super::{AllocView, CpuView, MemView, SchedView, VersionView, VmInfoView, VmStats};
use crate::config::Config;
use alloc::string::String;
use alloc::vec::Vec;
use serde::Serialize;

/// The name of the schema.
pub const STATE_SCHEMA: &str = "lamina-state";
/// Its version: raised when a field goes or changes its meaning, not when one is added.
pub const STATE_VERSION: u32 = 1;

/// `state`.
#[derive(Clone, Debug, Serialize)]
pub struct StateView {
    /// [`STATE_SCHEMA`].
    pub schema: &'static str,
    /// [`STATE_VERSION`].
    pub version: u32,
    /// Which Lamina this is, as `version` shows it.
    pub lamina: VersionView,
    /// How the host is configured.
    pub host: HostView,
    /// As `cpu` shows it.
    pub cpu: CpuView,
    /// As `mem` shows it.
    pub mem: MemView,
    /// As `sched` shows it.
    pub sched: SchedView,
    /// As `alloc` shows it.
    pub alloc: AllocView,
    /// As `vm info` shows each VM, in the order of their creation.
    pub vms: Vec<VmInfoView>,
    /// As `stats` shows it.
    pub stats: Vec<VmStats>,
}

impl Default for StateView {
    fn default() -> Self {
        Self {
            schema: STATE_SCHEMA,
            version: STATE_VERSION,
            lamina: VersionView::default(),
            host: HostView::default(),
            cpu: CpuView::default(),
            mem: MemView::default(),
            sched: SchedView::default(),
            alloc: AllocView::default(),
            vms: Vec::new(),
            stats: Vec::new(),
        }
    }
}

/// The host's configuration in `state`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HostView {
    /// The least urgent messages that the log keeps.
    pub log_level: String,
    /// Whether the guests' serial lines show on the host console.
    pub tee_serial: bool,
    /// How long `vm stop` waits for a guest unless the VM says otherwise.
    pub stop_grace_us: u64,
}

/// `config save`.
#[derive(Clone, Debug, Serialize)]
pub struct ConfigView {
    /// The text of a `lamina.toml`.
    pub toml: String,
}

impl ConfigView {
    /// The view of a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self { toml: config.to_toml() }
    }
}
