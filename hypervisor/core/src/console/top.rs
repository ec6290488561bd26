//! `top`: what the machine does now, from two looks at it, and a screen of it that is redrawn in place.
//!
//! The kernel takes a [`TopSnapshot`] now and then; [`TopView::between`] makes rates of two of them; [`TopScreen`] draws
//! the view on a VT100 terminal: the cursor home, each line erased behind its end, everything erased below the last, so
//! that nothing of an earlier screen stays and nothing flickers.

use super::render::{View, duration_ns, millicpu, size, table, vec_of};
use crate::vm::State;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Reverse;
use serde::Serialize;

/// A look at the machine. All times and counts are sums since boot or since the VM's start.
#[derive(Clone, Debug, Default)]
pub struct TopSnapshot {
    /// The host's uptime.
    pub at_us: u64,
    /// The scheduling policy's name.
    pub policy: &'static str,
    /// The memory that there is for VMs.
    pub memory_bytes: u64,
    /// How much of it nobody holds.
    pub free_bytes: u64,
    /// How long each CPU in use was busy; the index is the CPU's number.
    pub cpus_busy_us: Vec<u64>,
    /// The VMs.
    pub vms: Vec<TopSample>,
}

/// A VM in a [`TopSnapshot`].
#[derive(Clone, Debug, Default)]
pub struct TopSample {
    /// Its name.
    pub name: String,
    /// How often it was started; its sums begin anew with each start.
    pub starts: u64,
    /// Its state.
    pub state: &'static str,
    /// How many vCPUs it has.
    pub vcpus: u16,
    /// The CPU time that it used since its start.
    pub cpu_time_us: u64,
    /// What is due to it now, in thousandths of one CPU, if the policy promises anything.
    pub due_millicpu: Option<u64>,
    /// The guest memory that is backed by host frames.
    pub populated_bytes: u64,
    /// The memory that it is to have.
    pub target_bytes: u64,
    /// Its VM exits since its start.
    pub exits: u64,
    /// How long 99 of 100 of its waits for a CPU were at most.
    pub wait_p99_ns: u64,
}

/// `top --once`, and what is on the screen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TopView {
    /// The host's uptime.
    pub uptime_us: u64,
    /// The time that the rates are of.
    pub interval_us: u64,
    /// The scheduling policy's name.
    pub policy: &'static str,
    /// The memory that there is for VMs.
    pub memory_bytes: u64,
    /// How much of it nobody holds.
    pub free_bytes: u64,
    /// How busy each CPU was, in thousandths; the index is the CPU's number.
    pub cpus_busy_millicpu: Vec<u64>,
    /// The VMs, the busiest first.
    pub vms: Vec<TopRow>,
}

/// A VM in [`TopView`].
#[derive(Clone, Debug, Default, Serialize)]
pub struct TopRow {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: &'static str,
    /// How many vCPUs it has.
    pub vcpus: u16,
    /// The CPU time that it got, in thousandths of one CPU.
    pub cpu_millicpu: u64,
    /// What is due to it; null where the policy promises nothing.
    pub due_millicpu: Option<u64>,
    /// The guest memory that is backed by host frames.
    pub populated_bytes: u64,
    /// The memory that it is to have.
    pub target_bytes: u64,
    /// Its VM exits per second.
    pub exits_per_s: u64,
    /// How long 99 of 100 of its waits for a CPU were at most.
    pub wait_p99_ns: u64,
}

impl TopView {
    /// What happened between two looks. A VM that was started since `earlier`, and all of them where that is
    /// [`TopSnapshot::default`], is measured from nothing.
    #[must_use]
    pub fn between(earlier: &TopSnapshot, now: &TopSnapshot) -> Self {
        let interval_us = now.at_us.saturating_sub(earlier.at_us);
        let busy = now.cpus_busy_us.iter().enumerate().map(|(cpu, &busy_us)| {
            let before = earlier.cpus_busy_us.get(cpu).copied().unwrap_or(0);
            // Time is read a little after the sums: a CPU is never busier than all the time.
            rate(busy_us.saturating_sub(before), 1000, interval_us).min(1000)
        });
        let mut vms: Vec<TopRow> = now.vms.iter().map(|vm| TopRow::between(earlier, vm, interval_us)).collect();
        vms.sort_by(|a, b| (Reverse(a.cpu_millicpu), &a.name).cmp(&(Reverse(b.cpu_millicpu), &b.name)));
        Self {
            uptime_us: now.at_us,
            interval_us,
            policy: now.policy,
            memory_bytes: now.memory_bytes,
            free_bytes: now.free_bytes,
            cpus_busy_millicpu: busy.collect(),
            vms,
        }
    }

    fn head(&self) -> Vec<String> {
        let seconds = self.uptime_us / 1_000_000;
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let used = self.memory_bytes.saturating_sub(self.free_bytes);
        let alive = self.vms.iter().filter(|vm| vm.cpu_millicpu > 0).count();
        let mut lines = Vec::from([format!(
            "up {hours}:{minutes:02}:{seconds:02}, policy {}, {} VMs ({alive} used a CPU), memory {} of {}",
            self.policy,
            self.vms.len(),
            size(used),
            size(self.memory_bytes),
        )]);
        let cpus: Vec<String> = self
            .cpus_busy_millicpu
            .iter()
            .enumerate()
            .map(|(cpu, &busy)| format!("cpu{cpu:<3}{:>7}", millicpu(busy)))
            .collect();
        lines.extend(cpus.chunks(CPUS_PER_LINE).map(|line| line.join("  ")));
        lines
    }

    fn vm_lines(&self) -> Vec<String> {
        let header = ["NAME", "STATE", "<VCPU", "<CPU%", "<DUE%", "<MEM", "<TARGET", "<EXITS/s", "<WAIT P99"];
        let rows = self.vms.iter().map(|vm| {
            vec_of([
                &shortened(&vm.name),
                // As short as the others, for the line to fit.
                &if vm.state == State::PausedMemory.name() { "pause:mem" } else { vm.state },
                &vm.vcpus,
                &tenths(vm.cpu_millicpu),
                &vm.due_millicpu.map_or_else(|| String::from("-"), tenths),
                &size(vm.populated_bytes),
                &size(vm.target_bytes),
                &vm.exits_per_s,
                &duration_ns(vm.wait_p99_ns),
            ])
        });
        table(&header, rows).lines().map(String::from).collect()
    }
}

/// As many as 80 columns hold.
const CPUS_PER_LINE: usize = 5;
/// The columns of the screen that a VM's name may take, so that the figures fit beside it.
const NAME_COLUMNS: usize = 12;

/// Thousandths of a CPU as percent of one, without the sign.
fn tenths(millicpu: u64) -> String {
    format!("{}.{}", millicpu / 10, millicpu % 10)
}

/// A name that fits its column; the end tells replicas apart, so the middle goes.
fn shortened(name: &str) -> String {
    let count = name.chars().count();
    if count <= NAME_COLUMNS {
        return name.into();
    }
    let tail = 5;
    let head = name.chars().take(NAME_COLUMNS - tail - 1);
    head.chain(['~']).chain(name.chars().skip(count - tail)).collect()
}

impl TopRow {
    fn between(earlier: &TopSnapshot, vm: &TopSample, interval_us: u64) -> Self {
        let before = earlier.vms.iter().find(|before| before.name == vm.name && before.starts == vm.starts);
        let since = |now: u64, of: fn(&TopSample) -> u64| now.saturating_sub(before.map_or(0, of));
        Self {
            name: vm.name.clone(),
            state: vm.state,
            vcpus: vm.vcpus,
            cpu_millicpu: rate(since(vm.cpu_time_us, |vm| vm.cpu_time_us), 1000, interval_us),
            due_millicpu: vm.due_millicpu,
            populated_bytes: vm.populated_bytes,
            target_bytes: vm.target_bytes,
            exits_per_s: rate(since(vm.exits, |vm| vm.exits), 1_000_000, interval_us),
            wait_p99_ns: vm.wait_p99_ns,
        }
    }
}

/// `amount * scale / interval_us`, rounded to the nearest; 0 over no time.
fn rate(amount: u64, scale: u64, interval_us: u64) -> u64 {
    let scaled = u128::from(amount) * u128::from(scale) + u128::from(interval_us / 2);
    u64::try_from(scaled.checked_div(u128::from(interval_us)).unwrap_or(0)).unwrap_or(u64::MAX)
}

impl View for TopView {
    fn text(&self) -> String {
        self.head().into_iter().chain(self.vm_lines()).map(|line| line + "\n").collect()
    }
}

/// The screen that `top` draws on.
#[derive(Clone, Copy, Debug)]
pub struct TopScreen {
    columns: usize,
    rows: usize,
    drawn: bool,
}

impl Default for TopScreen {
    /// The 80 by 24 of a VT100: what is on the other end of a serial line cannot be asked.
    fn default() -> Self {
        Self::new(80, 24)
    }
}

impl TopScreen {
    /// A screen of this size, at least 20 by 4.
    #[must_use]
    pub fn new(columns: usize, rows: usize) -> Self {
        Self { columns: columns.max(20), rows: rows.max(4), drawn: false }
    }

    /// The bytes that put the view on the screen. The first time they clear it and hide the cursor.
    pub fn draw(&mut self, view: &TopView) -> String {
        let mut bytes = String::from(if self.drawn { HOME } else { ENTER });
        self.drawn = true;
        let lines = self.lines(view);
        for (index, line) in lines.iter().enumerate() {
            if index > 0 {
                bytes += "\r\n";
            }
            // The last column stays free: terminals differ in where the cursor is behind it.
            bytes.extend(line.chars().filter(|character| !character.is_control()).take(self.columns - 1));
            bytes += ERASE_LINE;
        }
        bytes + ERASE_BELOW
    }

    /// The bytes that give the terminal back: the screen is cleared and the cursor shows.
    pub fn leave(&mut self) -> String {
        self.drawn = false;
        String::from(LEAVE)
    }

    /// At most as many lines as the screen has; what is left out is counted in the last but one.
    fn lines(&self, view: &TopView) -> Vec<String> {
        let mut lines = view.head();
        // However many CPUs there are, VMs need their lines.
        lines.truncate((self.rows / 2).max(1));
        let vms = view.vm_lines();
        let room = self.rows.saturating_sub(lines.len() + 1);
        let hidden = (vms.len() + 1).saturating_sub(room);
        if hidden > 1 {
            lines.extend(vms.into_iter().take(room.saturating_sub(1)));
            lines.push(format!("and {hidden} VMs more that used less; 'top --once' shows all"));
        } else {
            lines.extend(vms);
        }
        lines.push(String::from("q or Ctrl-C leaves"));
        lines
    }
}

/// Whether a byte typed while the live screen is up leaves it: `q`, `Q` or Ctrl-C.
#[must_use]
pub const fn leaves_top(byte: u8) -> bool {
    matches!(byte, b'q' | b'Q' | 0x03)
}

/// Clear the screen, the cursor home and hidden.
const ENTER: &str = "\x1b[?25l\x1b[2J\x1b[H";
const HOME: &str = "\x1b[H";
const ERASE_LINE: &str = "\x1b[K";
const ERASE_BELOW: &str = "\x1b[J";
/// Clear the screen, the cursor home and shown.
const LEAVE: &str = "\x1b[2J\x1b[H\x1b[?25h";
