//! The text of `vm faults`: a line for each report, and one of them in full.

use super::super::view::{ExitRow, FaultView, FaultsView, RegisterRow, VcpuFaultView, WordRow};
use super::{View, seconds, table, vec_of};
use alloc::format;
use alloc::string::String;

/// Registers in a line.
const REGISTERS_A_LINE: usize = 4;
/// Exits in a line.
const EXITS_A_LINE: usize = 4;

impl View for FaultsView {
    fn text(&self) -> String {
        let Some(last) = self.reports.last() else { return format!("vm {}: no faults\n", self.vm) };
        let rows = self.reports.iter().map(|report| {
            vec_of([
                &report.number,
                &seconds(report.at_us),
                &report.start,
                &report.kind,
                &report.action,
                &report.detail,
            ])
        });
        let list = table(&["<FAULT", "<AT", "<START", "KIND", "ACTION", "WHAT"], rows);
        let shown = self.shown.unwrap_or(last.number);
        let Some(report) = self.reports.iter().find(|report| report.number == shown) else { return list };
        format!("{list}\n{}", report.full(&self.vm))
    }
}

impl FaultView {
    fn full(&self, vm: &str) -> String {
        let mut text = format!(
            "fault {} of vm {vm}: {}: {}\n  {}\n  at {} of the host's uptime, {} after start {} of the VM\n  {}\n",
            self.number,
            self.kind,
            self.cause,
            self.detail,
            seconds(self.at_us),
            seconds(self.vm_uptime_us),
            self.start,
            self.action
        );
        match &self.vcpu {
            Some(vcpu) => text += &vcpu.full(),
            None => text += "the host's memory was too short to keep the vCPU's state\n",
        }
        text += "exits since the start\n";
        text += &table(&["", "", "<"], self.exit_counts.iter().map(|row| vec_of([&"", &row.reason, &row.count])));
        text + &format!(
            "accesses to what is not there: {} to ports, {} to MSRs, {} to memory\n",
            self.unknown_ports, self.unknown_msrs, self.unknown_memory
        )
    }
}

impl VcpuFaultView {
    fn full(&self) -> String {
        let mut text = format!("vCPU {}, {}-bit code, guest tick {}\n", self.index, self.code_bits, self.tick);
        let register = |row: &RegisterRow| format!("{:>6} {:18}", row.name, row.value);
        text += &lines(self.registers.chunks(REGISTERS_A_LINE), register);
        let dash = |value: &Option<String>| value.clone().unwrap_or_else(|| String::from("-"));
        let segments = self.segments.iter().map(|row| {
            vec_of([&"", &row.name, &dash(&row.selector), &row.base, &row.limit, &dash(&row.access_rights)])
        });
        text += &table(&["", "SEGMENT", "SELECTOR", "BASE", "LIMIT", "RIGHTS"], segments);
        text += &format!(
            "code at {}\n  {}\n",
            self.code_address,
            if self.code.is_empty() { "cannot be read" } else { &self.code }
        );
        for walk in &self.walks {
            text += &format!("{} {} through the page tables\n", walk.of, walk.address);
            let entries = walk.entries.iter().map(|row| {
                vec_of([
                    &"",
                    &row.level,
                    &format!("at {}", row.address),
                    &row.value.as_deref().unwrap_or("is not in RAM"),
                ])
            });
            text += &table(&[], entries);
            text += &match (&walk.leads_to, &walk.fault) {
                (Some(gpa), _) => format!("  guest-physical {gpa}\n"),
                (None, fault) => format!("  {}\n", fault.as_deref().unwrap_or("nowhere")),
            };
        }
        let word = |row: &WordRow| format!("  {}: {:18}", row.address, row.value);
        text += if self.stack.is_empty() { "stack: cannot be read\n" } else { "stack\n" };
        text += &lines(self.stack.chunks(2), word);
        text += if self.backtrace.is_empty() { "backtrace: no frames\n" } else { "backtrace: frame, return address\n" };
        text += &lines(self.backtrace.chunks(1), word);
        text += &format!("last {} exits, the newest last: reason @ guest tick\n", self.exits.len());
        text + &lines(self.exits.chunks(EXITS_A_LINE), |row: &ExitRow| format!("  {} @ {}", row.reason, row.tick))
    }
}

/// Each chunk as a line.
fn lines<'a, T: 'a>(chunks: impl Iterator<Item = &'a [T]>, cell: impl Fn(&T) -> String) -> String {
    let mut text = String::new();
    for chunk in chunks {
        let line: String = chunk.iter().map(&cell).collect();
        text += line.trim_end();
        text.push('\n');
    }
    text
}
