//! The loop of the CPU: the console, the timers, the next vCPU.

use crate::console_task::ConsoleTask;
use crate::flight;
use crate::guest::SliceEnd;
use crate::vmm::Vmm;
use lamina_core::sched::{Decision, VcpuId, Why};
use lamina_hw::{apic, cpu, power, serial, time};

/// The longest the CPU sleeps at a stretch, in microseconds: what polls the console where its interrupt does not come.
const IDLE_MAX_US: u64 = 100_000;

/// How often the serial line is looked at while guests run, in microseconds.
const POLL_US: u64 = 2_000;

/// Scheduler figures of the CPU itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CpuFigures {
    pub(crate) idle_ticks: u64,
    pub(crate) switches: u64,
    pub(crate) last: Option<VcpuId>,
    /// Host TSC at which the serial line was last looked at without being asked by its interrupt.
    polled_at: u64,
}

/// Runs for good.
pub(crate) fn run(mut vmm: Vmm, mut console: ConsoleTask) -> ! {
    let mut figures = CpuFigures::default();
    loop {
        cpu::take_pending_interrupts();
        poll_serial(&vmm, &mut figures);
        console.turn(&mut vmm, &figures);
        end_if_asked(&vmm, &mut console);
        wake_due(&mut vmm);
        match vmm.policy.pick_next(time::now()) {
            Decision::Run { vcpu, until } => run_vcpu(&mut vmm, &mut figures, vcpu, until),
            Decision::Idle => idle(&vmm, &mut figures),
        }
    }
}

/// Gives the CPU to a vCPU until its slice ends or another VM's timer is due.
fn run_vcpu(vmm: &mut Vmm, figures: &mut CpuFigures, vcpu: VcpuId, until: u64) {
    let start = time::now();
    let until = vmm.timers.first().map_or(until, |&(due, _)| until.min(due)).min(deadline(vmm));
    if figures.last != Some(vcpu) {
        if let Some(last) = figures.last.replace(vcpu) {
            let root = &mut vmm.root;
            if let Some(guest) = vmm.vms.iter_mut().find(|vm| vm.id == last.vm).and_then(|vm| vm.guest.as_mut()) {
                guest.unload(root);
            }
        }
        figures.switches += 1;
    }
    let Some(vm) = vmm.vms.iter_mut().find(|vm| vm.id == vcpu.vm) else {
        vmm.policy.remove(vcpu);
        return;
    };
    let Some(guest) = vm.guest.as_mut() else {
        vmm.policy.block(vcpu);
        return;
    };
    flight::turn(&vm.config.name, vcpu.index);
    let end = guest.run(&mut vmm.root, until, &mut vm.port, &mut vm.counters);
    let now = time::now();
    let why = match end {
        SliceEnd::Preempted | SliceEnd::HostWork => Why::Preempted,
        SliceEnd::Yielded => Why::Yielded,
        SliceEnd::Halted | SliceEnd::Stopped(_) => Why::Blocked,
    };
    vmm.policy.account(vcpu, now.saturating_sub(start), why, now);
    match end {
        SliceEnd::Halted => vmm.wake(vcpu.vm),
        SliceEnd::Stopped(reason) => vmm.guest_stopped(vcpu.vm, reason),
        SliceEnd::Preempted | SliceEnd::HostWork | SliceEnd::Yielded => {}
    }
}

/// Looks after the serial line now and then: its interrupt is edge-triggered, so one that comes while another is being handled
/// is lost, and there may be no IOAPIC to route it.
fn poll_serial(vmm: &Vmm, figures: &mut CpuFigures) {
    let now = time::now();
    if now.saturating_sub(figures.polled_at) >= vmm.clock.periods_to_ticks(POLL_US, 1_000_000) {
        figures.polled_at = now;
        serial::pump();
    }
}

/// Wakes the VMs whose timers are due.
fn wake_due(vmm: &mut Vmm) {
    let now = time::now();
    while let Some(&(due, id)) = vmm.timers.first().filter(|(due, _)| *due <= now) {
        vmm.timers.remove(&(due, id));
        vmm.wake(id);
    }
}

/// Halts the CPU until the next timer, or until something is typed.
fn idle(vmm: &Vmm, figures: &mut CpuFigures) {
    let start = time::now();
    // Output that waits goes on by interrupt, or by looking again where none comes.
    let longest_us = if serial::has_output() { POLL_US } else { IDLE_MAX_US };
    let longest = start.saturating_add(vmm.clock.periods_to_ticks(longest_us, 1_000_000));
    let until = vmm.timers.first().map_or(longest, |&(due, _)| due.min(longest)).min(deadline(vmm));
    if until > start && !serial::has_input() {
        apic::set_clock_event(until);
        cpu::wait_for_interrupt();
        serial::pump();
        figures.idle_ticks += time::now().saturating_sub(start);
    }
}

/// The host TSC at which the hypervisor is to end, if the configuration says so.
fn deadline(vmm: &Vmm) -> u64 {
    vmm.host
        .poweroff_after_us
        .map_or(u64::MAX, |us| vmm.boot_tsc.saturating_add(vmm.clock.periods_to_ticks(us, 1_000_000)))
}

/// Powers the machine off where the configuration asks for it.
fn end_if_asked(vmm: &Vmm, console: &mut ConsoleTask) {
    let done = vmm.host.poweroff_when_done
        && vmm.vms.iter().any(|vm| vm.starts > 0)
        && !vmm.vms.iter().any(|vm| vm.state.is_alive());
    let late = time::now() >= deadline(vmm);
    if done || late {
        let why = if done { "no VM runs any more (poweroff_when_done)" } else { "poweroff_after has passed" };
        log::info!("powering off: {why}");
        console.print_pending();
        power::power_off(&vmm.platform);
    }
}
