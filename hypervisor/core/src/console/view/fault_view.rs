//! What `vm faults` shows. Addresses and registers are hexadecimal text: JSON's numbers do not hold them all.

use super::ReasonRow;
use crate::exit::{ExitCounters, reason_name};
use crate::fault::{Capture, ExitMark, FaultReport, PageWalk, Registers};
use crate::x86::SegmentState;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde::Serialize;

/// `vm faults NAME`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FaultsView {
    /// The VM.
    pub vm: String,
    /// How many faults it had since it was defined.
    pub faults: u64,
    /// The reports that are kept, the oldest first.
    pub reports: Vec<FaultView>,
    /// Which of them the text shows in full; the last one if not given.
    #[serde(skip)]
    pub shown: Option<u64>,
}

/// A report of a fault.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FaultView {
    /// Which of the VM's faults it is, from 1.
    pub number: u64,
    /// When it was, by the host's uptime.
    pub at_us: u64,
    /// Which of the VM's starts it happened to.
    pub start: u64,
    /// How long the VM had run since then, pauses left out.
    pub vm_uptime_us: u64,
    /// The kind of fault, in a word.
    pub kind: &'static str,
    /// The kind, in a sentence.
    pub cause: &'static str,
    /// What happened, in one line.
    pub detail: String,
    /// What was done about it.
    pub action: String,
    /// The vCPU that it happened to; null where the host's memory was too short to keep it.
    pub vcpu: Option<VcpuFaultView>,
    /// The VM's exits since its start, those that happened, the most frequent first.
    pub exit_counts: Vec<ReasonRow>,
    /// Its accesses to ports that no device claims.
    pub unknown_ports: u64,
    /// Its accesses to MSRs that it does not have.
    pub unknown_msrs: u64,
    /// Its accesses to memory that is neither RAM nor a device.
    pub unknown_memory: u64,
}

/// A vCPU at the moment of its fault.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VcpuFaultView {
    /// Its index in the VM.
    pub index: u16,
    /// The guest's clock, in ticks.
    pub tick: u64,
    /// The width of its code: 16, 32 or 64.
    pub code_bits: u32,
    /// Its registers by name.
    pub registers: Vec<RegisterRow>,
    /// Its segment registers.
    pub segments: Vec<SegmentRow>,
    /// The linear address of RIP.
    pub code_address: String,
    /// The bytes there, as far as they can be read.
    pub code: String,
    /// The ways of RIP and RSP through the guest's page tables.
    pub walks: Vec<WalkRow>,
    /// The words from RSP on, as far as they can be read.
    pub stack: Vec<WordRow>,
    /// Return addresses beside frame pointers, the innermost first.
    pub backtrace: Vec<WordRow>,
    /// Its last exits, the oldest first.
    pub exits: Vec<ExitRow>,
}

/// A register.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RegisterRow {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
}

/// A segment register, GDTR or IDTR.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SegmentRow {
    /// Its name.
    pub name: &'static str,
    /// Its selector; null for GDTR and IDTR.
    pub selector: Option<String>,
    /// Its base.
    pub base: String,
    /// Its limit.
    pub limit: String,
    /// Its access rights in the VMCS's format; null for GDTR and IDTR.
    pub access_rights: Option<String>,
}

/// A walk through page tables.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WalkRow {
    /// The register that the address is of.
    pub of: &'static str,
    /// The linear address.
    pub address: String,
    /// The entries on the way.
    pub entries: Vec<EntryRow>,
    /// The guest-physical address; null where the way ends before.
    pub leads_to: Option<String>,
    /// Why it ends before.
    pub fault: Option<String>,
}

/// An entry of a paging structure.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EntryRow {
    /// What it is: `PML4E` and so on.
    pub level: &'static str,
    /// Its guest-physical address.
    pub address: String,
    /// What it says; null where there is no memory.
    pub value: Option<String>,
}

/// A word in memory.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WordRow {
    /// Its linear address; in a backtrace that of the frame.
    pub address: String,
    /// What it holds.
    pub value: String,
}

/// A VM exit.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ExitRow {
    /// The reason in the manual's words.
    pub reason: String,
    /// The guest's clock then, in ticks.
    pub tick: u64,
}

impl FaultsView {
    /// The view of a VM's reports.
    #[must_use]
    pub fn new(vm: String, faults: u64, reports: &[Arc<FaultReport>], shown: Option<u64>) -> Self {
        Self { vm, faults, reports: reports.iter().map(|report| FaultView::new(report)).collect(), shown }
    }
}

impl FaultView {
    fn new(report: &FaultReport) -> Self {
        let [unknown_ports, unknown_msrs, unknown_memory] = report.unknown;
        Self {
            number: report.number,
            at_us: report.at_us,
            start: report.start,
            vm_uptime_us: report.ran_us,
            kind: report.fault.kind.name(),
            cause: report.fault.kind.words(),
            detail: report.fault.detail.clone(),
            action: report.action.clone(),
            vcpu: report.fault.capture.as_ref().map(VcpuFaultView::new),
            exit_counts: ReasonRow::of(report.exits.iter().copied()),
            unknown_ports,
            unknown_msrs,
            unknown_memory,
        }
    }
}

impl VcpuFaultView {
    fn new(capture: &Capture) -> Self {
        let words = |words: &[(u64, u64)]| {
            words.iter().map(|&(address, value)| WordRow { address: hex(address), value: hex(value) }).collect()
        };
        let (code_address, code) = &capture.code;
        let code: Vec<String> = code.iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            index: capture.vcpu,
            tick: capture.tick,
            code_bits: capture.code_bits,
            registers: registers(&capture.registers),
            segments: segments(&capture.registers),
            code_address: hex(*code_address),
            code: code.join(" "),
            walks: Vec::from([WalkRow::new("RIP", &capture.rip_walk), WalkRow::new("RSP", &capture.rsp_walk)]),
            stack: words(&capture.stack),
            backtrace: words(&capture.frames),
            exits: capture.exits.iter().map(ExitRow::new).collect(),
        }
    }
}

fn registers(from: &Registers) -> Vec<RegisterRow> {
    let gprs = &from.gprs;
    let rows = [
        ("RAX", gprs.rax),
        ("RBX", gprs.rbx),
        ("RCX", gprs.rcx),
        ("RDX", gprs.rdx),
        ("RSI", gprs.rsi),
        ("RDI", gprs.rdi),
        ("RBP", gprs.rbp),
        ("RSP", from.rsp),
        ("R8", gprs.r8),
        ("R9", gprs.r9),
        ("R10", gprs.r10),
        ("R11", gprs.r11),
        ("R12", gprs.r12),
        ("R13", gprs.r13),
        ("R14", gprs.r14),
        ("R15", gprs.r15),
        ("RIP", from.rip),
        ("RFLAGS", from.rflags),
        ("CR0", from.cr0),
        ("CR2", from.cr2),
        ("CR3", from.cr3),
        ("CR4", from.cr4),
        ("EFER", from.efer),
    ];
    rows.into_iter().map(|(name, value)| RegisterRow { name, value: hex(value) }).collect()
}

fn segments(from: &Registers) -> Vec<SegmentRow> {
    let segment = |&(name, SegmentState { selector, base, limit, access_rights }): &(&'static str, SegmentState)| {
        let selector = Some(hex(selector.into()));
        SegmentRow {
            name,
            selector,
            base: hex(base),
            limit: hex(limit.into()),
            access_rights: Some(hex(access_rights.into())),
        }
    };
    let tables = [("GDTR", from.gdtr), ("IDTR", from.idtr)].map(|(name, table)| SegmentRow {
        name,
        selector: None,
        base: hex(table.base),
        limit: hex(table.limit.into()),
        access_rights: None,
    });
    from.segments.iter().map(segment).chain(tables).collect()
}

impl WalkRow {
    fn new(of: &'static str, walk: &PageWalk) -> Self {
        let entry = |step: &crate::fault::WalkStep| EntryRow {
            level: step.level,
            address: hex(step.gpa.0),
            value: step.entry.map(hex),
        };
        Self {
            of,
            address: hex(walk.linear),
            entries: walk.steps.iter().map(entry).collect(),
            leads_to: walk.end.ok().map(|gpa| hex(gpa.0)),
            fault: walk.end.err().map(|fault| fault.to_string()),
        }
    }
}

impl ExitRow {
    fn new(mark: &ExitMark) -> Self {
        Self { reason: reason_name(mark.reason), tick: mark.tick }
    }
}

impl ReasonRow {
    /// The counts by basic exit reason, those that are not 0, the most frequent first.
    #[must_use]
    pub fn of(counts: impl IntoIterator<Item = (usize, u64)>) -> Vec<Self> {
        let name = |number: usize| reason_name(u32::try_from(number).unwrap_or(u32::MAX));
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        let mut rows: Vec<Self> = counts.map(|(number, count)| Self { reason: name(number), count }).collect();
        rows.sort_by_key(|row| core::cmp::Reverse(row.count));
        rows
    }

    /// What the counters have.
    #[must_use]
    pub fn of_counters(counters: &ExitCounters) -> Vec<Self> {
        Self::of(counters.by_reason().iter().copied().enumerate())
    }
}

fn hex(value: u64) -> String {
    format!("{value:#x}")
}
