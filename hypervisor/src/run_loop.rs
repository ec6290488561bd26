//! The loop of each CPU: the host's own work, the timers, the next vCPU.

use crate::console_task::ConsoleTask;
use crate::cpus::{self, BOOT_CPU};
use crate::hypervisor::Hypervisor;
use crate::manager::{Manager, Next, Turn};
use crate::vm::Vm;
use crate::vmm::{Vmm, waits_for};
use crate::{flight, logger};
use alloc::sync::Arc;
use lamina_core::sched::CpuId;
use lamina_core::vm::State;
use lamina_hw::vmx::VmxRoot;
use lamina_hw::{apic, cpu, power, serial, time};

/// The longest a CPU sleeps or is in a guest at a stretch, in microseconds, whatever slice the guest has: it looks around then,
/// for interrupts that do not come.
const LOOK_AROUND_US: u64 = 100_000;

/// How often the serial line is looked at while guests run, or output waits, in microseconds.
const POLL_US: u64 = 2_000;

/// Runs for good. The boot CPU has the console.
pub(crate) fn run(hypervisor: &'static Hypervisor, cpu: CpuId, mut root: VmxRoot, console: Option<ConsoleTask>) -> ! {
    let mut desk = console.map(|console| Desk { console, polled_at: 0 });
    // The last turn, as long as it was not reported. Its vCPU may still be loaded.
    let mut last: Option<Turn> = None;
    loop {
        cpu::take_pending_interrupts();
        if let Some(desk) = desk.as_mut()
            && desk.has_work(hypervisor)
        {
            leave(hypervisor, &mut root, last.take());
            desk.work(&mut Vmm { hypervisor, root: &mut root });
        }
        let next = decide(hypervisor, cpu, &mut root, last.take());
        let now = time::now();
        let mut look_at = now.saturating_add(hypervisor.us_to_ticks(LOOK_AROUND_US));
        if let Some(desk) = &desk {
            look_at = look_at.min(desk.next_look(hypervisor, now));
        }
        match next {
            Next::Run(mut turn) => {
                flight::turn(cpu, turn.vcpu);
                turn.end = Some(turn.machine.run(hypervisor, &turn, &mut root, turn.until.min(look_at)));
                turn.ended = time::now();
                last = Some(turn);
            }
            Next::Idle { until } => idle(cpu, until.min(look_at)),
        }
    }
}

/// Reports the last turn and asks what is next. A vCPU that is not the next one leaves the CPU before another CPU can learn that
/// it may be run: nobody finds it loaded elsewhere.
fn decide(hypervisor: &Hypervisor, cpu: CpuId, root: &mut VmxRoot, mut last: Option<Turn>) -> Next {
    let mut manager = hypervisor.manager.lock();
    let now = time::now();
    if let Some(turn) = &mut last {
        manager.report(turn, now);
    }
    manager.wake_due(cpu, now);
    let next = manager.pick(cpu, now);
    if let Some(turn) = last {
        let stays =
            matches!(&next, Next::Run(next) if next.vcpu == turn.vcpu && Arc::ptr_eq(&next.machine, &turn.machine));
        if !stays {
            turn.machine.unload(turn.vcpu.index, root);
        }
    }
    next
}

/// Reports the last turn; the CPU has no vCPU from here on.
fn leave(hypervisor: &Hypervisor, root: &mut VmxRoot, last: Option<Turn>) {
    let Some(mut turn) = last else { return };
    let mut manager = hypervisor.manager.lock();
    manager.report(&mut turn, time::now());
    turn.machine.unload(turn.vcpu.index, root);
}

/// Halts the CPU until something is to be done, `until` at the latest.
fn idle(cpu: CpuId, until: u64) {
    // Interrupts are off: what comes between this look and the halt ends the halt.
    if until > time::now() && !cpus::is_to_decide(cpu) && !(cpu == BOOT_CPU && serial::has_input()) {
        apic::set_clock_event(until);
        cpu::wait_for_interrupt();
        if cpu == BOOT_CPU {
            serial::pump();
        }
    }
}

/// What only the boot CPU does: the console, and the life of the VMs.
struct Desk {
    console: ConsoleTask,
    /// Host TSC at which the serial line was last looked at without being asked by its interrupt.
    polled_at: u64,
}

impl Desk {
    /// Whether the host has something to do. Looks at the serial line now and then: its interrupt is edge-triggered, so one that
    /// comes while another is being handled is lost, and there may be no IOAPIC to route it.
    fn has_work(&mut self, hypervisor: &Hypervisor) -> bool {
        let now = time::now();
        if now.saturating_sub(self.polled_at) >= hypervisor.us_to_ticks(POLL_US) {
            self.polled_at = now;
            serial::pump();
        }
        let to_draw = self.console.next_draw().is_some_and(|at| at <= now);
        if to_draw
            || serial::has_input()
            || self.console.waits_for_log() && logger::has_pending()
            || logger::is_full()
            || now >= deadline(hypervisor)
        {
            return true;
        }
        let manager = hypervisor.manager.lock();
        !manager.news.is_empty()
            || manager.next_appointment().is_some_and(|at| at <= now)
            || manager.vms.iter().any(Vm::has_typed)
    }

    /// The host TSC at which it looks around at the latest, from `now` on.
    fn next_look(&self, hypervisor: &Hypervisor, now: u64) -> u64 {
        let draw = self.console.next_draw().unwrap_or(u64::MAX);
        // Output that waits goes on by interrupt, or by looking again where none comes.
        let output = if serial::has_output() { now.saturating_add(hypervisor.us_to_ticks(POLL_US)) } else { u64::MAX };
        draw.min(output).min(deadline(hypervisor))
    }

    fn work(&mut self, vmm: &mut Vmm<'_>) {
        vmm.see_to_news();
        vmm.keep_appointments();
        self.console.turn(vmm);
        end_if_asked(vmm.hypervisor, &mut self.console);
    }
}

/// The host TSC at which the hypervisor is to end, if the configuration says so.
fn deadline(hypervisor: &Hypervisor) -> u64 {
    hypervisor
        .host
        .poweroff_after_us
        .map_or(u64::MAX, |us| hypervisor.boot_tsc.saturating_add(hypervisor.us_to_ticks(us)))
}

/// Whether the VM is not started anew before the operator does something about another one.
fn is_given_up(manager: &Manager, vm: &Vm) -> bool {
    vm.state == State::Restarting
        && waits_for(manager, vm).is_some_and(|other| !other.state.is_alive() || is_given_up(manager, other))
}

/// Powers the machine off where the configuration asks for it.
fn end_if_asked(hypervisor: &Hypervisor, console: &mut ConsoleTask) {
    let manager = hypervisor.manager.lock();
    let done = hypervisor.host.poweroff_when_done
        && manager.vms.iter().any(|vm| vm.starts > 0)
        && !manager.vms.iter().any(|vm| vm.state.is_alive() && !is_given_up(&manager, vm));
    drop(manager);
    if done || time::now() >= deadline(hypervisor) {
        let why = if done { "no VM runs any more (poweroff_when_done)" } else { "poweroff_after has passed" };
        log::info!("powering off: {why}");
        console.print_pending();
        power::power_off(&hypervisor.platform);
    }
}
