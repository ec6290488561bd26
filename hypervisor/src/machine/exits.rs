//! From a VM exit to its consequence: [`lamina_core::exit::handle`] decides, this applies.

use super::vcpu::{Context, SliceEnd};
use super::{Machine, Shared};
use crate::cpus::{self, BOOT_CPU};
use crate::{flight, logger, trace};
use alloc::format;
use alloc::string::{String, ToString};
use core::ops::ControlFlow;
use core::sync::atomic::Ordering;
use lamina_core::exit::local::{self, Processor};
use lamina_core::exit::{self, Event, EventKind, Merged, Outcome, RawExit, StopReason};
use lamina_core::fault::FaultKind;
use lamina_core::memory::GuestPhysAddr;
use lamina_core::sched::CpuId;
use lamina_core::vm::Activity;
use lamina_core::vmx::{ExitReason, GuestField};
use lamina_core::x86::VcpuState;
use lamina_hw::mem::PopulateError;
use lamina_hw::vmx::{AtOnce, CurrentVmcs, EntryFailure};
use lamina_hw::{cpu, serial, time};
use spin::MutexGuard;

/// With the VM's lock if the turn goes on.
type Handled<'a> = ControlFlow<SliceEnd, MutexGuard<'a, Shared>>;

impl Context {
    /// Lets the guest run until an exit that cannot be answered at once, or, without one, until there is something to look at; from
    /// host TSC `now` to `due` at most.
    pub(super) fn enter(
        &mut self,
        machine: &Machine,
        cpu: CpuId,
        vmcs: &mut CurrentVmcs<'_>,
        now: u64,
        due: u64,
    ) -> Result<Option<RawExit>, EntryFailure> {
        vmcs.set_preemption_timer(due.saturating_sub(now));
        let mut timer_set_at = now;
        let Self { gprs, cpu: processor, trail, local_exits, sign, apic_base, origin, traced_exits, index, .. } = self;
        let notified = machine.slots.get(usize::from(*index)).map(|slot| &slot.notified);
        let is_notified = || notified.is_some_and(|flag| flag.load(Ordering::Relaxed));
        vmcs.run(&machine.ram, gprs, |vmcs, gprs, reason| {
            flight::exit(cpu, reason);
            if *traced_exits != 0 || !local_exits.can_count(reason) {
                return AtOnce::No;
            }
            let host_now = time::now();
            let now = host_now.wrapping_sub(*origin);
            let mut processor = Processor { state: vmcs, gprs, cpu: processor, apic_base: *apic_base, now };
            if !local::answer(reason, &mut processor) {
                return AtOnce::No;
            }
            let instruction_len = vmcs.exit_instruction_len();
            exit::advance(vmcs, instruction_len);
            local_exits.count(reason);
            trail.record(reason, now);
            *sign = true;
            // Each entry starts the timer anew with what it was set to.
            if host_now.wrapping_sub(timer_set_at) > machine.timer_slack {
                if host_now >= due {
                    return AtOnce::Look;
                }
                vmcs.set_preemption_timer(due - host_now);
                timer_set_at = host_now;
            }
            // Interrupts are off: what comes after this look makes the next entry exit.
            if is_notified() || cpus::is_to_decide(cpu) { AtOnce::Look } else { AtOnce::GoOn }
        })
    }

    /// Decides about an exit and applies what follows.
    pub(super) fn handle<'a>(
        &mut self,
        exit: &RawExit,
        vmcs: &mut CurrentVmcs<'_>,
        machine: &'a Machine,
    ) -> Handled<'a> {
        let reason = ExitReason::of(exit.reason);
        match reason {
            Some(ExitReason::ExternalInterrupt) => {
                let [vector, ..] = exit.interruption_info.to_le_bytes();
                cpu::acknowledge(vector);
                if cpu::this() == BOOT_CPU && serial::has_input() {
                    cpus::decide_anew(BOOT_CPU);
                }
            }
            Some(ExitReason::ExceptionOrNmi) if is_debug_exception(exit) => vmcs.set_debug_status(exit.qualification),
            _ => {}
        }
        if exit::nmi_unblocked_by_iret(exit) {
            vmcs.set_nmi_blocking(true);
        }
        let mut cr2 = vmcs.cr2();
        let old_cr2 = cr2;
        let mut shared = machine.lock();
        let now = time::now().wrapping_sub(shared.origin);
        self.trail.record(exit.reason, now);
        if reason == Some(ExitReason::InvalidGuestState) {
            let detail = explain_invalid_state(vmcs);
            return ControlFlow::Break(SliceEnd::Stopped(StopReason::fault(FaultKind::InvalidGuestState, detail)));
        }
        let index = usize::from(self.index);
        let Shared { board, apics, counters, .. } = &mut *shared;
        let (Some(apic), Some(counters)) = (apics.local(index), counters.get_mut(index)) else {
            return ControlFlow::Continue(shared);
        };
        self.local_exits.hand_on(counters);
        let mut ctx = exit::Context {
            state: vmcs,
            gprs: &mut self.gprs,
            cr2: &mut cr2,
            memory: &mut &machine.ram,
            ram: machine.ram.layout(),
            board,
            apic,
            cpu: &mut self.cpu,
            now,
            counters,
        };
        let outcome = if self.traced_exits == 0 {
            exit::handle(exit, &mut ctx)
        } else {
            trace::handle(exit, &mut ctx, &mut self.traced_exits)
        };
        if cr2 != old_cr2 {
            vmcs.set_cr2(cr2);
        }
        let mut busy = false;
        match reason {
            Some(ExitReason::ExternalInterrupt | ExitReason::PreemptionTimer) => {}
            Some(ExitReason::Cpuid) => self.sign = true,
            // A guest that spins, which is no sign of life.
            Some(ExitReason::Pause) => self.interrupt_status_stale = true,
            Some(ExitReason::IoInstruction) => {
                (self.interrupt_status_stale, self.sign) = (true, true);
                let Shared { board, port, .. } = &mut *shared;
                let mut wrote = false;
                board.serial_output(|bytes| {
                    port.lock().guest_wrote(bytes);
                    wrote = true;
                });
                busy = wrote && logger::is_full();
            }
            _ => (self.interrupt_status_stale, self.sign) = (true, true),
        }
        let handled = self.apply(outcome, exit, vmcs, machine, shared);
        if busy && handled.is_continue() {
            // The host's line takes no more: the guest goes on when it has taken some of what waits.
            return ControlFlow::Break(SliceEnd::Halted {
                wake_at: Some(time::now().saturating_add(machine.line_wait)),
            });
        }
        handled
    }

    /// Applies the outcome of an exit: the one place where consequences happen.
    fn apply<'a>(
        &mut self,
        outcome: Outcome,
        exit: &RawExit,
        vmcs: &mut CurrentVmcs<'_>,
        machine: &'a Machine,
        mut shared: MutexGuard<'a, Shared>,
    ) -> Handled<'a> {
        match outcome {
            Outcome::Resume => self.pending = exit::interrupted_event(exit),
            Outcome::Advance => exit::advance(vmcs, exit.instruction_len),
            Outcome::Inject(event) => self.inject(event, exit::interrupted_event(exit), vmcs, &mut shared)?,
            Outcome::Populate(gpa) => {
                self.pending = exit::interrupted_event(exit);
                // Scrubbing a large page takes its time: the other vCPUs need not wait for it.
                drop(shared);
                populate(machine, gpa, exit::is_fetch(exit))?;
                shared = machine.lock();
            }
            Outcome::Yield => return ControlFlow::Break(SliceEnd::Yielded),
            Outcome::Halt => {
                exit::advance(vmcs, exit.instruction_len);
                const INTERRUPT_FLAG: u64 = 1 << 9;
                const BLOCKING_BY_NMI: u64 = 1 << 3;
                self.activity = Activity::Halted {
                    interruptible: vmcs.read(GuestField::Rflags) & INTERRUPT_FLAG != 0,
                    nmi_blocked: vmcs.read(GuestField::InterruptibilityState) & BLOCKING_BY_NMI != 0,
                };
            }
            Outcome::Stop(reason) => {
                // Whoever resumes it finds it as it was.
                self.pending = exit::interrupted_event(exit);
                return ControlFlow::Break(SliceEnd::Stopped(reason));
            }
        }
        ControlFlow::Continue(shared)
    }

    /// Has `event` delivered next. It may have come up while `interrupted` was being delivered.
    fn inject(
        &mut self,
        event: Event,
        interrupted: Option<Event>,
        vmcs: &mut CurrentVmcs<'_>,
        shared: &mut Shared,
    ) -> ControlFlow<SliceEnd> {
        match interrupted.map_or(Merged::Inject(event), |interrupted| exit::merge(interrupted, event)) {
            Merged::Inject(event) => {
                self.pending = Some(event);
                // An interrupt or NMI was acknowledged already: it must not be lost when an exception goes first.
                match interrupted.map(|event| event.kind) {
                    Some(EventKind::ExternalInterrupt) => self.deferred = interrupted,
                    Some(EventKind::Nmi) => {
                        if let Some(apic) = shared.apics.local(usize::from(self.index)) {
                            apic.return_nmi();
                        }
                        vmcs.set_nmi_blocking(false);
                    }
                    _ => {}
                }
                ControlFlow::Continue(())
            }
            Merged::TripleFault => {
                let rip = vmcs.read(GuestField::Rip);
                let detail = format!("triple fault: vector {} on top of a double fault; RIP {rip:#x}", event.vector);
                self.pending = interrupted;
                ControlFlow::Break(SliceEnd::Stopped(StopReason::fault(FaultKind::TripleFault, detail)))
            }
        }
    }
}

/// Backs a page, and lets the guest execute from it where it wants to. Where memory is short the access is not lost: the vCPU
/// makes it again when its turn comes.
pub(super) fn populate(machine: &Machine, gpa: GuestPhysAddr, fetch: bool) -> ControlFlow<SliceEnd> {
    match machine.ram.populate(gpa, fetch) {
        Ok(()) => ControlFlow::Continue(()),
        Err(PopulateError::AtLimit(_) | PopulateError::OutOfFrames(_)) => ControlFlow::Break(SliceEnd::Starved(gpa)),
        Err(error) => ControlFlow::Break(SliceEnd::Stopped(StopReason::fault(FaultKind::Host, error.to_string()))),
    }
}

/// Whether this exception exit is for a #DB, INT1's aside.
fn is_debug_exception(exit: &RawExit) -> bool {
    exit.interruption_info & 0x7ff == (EventKind::HardwareException as u32) << 8 | 1
}

#[cold]
fn explain_invalid_state(vmcs: &CurrentVmcs<'_>) -> String {
    let broken = vmcs.broken_rules();
    format!("VM entry failed, invalid guest state: {}", broken.join("; "))
}
