//! The text of `vm list` and `vm info`.

use super::super::view::{SuspectView, VmFrames, VmInfoView, VmListView};
use super::{View, percent, seconds, size, table, vec_of, yes_no};
use crate::config::units::{format_duration_us, format_size};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

impl View for VmListView {
    fn text(&self) -> String {
        if self.vms.is_empty() {
            return String::from("no VMs; 'vm create NAME --image FILE' makes one\n");
        }
        let header = [
            "NAME",
            "STATE",
            "<VCPUS",
            "<MEMORY",
            "<POPULATED",
            "<WEIGHT",
            "<CPU",
            "<UPTIME",
            "<EXITS",
            "GROUP",
            "IMAGE",
            "LAST STOP",
        ];
        let rows = self.vms.iter().map(|vm| {
            vec_of([
                &vm.name,
                &vm.state,
                &vm.vcpus,
                &format_size(vm.memory_bytes),
                &size(vm.populated_bytes),
                &vm.weight,
                &seconds(vm.cpu_time_us),
                &seconds(vm.uptime_us),
                &vm.exits,
                &vm.group.as_deref().unwrap_or("-"),
                &vm.image,
                &vm.last_stop.as_deref().unwrap_or("-"),
            ])
        });
        table(&header, rows)
    }
}

impl View for VmInfoView {
    fn text(&self) -> String {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec_of([&name, &value]));
        self.describe(&mut row);
        self.resources(&mut row);
        self.figures(&mut row);
        let text = table(&[], rows);
        let vcpus = self.vcpu_rows.iter().map(|row| {
            let cpu = row.cpu.map_or_else(|| String::from("-"), |cpu| cpu.to_string());
            vec_of([&row.vcpu, &row.state, &cpu, &row.affinity, &seconds(row.cpu_time_us)])
        });
        if self.vcpu_rows.is_empty() {
            return text;
        }
        text + &table(&["VCPU", "STATE", "<CPU", "MAY RUN ON", "<CPU TIME"], vcpus)
    }
}

impl VmInfoView {
    /// What it is.
    fn describe(&self, row: &mut dyn FnMut(&str, String)) {
        let vm = &self.row;
        row("name", vm.name.clone());
        row("state", vm.state.into());
        row("last stop", vm.last_stop.clone().unwrap_or_else(|| String::from("-")));
        if let Some(group) = &vm.group {
            row("group", group.clone());
        }
        if !self.after.is_empty() {
            row("starts after", self.after.join(", "));
        }
        row("image", format!("{} ({})", vm.image, self.format));
        if let Some(initrd) = &self.initrd {
            row("initrd", initrd.clone());
        }
        row("command line", if self.cmdline.is_empty() { String::from("-") } else { self.cmdline.clone() });
        for module in &self.modules {
            row("module", module.clone());
        }
        row("autostart", yes_no(self.autostart).into());
        row("stop grace", format_duration_us(self.stop_grace_us));
        row("on fault", format!("{}, at most {} restarts", self.on_fault, self.restart_limit));
        let access_loop = self.access_loop.map_or_else(|| String::from("-"), |count| format!("{count} accesses"));
        row("access loop", access_loop);
        if let Some(watchdog_us) = self.watchdog_us {
            row("watchdog", format_duration_us(watchdog_us));
        }
    }

    /// What it is given.
    fn resources(&self, row: &mut dyn FnMut(&str, String)) {
        let vm = &self.row;
        let frames = &self.frames;
        row("memory", format!("{}, {} populated", format_size(vm.memory_bytes), size(vm.populated_bytes)));
        let balloon = if self.balloon { "with a balloon" } else { "without a balloon" };
        let (min, max) = (format_size(self.memory_min_bytes), format_size(self.memory_max_bytes));
        row("memory bounds", format!("{min} to {max}, {balloon}"));
        row("host frames", format!("{} (RAM {}, EPT {}, vCPU {})", frames.sum(), frames.ram, frames.ept, frames.vcpu));
        row("vCPUs", vm.vcpus.to_string());
        row("may run on", self.affinity.clone());
        row("weight", vm.weight.to_string());
        row("cap", percent(self.cap_percent));
        row("reservation", format!("{}%", self.reservation_percent));
        row("priority", self.priority.to_string());
        row("quantum", format_duration_us(vm.quantum_us));
    }

    /// What it did.
    fn figures(&self, row: &mut dyn FnMut(&str, String)) {
        let vm = &self.row;
        row("CPU time", seconds(vm.cpu_time_us));
        row("stolen time", seconds(self.steal_us));
        row("uptime", seconds(vm.uptime_us));
        row("VM exits", vm.exits.to_string());
        if let Some(SuspectView { reason, per_s, usual_per_s, log2_odds }) = &self.suspect {
            row(
                "suspect",
                format!("{per_s} exits a second for {reason}, usually {usual_per_s}; odds 2^{log2_odds} to 1"),
            );
        }
        if self.crash_kernel {
            row("guest panic", String::from("yes, handled by its crash kernel"));
        }
        row("serial output", format!("{} bytes", self.serial_bytes));
        row("starts", self.starts.to_string());
        let last = self.last_fault.as_ref().map_or_else(String::new, |fault| format!(", the last one {fault}"));
        row("faults", format!("{}{last}", self.faults));
    }
}

impl VmFrames {
    /// All frames that the VM holds.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.ram.saturating_add(self.ept).saturating_add(self.vcpu)
    }
}
