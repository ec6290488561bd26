//! From a view to the answer: aligned text for people, one line of JSON for machines, both from the same struct.

use super::view::{
    CpuView, DoneView, ErrorView, HelpView, LogView, MemView, SchedView, StatsView, VersionView, VmFrames, VmInfoView,
    VmListView,
};
use crate::config::units::{format_duration_us, format_size};
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

impl View for VmListView {
    fn text(&self) -> String {
        if self.vms.is_empty() {
            return String::from("no VMs; 'vm create NAME --image FILE' makes one\n");
        }
        let header =
            ["NAME", "STATE", "<MEMORY", "<POPULATED", "<QUANTUM", "<CPU", "<UPTIME", "<EXITS", "IMAGE", "LAST STOP"];
        let rows = self.vms.iter().map(|vm| {
            vec_of([
                &vm.name,
                &vm.state,
                &format_size(vm.memory_bytes),
                &size(vm.populated_bytes),
                &format_duration_us(vm.quantum_us),
                &seconds(vm.cpu_time_us),
                &seconds(vm.uptime_us),
                &vm.exits,
                &vm.image,
                &vm.last_stop.as_deref().unwrap_or("-"),
            ])
        });
        table(&header, rows)
    }
}

impl View for VmInfoView {
    fn text(&self) -> String {
        let vm = &self.row;
        let frames = &self.frames;
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec_of([&name, &value]));
        row("name", vm.name.clone());
        row("state", vm.state.into());
        row("last stop", vm.last_stop.clone().unwrap_or_else(|| String::from("-")));
        row("image", format!("{} ({})", vm.image, self.format));
        if let Some(initrd) = &self.initrd {
            row("initrd", initrd.clone());
        }
        row("command line", if self.cmdline.is_empty() { String::from("-") } else { self.cmdline.clone() });
        for module in &self.modules {
            row("module", module.clone());
        }
        row("memory", format!("{}, {} populated", format_size(vm.memory_bytes), size(vm.populated_bytes)));
        row("host frames", format!("{} (RAM {}, EPT {}, vCPU {})", frames.sum(), frames.ram, frames.ept, frames.vcpu));
        row("vCPUs", self.vcpus.to_string());
        row("quantum", format_duration_us(vm.quantum_us));
        row("CPU time", seconds(vm.cpu_time_us));
        row("uptime", seconds(vm.uptime_us));
        row("VM exits", vm.exits.to_string());
        row("serial output", format!("{} bytes", self.serial_bytes));
        row("starts", self.starts.to_string());
        row("autostart", if self.autostart { "yes" } else { "no" }.into());
        table(&[], rows)
    }
}

impl VmFrames {
    /// All frames that the VM holds.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.ram.saturating_add(self.ept).saturating_add(self.vcpu)
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
        table(&["HOLDER", "<FRAMES", "<SIZE", ""], rows)
    }
}

impl View for CpuView {
    fn text(&self) -> String {
        let mut text = format!(
            "{}\n{} CPU{} in use, TSC {}.{:03} MHz ({})\n",
            self.brand,
            self.cpus,
            if self.cpus == 1 { "" } else { "s" },
            self.tsc_hz / 1_000_000,
            self.tsc_hz / 1000 % 1000,
            self.tsc_source
        );
        let rows = self.vmx.iter().map(|row| vec_of([&row.name, &yes_no(row.present), &yes_no(row.used)]));
        text += &table(&["VT-x CAPABILITY", "PRESENT", "USED"], rows);
        text
    }
}

impl View for SchedView {
    fn text(&self) -> String {
        let header = ["VM", "<VCPU", "STATE", "<QUANTUM", "<RUNS", "<USED", "<WAITED", "<LONGEST WAIT"];
        let rows = self.vcpus.iter().map(|row| {
            vec_of([
                &row.vm,
                &row.vcpu,
                &row.state,
                &format_duration_us(row.quantum_us),
                &row.runs,
                &seconds(row.used_us),
                &seconds(row.wait_total_us),
                &seconds(row.wait_max_us),
            ])
        });
        let last = self.current.as_deref().unwrap_or("none yet");
        let head = format!(
            "policy {}, {} switches, idle {}, last on the CPU: {last}\n",
            self.policy,
            self.switches,
            seconds(self.idle_us)
        );
        head + &table(&header, rows)
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
fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
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

fn vec_of<const N: usize>(cells: [&dyn ToString; N]) -> Vec<String> {
    cells.map(ToString::to_string).to_vec()
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// Microseconds as seconds with three digits behind the point.
fn seconds(us: u64) -> String {
    format!("{}.{:03}s", us / 1_000_000, us / 1000 % 1000)
}

/// Bytes with one digit behind the point, for people.
fn size(bytes: u64) -> String {
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
