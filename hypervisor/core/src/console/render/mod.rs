//! From a view to the answer: aligned text for people, one line of JSON for machines, both from the same struct.

mod faults;
mod share;
mod vms;

use super::view::{
    ConfigView, CpuView, DoneView, ErrorView, HelpView, LogView, MemView, SecurityRow, SecurityView, StateView,
    StatsView, VersionView,
};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::Serialize;

/// Something that a command shows.
pub trait View: Serialize {
    /// As text for people: whole lines, each ended by LF.
    fn text(&self) -> String;
}

/// The answer to a command, each line ended by LF. JSON is one line.
#[must_use]
pub fn render(view: &impl View, json: bool) -> String {
    if !json {
        return view.text();
    }
    match serde_json::to_string(view) {
        Ok(json) => json + "\n",
        // No view has a map with keys that are no strings, which is all that can fail.
        Err(error) => format!("{{\"error\":\"no JSON for this: {error}\"}}\n"),
    }
}

/// The answer to a command that could not be done.
#[must_use]
pub fn render_error(error: &dyn core::fmt::Display, json: bool) -> String {
    render(&ErrorView { error: error.to_string() }, json)
}

impl View for ErrorView {
    fn text(&self) -> String {
        format!("error: {}\n", self.error)
    }
}

impl View for DoneView {
    fn text(&self) -> String {
        format!("{}\n", self.done)
    }
}

impl View for HelpView {
    fn text(&self) -> String {
        if let [command] = self.commands.as_slice() {
            return format!("{}\n  {}\n", command.usage, command.about);
        }
        let rows = self.commands.iter().map(|row| vec_of([&row.command, &row.about]));
        table(&[], rows) + "Each takes --json. 'help COMMAND' shows how it is typed. Tab completes, arrow up repeats.\n"
    }
}

impl View for MemView {
    fn text(&self) -> String {
        let bytes = |frames: u64| size(frames.saturating_mul(self.frame_bytes));
        let mut rows = Vec::new();
        let mut row = |name: &str, frames: u64, note: &str| rows.push(vec_of([&name, &frames, &bytes(frames), &note]));
        row("total", self.total_frames, "");
        row("free", self.free_frames, "");
        row("hypervisor: heap", self.heap_frames, &format!("{} allocated", size(self.heap_used_bytes)));
        row("hypervisor: other", self.host_frames, "page tables, stacks, VMXON regions");
        for vm in &self.vms {
            let frames = &vm.frames;
            let note = format!("RAM {}, EPT {}, vCPU {}", frames.ram, frames.ept, frames.vcpu);
            row(&format!("vm {}", vm.name), frames.sum(), &note);
        }
        table(&["HOLDER", "<FRAMES", "<SIZE", ""], rows) + &format!("VPIDs in use: {}\n", self.vpids)
    }
}

impl View for CpuView {
    fn text(&self) -> String {
        let used = self.cpus.len();
        let mut text = format!(
            "{}\n{used} of {} CPU{} in use, TSC {}.{:03} MHz ({})\n",
            self.brand,
            self.found,
            if self.found == 1 { "" } else { "s" },
            self.tsc_hz / 1_000_000,
            self.tsc_hz / 1000 % 1000,
            self.tsc_source
        );
        text += &share::cpu_table(&self.cpus);
        let rows = self.vmx.iter().map(|row| vec_of([&row.name, &yes_no(row.present), &yes_no(row.used)]));
        text += &table(&["VT-x CAPABILITY", "PRESENT", "USED"], rows);
        text
    }
}

impl View for SecurityView {
    fn text(&self) -> String {
        let rows = |rows: &[SecurityRow]| -> Vec<Vec<String>> {
            rows.iter().map(|row| vec_of([&row.name, &row.state, &row.reason])).collect()
        };
        let protections = table(&["PROTECTION", "STATE", ""], rows(&self.protections));
        let mitigations = table(&["MITIGATION", "STATE", ""], rows(&self.mitigations));
        let msrs = self.direct_msrs.iter().map(|row| {
            let access = match (row.read, row.write) {
                (true, true) => "read, write",
                (true, false) => "read",
                _ => "write",
            };
            vec_of([&format!("{:#x} to {:#x}", row.first, row.last), &access, &row.reason])
        });
        protections + &mitigations + &table(&["MSRS WITHOUT AN EXIT", "", ""], msrs)
    }
}

/// The same as the commands show, one after the other.
impl View for StateView {
    fn text(&self) -> String {
        let mut text = self.lamina.text();
        let parts = [self.cpu.text(), self.mem.text(), self.sched.text(), self.alloc.text()];
        let vms = self.vms.iter().map(View::text);
        for part in parts.into_iter().chain(vms) {
            text.push('\n');
            text += &part;
        }
        text
    }
}

impl View for ConfigView {
    fn text(&self) -> String {
        self.toml.clone()
    }
}

impl View for StatsView {
    fn text(&self) -> String {
        let mut text = String::new();
        for vm in &self.vms {
            text += &format!(
                "vm {}: {} exits, {} accesses to unknown ports, {} to unknown MSRs\n",
                vm.name, vm.exits, vm.unknown_ports, vm.unknown_msrs
            );
            let rows = vm.reasons.iter().map(|row| vec_of([&"", &row.reason, &row.count]));
            text += &table(&["", "", "<"], rows);
        }
        if text.is_empty() { String::from("no VMs\n") } else { text }
    }
}

impl View for LogView {
    fn text(&self) -> String {
        let mut text = String::new();
        if self.lost_bytes > 0 {
            text += &format!("[the first {} bytes are lost to newer ones]\n", self.lost_bytes);
        }
        for line in &self.lines {
            text += line;
            text.push('\n');
        }
        text
    }
}

impl View for VersionView {
    fn text(&self) -> String {
        format!(
            "{} {} ({} build), started by {}, up {}\n",
            self.name,
            self.version,
            self.profile,
            self.firmware,
            seconds(self.uptime_us)
        )
    }
}

/// Rows in aligned columns, two spaces apart. A header that begins with `<` makes its column flush right; headers that
/// are all empty are not shown.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    let flush_right: Vec<bool> = header.iter().map(|title| title.starts_with('<')).collect();
    let titles: Vec<String> = header.iter().map(|title| title.trim_start_matches('<').into()).collect();
    let shows_header = titles.iter().any(|title| !title.is_empty());
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0).max(titles.len());
    let width = |column: usize| {
        let cells = rows.iter().chain([&titles]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in shows_header.then_some(&titles).into_iter().chain(&rows) {
        let mut line = String::new();
        for ((column, cell), width) in row.iter().enumerate().zip(&widths) {
            if column > 0 {
                line += "  ";
            }
            line += &if flush_right.get(column) == Some(&true) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:width$}")
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

pub(super) fn vec_of<const N: usize>(cells: [&dyn ToString; N]) -> Vec<String> {
    cells.map(ToString::to_string).to_vec()
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// Microseconds as seconds with three digits behind the point.
pub(super) fn seconds(us: u64) -> String {
    format!("{}.{:03}s", us / 1_000_000, us / 1000 % 1000)
}

/// Bytes with one digit behind the point, for people.
pub(super) fn size(bytes: u64) -> String {
    for (unit, shift) in [("G", 30), ("M", 20), ("K", 10)] {
        if bytes >> shift != 0 {
            let tenth = (bytes % (1 << shift)).saturating_mul(10) >> shift;
            return if tenth == 0 {
                format!("{}{unit}", bytes >> shift)
            } else {
                format!("{}.{tenth}{unit}", bytes >> shift)
            };
        }
    }
    format!("{bytes}B")
}

/// Nanoseconds with three digits or so, for people: `950ns`, `12.3us`, `4.0ms`, `1.2s`.
pub(super) fn duration_ns(ns: u64) -> String {
    for (unit, factor) in [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1000)] {
        if ns >= factor {
            return format!("{}.{}{unit}", ns / factor, ns % factor * 10 / factor);
        }
    }
    format!("{ns}ns")
}

/// Thousandths of a CPU as percent of one.
pub(super) fn millicpu(millicpu: u64) -> String {
    format!("{}.{}%", millicpu / 10, millicpu % 10)
}

/// Percent, or `-` for none.
fn percent(percent: Option<u32>) -> String {
    percent.map_or_else(|| String::from("-"), |percent| format!("{percent}%"))
}
