//! From a VM exit to its consequence: [`lamina_core::exit::handle`] decides, this applies.

use super::{Activity, Machine, SliceEnd};
use crate::serial_port::SerialPort;
use crate::trace;
use alloc::format;
use alloc::string::{String, ToString};
use lamina_core::exit::{self, Event, EventKind, ExitCounters, Merged, Outcome, RawExit, StopReason};
use lamina_core::memory::GuestPhysAddr;
use lamina_core::vmx::{ExitReason, GuestField};
use lamina_core::x86::VcpuState;
use lamina_hw::mem::PopulateError;
use lamina_hw::vmx::CurrentVmcs;
use lamina_hw::{cpu, serial, time};

impl Machine {
    /// Decides about an exit and applies what follows. `Some` ends the vCPU's turn.
    pub(super) fn handle(
        &mut self,
        exit: &RawExit,
        vmcs: &mut CurrentVmcs<'_>,
        port: &mut SerialPort,
        counters: &mut ExitCounters,
    ) -> Option<SliceEnd> {
        let reason = ExitReason::of(exit.reason);
        let mut host_work = false;
        match reason {
            Some(ExitReason::ExternalInterrupt) => {
                let [vector, ..] = exit.interruption_info.to_le_bytes();
                cpu::acknowledge(vector);
                host_work = serial::has_input();
            }
            Some(ExitReason::ExceptionOrNmi) if is_debug_exception(exit) => vmcs.set_debug_status(exit.qualification),
            Some(ExitReason::InvalidGuestState) => {
                let reason = explain_invalid_state(vmcs);
                return Some(SliceEnd::Stopped(StopReason::Crashed(reason)));
            }
            _ => {}
        }
        if exit::nmi_unblocked_by_iret(exit) {
            vmcs.set_nmi_blocking(true);
        }
        let now = time::now().wrapping_sub(self.origin);
        let mut cr2 = vmcs.cr2();
        let old_cr2 = cr2;
        let layout = *self.ram.layout();
        let mut ctx = exit::Context {
            state: vmcs,
            gprs: &mut self.gprs,
            cr2: &mut cr2,
            memory: &mut self.ram,
            ram: &layout,
            board: &mut self.board,
            apic: &mut self.apic,
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
        match reason {
            Some(ExitReason::Cpuid | ExitReason::ExternalInterrupt | ExitReason::PreemptionTimer) => {}
            Some(ExitReason::IoInstruction) => {
                self.interrupt_status_stale = true;
                self.board.serial_output(|bytes| port.guest_wrote(bytes));
            }
            _ => self.interrupt_status_stale = true,
        }
        let end = self.apply(outcome, exit, vmcs);
        if end.is_none() && host_work { Some(SliceEnd::HostWork) } else { end }
    }

    /// Applies the outcome of an exit: the one place where consequences happen.
    fn apply(&mut self, outcome: Outcome, exit: &RawExit, vmcs: &mut CurrentVmcs<'_>) -> Option<SliceEnd> {
        match outcome {
            Outcome::Resume => {
                self.pending = exit::interrupted_event(exit);
                None
            }
            Outcome::Advance => {
                exit::advance(vmcs, exit.instruction_len);
                None
            }
            Outcome::Inject(event) => self.inject(event, exit::interrupted_event(exit), vmcs),
            Outcome::Populate(gpa) => {
                self.pending = exit::interrupted_event(exit);
                self.populate(gpa)
            }
            Outcome::Yield => Some(SliceEnd::Yielded),
            Outcome::Halt => {
                exit::advance(vmcs, exit.instruction_len);
                const INTERRUPT_FLAG: u64 = 1 << 9;
                let interruptible = vmcs.read(GuestField::Rflags) & INTERRUPT_FLAG != 0;
                self.activity = Activity::Halted { interruptible };
                None
            }
            Outcome::Stop(reason) => Some(SliceEnd::Stopped(reason)),
        }
    }

    /// Has `event` delivered next. It may have come up while `interrupted` was being delivered.
    fn inject(&mut self, event: Event, interrupted: Option<Event>, vmcs: &mut CurrentVmcs<'_>) -> Option<SliceEnd> {
        match interrupted.map_or(Merged::Inject(event), |interrupted| exit::merge(interrupted, event)) {
            Merged::Inject(event) => {
                self.pending = Some(event);
                // An interrupt or NMI was acknowledged already: it must not be lost when an exception goes first.
                match interrupted.map(|event| event.kind) {
                    Some(EventKind::ExternalInterrupt) => self.deferred = interrupted,
                    Some(EventKind::Nmi) => {
                        self.apic.return_nmi();
                        vmcs.set_nmi_blocking(false);
                    }
                    _ => {}
                }
                None
            }
            Merged::TripleFault => {
                let rip = vmcs.read(GuestField::Rip);
                let report = format!("triple fault: vector {} on top of a double fault; RIP {rip:#x}", event.vector);
                Some(SliceEnd::Stopped(StopReason::Crashed(report)))
            }
        }
    }

    fn populate(&mut self, gpa: GuestPhysAddr) -> Option<SliceEnd> {
        let report = match self.ram.populate(gpa) {
            Ok(()) => return None,
            Err(error @ PopulateError::OutOfFrames(_)) => {
                format!("{error}; the page at guest-physical {gpa} could not be backed")
            }
            Err(error) => error.to_string(),
        };
        Some(SliceEnd::Stopped(StopReason::Crashed(report)))
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
