//! A started VM: its RAM, its devices, its vCPU, and how they run.
//!
//! [`Guest::run`] is the path of every VM exit: deliver what is due (`interrupts`), enter, decide and apply (`exits`). It
//! allocates and formats nothing but a crash report. `build` makes a guest of a configuration and its image.

mod build;
mod exits;
mod interrupts;

use crate::flight;
use crate::serial_port::SerialPort;
use crate::trace;
use alloc::format;
use alloc::string::{String, ToString};
use lamina_core::device::board::Board;
use lamina_core::device::lapic::LocalApic;
use lamina_core::exit::replay::Setting;
use lamina_core::exit::{Event, ExitCounters, StopReason};
use lamina_core::x86::cpuid::CpuidConfig;
use lamina_core::x86::{CpuState, Gprs};
use lamina_hw::mem::GuestRam;
use lamina_hw::time;
use lamina_hw::vmx::{EntryFailure, Vcpu, VmxRoot};

/// Why [`Guest::run`] came back.
#[derive(Debug)]
pub(crate) enum SliceEnd {
    /// Its time was up.
    Preempted,
    /// The host has something to do; the rest of the slice is still the guest's.
    HostWork,
    /// The guest gave the rest of its slice away.
    Yielded,
    /// The guest waits for an interrupt.
    Halted,
    /// The VM is over.
    Stopped(StopReason),
}

/// What the vCPU is doing between its instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Activity {
    Active,
    /// It executed HLT; with RFLAGS.IF clear only an NMI ends that.
    Halted {
        interruptible: bool,
    },
}

/// A VM that was started.
pub(crate) struct Guest {
    machine: Machine,
    vcpu: Vcpu,
    /// What a recording of it begins with.
    setting: Setting,
    cpuid_config: CpuidConfig,
}

/// All of the VM but the vCPU's hardware part, which is lent out while it runs.
struct Machine {
    ram: GuestRam,
    board: Board,
    apic: LocalApic,
    cpu: CpuState,
    gprs: Gprs,
    /// Host TSC at which the guest's clock stood at 0.
    origin: u64,
    activity: Activity,
    /// To be delivered before anything else: an exception, or an event whose delivery an exit cut short.
    pending: Option<Event>,
    /// An interrupt whose delivery raised an exception, which goes first.
    deferred: Option<Event>,
    /// Exits that are yet to be printed as records.
    traced_exits: u32,
    /// The page's IRR or ISR may differ from the VMCS's guest interrupt status.
    interrupt_status_stale: bool,
}

impl Guest {
    /// Has the first `exits` exits printed as records. To be called before the guest runs.
    pub(crate) fn trace(&mut self, exits: u32) {
        self.machine.traced_exits = exits;
        if exits != 0 {
            trace::print_setting(&self.setting, self.cpuid_config);
        }
    }

    /// Runs the vCPU until the host TSC reaches `until`, or something else ends its turn.
    pub(crate) fn run(
        &mut self,
        root: &mut VmxRoot,
        until: u64,
        port: &mut SerialPort,
        counters: &mut ExitCounters,
    ) -> SliceEnd {
        let mut vmcs = root.load(&mut self.vcpu);
        let machine = &mut self.machine;
        loop {
            let host_now = time::now();
            if host_now >= until {
                return SliceEnd::Preempted;
            }
            let now = host_now.wrapping_sub(machine.origin);
            machine.service(now);
            if machine.activity != Activity::Active && !machine.wakes() {
                return SliceEnd::Halted;
            }
            machine.activity = Activity::Active;
            if machine.apic.take_init() {
                return SliceEnd::Stopped(StopReason::Reset);
            }
            if let Err(reason) = machine.apply_changes(&mut vmcs) {
                return SliceEnd::Stopped(reason);
            }
            machine.deliver(&mut vmcs);

            // The timer starts anew at each entry, with what is left.
            let due = machine.next_deadline().map_or(until, |deadline| until.min(deadline));
            vmcs.set_preemption_timer(due.saturating_sub(host_now));
            let exit = match vmcs.run(&machine.ram, &mut machine.gprs) {
                Ok(exit) => exit,
                Err(failure) => return SliceEnd::Stopped(StopReason::Crashed(explain_entry_failure(failure))),
            };
            flight::exit(exit.reason);
            if let Some(end) = machine.handle(&exit, &mut vmcs, port, counters) {
                return end;
            }
        }
    }

    /// Lets the timers that are due at host time `host_now` fire; whether the vCPU has something to do then.
    pub(crate) fn wake_if_due(&mut self, host_now: u64) -> bool {
        self.machine.service(host_now.wrapping_sub(self.machine.origin));
        self.machine.activity == Activity::Active || self.machine.wakes()
    }

    /// The host TSC at which the next timer of the VM is due.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.machine.next_deadline()
    }

    /// Gives the guest's serial port as many of `bytes` as it has room for; answers with how many.
    pub(crate) fn type_bytes(&mut self, bytes: &[u8]) -> usize {
        self.machine.board.serial_input(bytes)
    }

    /// Presses the ACPI power button.
    pub(crate) fn press_power_button(&mut self) {
        let now = time::now().wrapping_sub(self.machine.origin);
        self.machine.board.power_button(now);
    }

    /// The guest's clock stood still for so many ticks.
    pub(crate) fn skip_time(&mut self, ticks: u64) {
        self.machine.origin = self.machine.origin.wrapping_add(ticks);
        self.machine.cpu.set_tsc_adjust(self.machine.cpu.tsc_adjust());
    }

    /// Takes the vCPU's registers out of this CPU, if they are in it.
    pub(crate) fn unload(&mut self, root: &mut VmxRoot) {
        root.unload(&mut self.vcpu);
    }
}

#[cold]
fn explain_entry_failure(failure: EntryFailure) -> String {
    match failure {
        EntryFailure::Invalid => "VM entry failed: no current VMCS; this is a bug of the hypervisor's".to_string(),
        EntryFailure::InstructionError(number) => {
            let text = lamina_core::vmx::instruction_error(number).unwrap_or("not in the manual");
            format!("VM entry failed: VM-instruction error {number}: {text}; this is a bug of the hypervisor's")
        }
    }
}
