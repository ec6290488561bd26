//! The text of `sched` and `alloc`, and of the CPUs in `cpu`.

use super::super::view::{AllocView, CpuRow, SchedView};
use super::{View, duration_ns, millicpu, percent, seconds, size, table, vec_of};
use crate::config::units::{format_duration_us, format_ratio, format_size};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl View for SchedView {
    fn text(&self) -> String {
        let mut text = format!("policy {}, measured over {}\n", self.policy, seconds(self.measured_us));
        text += &self.shares();
        text += &self.latencies();
        text += &cpu_table(&self.cpus);
        for figure in &self.figures {
            let value = thousandths(figure.value_thousandths);
            text += &format!("{} = {value} {}: {}\n", figure.symbol, figure.unit, figure.about);
        }
        if let Some(jain) = self.jain_millionths {
            text += &format!("Jain's index {}.{:06}: 1 is perfectly fair\n", jain / 1_000_000, jain % 1_000_000);
        }
        text
    }
}

impl SchedView {
    fn shares(&self) -> String {
        let header = [
            "VM",
            "STATE",
            "<VCPUS",
            "<WEIGHT",
            "<CAP",
            "<RESERVED",
            "<PRIO",
            "<QUANTUM",
            "<CPU TIME",
            "<SHARE",
            "<DUE",
        ];
        let rows = self.vms.iter().map(|row| {
            vec_of([
                &row.vm,
                &row.state,
                &row.vcpus,
                &row.weight,
                &percent(row.cap_percent),
                &percent(Some(row.reservation_percent)),
                &row.priority,
                &format_duration_us(row.quantum_us),
                &seconds(row.cpu_time_us),
                &millicpu(row.share_millicpu),
                &row.due_millicpu.map_or_else(|| String::from("-"), millicpu),
            ])
        });
        table(&header, rows)
    }

    fn latencies(&self) -> String {
        let header =
            ["VM", "<WAIT P50", "<P99", "<MAX", "<WAKE-UP P50", "<P99", "<MAX", "<SWITCHES", "<MIGRATIONS", "<STOLEN"];
        let rows = self.vms.iter().map(|row| {
            vec_of([
                &row.vm,
                &duration_ns(row.wait.p50_ns),
                &duration_ns(row.wait.p99_ns),
                &duration_ns(row.wait.max_ns),
                &duration_ns(row.wakeup.p50_ns),
                &duration_ns(row.wakeup.p99_ns),
                &duration_ns(row.wakeup.max_ns),
                &row.switches,
                &row.migrations,
                &seconds(row.steal_us),
            ])
        });
        table(&header, rows)
    }
}

/// The CPUs, one in a line.
pub(super) fn cpu_table(cpus: &[CpuRow]) -> String {
    let rows = cpus.iter().map(|row| {
        let time = row.busy_us.saturating_add(row.idle_us);
        let busy = row.busy_us.saturating_mul(1000).checked_div(time).unwrap_or(0);
        vec_of([
            &row.cpu,
            &row.apic_id,
            &millicpu(busy),
            &seconds(row.busy_us),
            &seconds(row.idle_us),
            &row.switches,
            &row.running.as_deref().unwrap_or("-"),
        ])
    });
    table(&["<CPU", "<APIC ID", "<LOAD", "<BUSY", "<IDLE", "<SWITCHES", "RUNNING"], rows)
}

impl View for AllocView {
    fn text(&self) -> String {
        let overcommit = format_ratio(self.overcommit_percent);
        let mut text = format!("strategy {}, overcommit {overcommit}\n", self.strategy);
        let (cpu, memory) = (&self.cpu, &self.memory);
        let percent = |value: u64| format!("{value}%");
        let rows: [Vec<String>; 2] = [
            vec_of([
                &"CPU",
                &percent(cpu.capacity_percent),
                &percent(cpu.capacity_percent),
                &percent(cpu.reserved_percent),
                &percent(cpu.capacity_percent.saturating_sub(cpu.reserved_percent)),
                &percent(cpu.used_percent),
            ]),
            vec_of([
                &"memory",
                &size(memory.capacity_bytes),
                &size(memory.limit_bytes),
                &size(memory.reserved_bytes),
                &size(memory.limit_bytes.saturating_sub(memory.reserved_bytes)),
                &size(memory.used_bytes),
            ]),
        ];
        text += &table(&["RESOURCE", "<CAPACITY", "<LIMIT", "<RESERVED", "<AVAILABLE", "<USED"], rows);
        text += &self.vm_table();
        for row in &self.waiting {
            let (needed, waited) = (size(row.needed_bytes), seconds(row.waited_us));
            text += &format!("vm {} waits for {needed} of memory, for {waited} by now\n", row.vm);
        }
        text
    }
}

impl AllocView {
    fn vm_table(&self) -> String {
        let header = ["VM", "STATE", "<PRIO", "<MIN", "<TARGET", "<MAX", "<POPULATED", "<RESERVED", "<CPU RESERVED"];
        let rows = self.vms.iter().map(|row| {
            vec_of([
                &row.vm,
                &row.state,
                &row.priority,
                &format_size(row.min_bytes),
                &format_size(row.target_bytes),
                &format_size(row.max_bytes),
                &size(row.populated_bytes),
                &size(row.reserved_bytes),
                &percent(Some(row.cpu_reserved_percent)),
            ])
        });
        table(&header, rows)
    }
}

fn thousandths(value: u64) -> String {
    format!("{}.{:03}", value / 1000, value % 1000)
}
