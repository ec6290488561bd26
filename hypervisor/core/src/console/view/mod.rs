//! What the commands show: plain data, rendered as text or JSON by [`super::render`].
//!
//! The names of the fields are the names in the JSON; their units are in their names. Times are of the host's TSC. Parts
//! of a CPU that were measured are in thousandths of one CPU (`_millicpu`), those that are set in percent of one.

mod alloc_view;
mod fault_view;
mod sched_view;
mod security_view;
mod state_view;

pub use alloc_view::{AllocRow, AllocView, CpuResource, MemoryResource, WaitingRow};
pub use fault_view::{
    EntryRow, ExitRow, FaultView, FaultsView, RegisterRow, SegmentRow, VcpuFaultView, WalkRow, WordRow,
};
pub use sched_view::{CpuRow, FigureRow, Latency, SchedRow, SchedView};
pub use security_view::{DirectMsrRow, SecurityRow, SecurityView};
pub use state_view::{ConfigView, HostView, STATE_SCHEMA, STATE_VERSION, StateView};

use alloc::string::String;
use alloc::vec::Vec;
use serde::Serialize;

/// `help`.
#[derive(Clone, Debug, Serialize)]
pub struct HelpView {
    /// The commands.
    pub commands: Vec<HelpRow>,
}

/// A command of `help`.
#[derive(Clone, Debug, Serialize)]
pub struct HelpRow {
    /// Its words.
    pub command: String,
    /// How it is typed.
    pub usage: String,
    /// What it does.
    pub about: &'static str,
}

/// The answer to a command that shows nothing but that it is done.
#[derive(Clone, Debug, Serialize)]
pub struct DoneView {
    /// What was done, in one line.
    pub done: String,
}

/// `vm list`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VmListView {
    /// The VMs, in the order of their creation.
    pub vms: Vec<VmRow>,
}

/// One VM of `vm list`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VmRow {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: &'static str,
    /// Its group.
    pub group: Option<String>,
    /// Its image.
    pub image: String,
    /// How many vCPUs it has.
    pub vcpus: u16,
    /// The weight of its share of the CPUs.
    pub weight: u32,
    /// Its memory, as it is set: what it is to have now.
    pub memory_bytes: u64,
    /// How much of that is backed by host frames.
    pub populated_bytes: u64,
    /// Its time slice.
    pub quantum_us: u64,
    /// The CPU time that it used since its start.
    pub cpu_time_us: u64,
    /// Its VM exits since its start.
    pub exits: u64,
    /// How long it has run since its start, pauses left out.
    pub uptime_us: u64,
    /// Why it ended last, in words.
    pub last_stop: Option<String>,
}

/// `vm info`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VmInfoView {
    /// What `vm list` shows of it.
    #[serde(flatten)]
    pub row: VmRow,
    /// What its image was found or said to be.
    pub format: String,
    /// Its initial RAM disk.
    pub initrd: Option<String>,
    /// Its command line.
    pub cmdline: String,
    /// Its modules, each a file and its command line.
    pub modules: Vec<String>,
    /// The least memory that it keeps.
    pub memory_min_bytes: u64,
    /// The most memory that it can be given.
    pub memory_max_bytes: u64,
    /// Whether it has a balloon device.
    pub balloon: bool,
    /// The most that it gets, in percent of one CPU; null is no limit.
    pub cap_percent: Option<u32>,
    /// What it gets at least, in percent of one CPU.
    pub reservation_percent: u32,
    /// Its priority, 0 to 99.
    pub priority: u8,
    /// The CPUs that it may run on, as `0-3,5` or `all`.
    pub affinity: String,
    /// Its vCPUs.
    pub vcpu_rows: Vec<VcpuRow>,
    /// How long its vCPUs could have run and another one did, all together.
    pub steal_us: u64,
    /// VMs and groups that start before it.
    pub after: Vec<String>,
    /// How long `vm stop` waits for it.
    pub stop_grace_us: u64,
    /// What follows a fault of it: `restart`, `stop`, `pause` or `preserve`.
    pub on_fault: &'static str,
    /// The most restarts, as `3 in 60s`.
    pub restart_limit: String,
    /// How many accesses in a row to memory that is not there are a fault; null is any number.
    pub access_loop: Option<u64>,
    /// How many faults it had since it was defined.
    pub faults: u64,
    /// The last one, in one line.
    pub last_fault: Option<String>,
    /// Whether it starts at boot.
    pub autostart: bool,
    /// How often it was started, resets included.
    pub starts: u64,
    /// The host frames that it holds.
    pub frames: VmFrames,
    /// The bytes that it wrote to its serial port since its start.
    pub serial_bytes: u64,
    /// For how long it may show no sign of life; null is for ever.
    pub watchdog_us: Option<u64>,
    /// What stands out among its VM exits.
    pub suspect: Option<SuspectView>,
    /// Whether the guest has panicked and handles that by its crash kernel.
    pub crash_kernel: bool,
}

/// A reason of VM exits that stands out in the last second; see [`crate::vm::exit_model`].
#[derive(Clone, Debug, Default, Serialize)]
pub struct SuspectView {
    /// The exit reason.
    pub reason: String,
    /// Its exits per second.
    pub per_s: u64,
    /// What is usual for this VM.
    pub usual_per_s: u64,
    /// The odds against that being usual, as a power of 2.
    pub log2_odds: u32,
}

/// A vCPU in `vm info`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VcpuRow {
    /// Its index in the VM.
    pub vcpu: u16,
    /// Whether it is running, ready, blocked, or waits for its start-up IPI.
    pub state: &'static str,
    /// The CPU that it is on, or was on last.
    pub cpu: Option<u16>,
    /// The CPUs that it may run on.
    pub affinity: String,
    /// The CPU time that it used since its VM's start.
    pub cpu_time_us: u64,
}

/// The host frames (4 KiB each) that a VM holds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VmFrames {
    /// Guest memory.
    pub ram: u64,
    /// EPT paging structures.
    pub ept: u64,
    /// VMCS, virtual-APIC page, bitmaps, XSAVE area.
    pub vcpu: u64,
}

/// `mem`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MemView {
    /// Bytes in a frame.
    pub frame_bytes: u64,
    /// Frames that the machine has for use; the others sum up to it.
    pub total_frames: u64,
    /// Frames that nobody holds.
    pub free_frames: u64,
    /// Frames of the hypervisor's heap.
    pub heap_frames: u64,
    /// Frames of the hypervisor's page tables, stacks and VMXON regions.
    pub host_frames: u64,
    /// Bytes allocated in the heap.
    pub heap_used_bytes: u64,
    /// Virtual-processor identifiers that are taken: one for each vCPU of a VM that runs or is paused.
    pub vpids: u64,
    /// Frames that VMs hold.
    pub vms: Vec<MemRow>,
}

/// A VM in `mem`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MemRow {
    /// The VM's name.
    pub name: String,
    /// What it holds.
    pub frames: VmFrames,
}

/// `cpu`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CpuView {
    /// The CPU's brand string.
    pub brand: String,
    /// The rate of its TSC.
    pub tsc_hz: u64,
    /// Where that rate is from.
    pub tsc_source: String,
    /// How many CPUs the machine has.
    pub found: u32,
    /// The CPUs in use.
    pub cpus: Vec<CpuRow>,
    /// What of VT-x it has.
    pub vmx: Vec<CapabilityRow>,
}

/// A capability of the CPU.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CapabilityRow {
    /// Its name in the manual's words.
    pub name: String,
    /// Whether the CPU has it.
    pub present: bool,
    /// Whether Lamina uses it.
    pub used: bool,
}

/// `stats`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StatsView {
    /// The VMs asked for.
    pub vms: Vec<VmStats>,
}

/// A VM in `stats`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VmStats {
    /// The VM's name.
    pub name: String,
    /// All its exits.
    pub exits: u64,
    /// Its exits by reason, those that happened.
    pub reasons: Vec<ReasonRow>,
    /// Accesses to ports that no device claims.
    pub unknown_ports: u64,
    /// Accesses to MSRs that it does not have.
    pub unknown_msrs: u64,
}

/// An exit reason and how often it happened.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ReasonRow {
    /// The reason in the manual's words.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// `vm log` and `dmesg`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LogView {
    /// Whose log it is: a VM's name, or `lamina`.
    pub source: String,
    /// The oldest bytes of it that were lost to newer ones.
    pub lost_bytes: u64,
    /// Its lines.
    pub lines: Vec<String>,
}

impl LogView {
    /// A log out of the bytes that were kept of it, or the last `tail` lines of them.
    #[must_use]
    pub fn new(source: &str, bytes: &[u8], lost_bytes: u64, tail: Option<usize>) -> Self {
        let mut lines: Vec<String> = Vec::new();
        let mut splitter = crate::vm::SerialLines::without_prefix();
        splitter.feed(bytes, &mut |line| lines.push(line.into()));
        splitter.flush(&mut |line| lines.push(line.into()));
        if let Some(tail) = tail {
            lines.drain(..lines.len().saturating_sub(tail));
        }
        Self { source: source.into(), lost_bytes, lines }
    }
}

/// `version`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VersionView {
    /// `Lamina`.
    pub name: &'static str,
    /// The version.
    pub version: &'static str,
    /// `release` or `debug`.
    pub profile: &'static str,
    /// The firmware that it was started by.
    pub firmware: String,
    /// How long it is up.
    pub uptime_us: u64,
}

/// Any command that could not be done.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorView {
    /// Why, in one line.
    pub error: String,
}
