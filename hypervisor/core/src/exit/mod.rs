//! From a VM exit to its consequence.
//!
//! [`RawExit`] (what the CPU said) and [`Outcome`] (what follows); [`handle`] leads from one to the other, with one
//! handler per file, each a function of its arguments: it changes what [`Context`] lends it and nothing else. The run
//! loop applies the outcome ([`advance`] moves RIP), sees to events that the exit cut short ([`interrupted_event`],
//! [`merge`]) and tells the hardware what [`crate::x86::CpuState::take_changes`] reports. No handler allocates or
//! formats, but for the sentence with which a VM ends.

mod advance;
mod apic;
mod control;
mod counters;
mod cpuid;
mod ept;
mod event;
mod exception;
mod hypercall;
pub mod local;
mod mmio;
mod msr;
mod port;
mod raw;
pub mod recorder;
pub mod replay;
mod string_io;
#[cfg(test)]
pub(crate) mod tests;
mod xsetbv;

pub use advance::{advance, single_steps, trap_single_step};
pub use counters::{ExitCounters, MissedAccesses, REASON_COUNT, Tally};
pub use ept::is_fetch;
pub use event::{Merged, interrupted_event, merge, nmi_unblocked_by_iret};
pub use raw::{Event, EventKind, Outcome, RawExit, StopReason};

use crate::device::board::Board;
use crate::device::lapic::LocalApic;
use crate::fault::FaultKind;
use crate::loader::RamLayout;
use crate::memory::GuestMemory;
use crate::vmx::{ExitReason, GuestField};
use crate::x86::{CpuState, Gprs, VcpuState};
use alloc::format;

/// All that an exit handler may look at and change.
pub struct Context<'a> {
    /// The vCPU's VMCS.
    pub state: &'a mut dyn VcpuState,
    /// The general-purpose registers.
    pub gprs: &'a mut Gprs,
    /// CR2, which is in no VMCS field: set when a page fault is to be injected.
    pub cr2: &'a mut u64,
    /// The VM's memory.
    pub memory: &'a mut dyn GuestMemory,
    /// Where that memory is.
    pub ram: &'a RamLayout,
    /// The VM's devices.
    pub board: &'a mut Board,
    /// The vCPU's local APIC. After each exit the run loop takes its IPI; EOIs are passed on here.
    pub apic: &'a mut LocalApic,
    /// The rest of the vCPU's processor.
    pub cpu: &'a mut CpuState,
    /// The guest's clock, in ticks.
    pub now: u64,
    /// The vCPU's statistics.
    pub counters: &'a mut ExitCounters,
}

/// Decides what follows from a VM exit.
pub fn handle(exit: &RawExit, ctx: &mut Context<'_>) -> Outcome {
    ctx.counters.count_exit(exit.reason);
    let Some(reason) = ExitReason::of(exit.reason) else { return stop_unhandled(exit, ctx) };
    if !matches!(reason, ExitReason::EptViolation | ExitReason::ExternalInterrupt | ExitReason::PreemptionTimer) {
        ctx.counters.missed.progress();
    }
    // The frequent ones first, for the reader; the compiler makes a table of it.
    match reason {
        ExitReason::ExternalInterrupt
        | ExitReason::PreemptionTimer
        | ExitReason::InterruptWindow
        | ExitReason::NmiWindow
        | ExitReason::TprBelowThreshold
        | ExitReason::MonitorTrapFlag
        | ExitReason::PageModificationLogFull
        | ExitReason::BusLock => Outcome::Resume,
        ExitReason::IoInstruction => port::handle(exit, ctx),
        // "A debug exception [...] will resume execution": one that comes with the HLT leaves nothing to wait for.
        ExitReason::Hlt if single_steps(ctx.state) => Outcome::Advance,
        ExitReason::Hlt => Outcome::Halt,
        ExitReason::Wrmsr => msr::handle_write(ctx),
        ExitReason::Rdmsr => msr::handle_read(ctx),
        ExitReason::EptViolation => ept::handle_violation(exit, ctx),
        ExitReason::ApicWrite => apic::handle_write(exit, ctx),
        ExitReason::VirtualizedEoi => apic::handle_eoi(exit, ctx),
        ExitReason::ApicAccess => apic::handle_access(exit, ctx),
        ExitReason::Cpuid => cpuid::handle(ctx),
        ExitReason::ControlRegisterAccess => control::handle(exit, ctx),
        ExitReason::Pause => {
            // The spinning guest gives the CPU away and goes on behind the PAUSE when it gets it back.
            advance(ctx.state, exit.instruction_len);
            Outcome::Yield
        }
        ExitReason::Xsetbv => xsetbv::handle(ctx),
        // No device reaches the guest's memory behind its caches, and the host's caches are coherent: nothing to do.
        ExitReason::Wbinvd | ExitReason::Invd => Outcome::Advance,
        ExitReason::Rdtsc | ExitReason::Rdtscp => {
            if reason == ExitReason::Rdtscp {
                ctx.gprs.rcx = u64::from(ctx.cpu.tsc_aux());
            }
            ctx.gprs.set_edx_eax(ctx.now.wrapping_add(ctx.cpu.tsc_adjust()));
            Outcome::Advance
        }
        // No performance-monitoring counter exists: "if the counter specified in ECX is not implemented, #GP(0)".
        ExitReason::Rdpmc => Outcome::Inject(Event::GENERAL_PROTECTION),
        ExitReason::Vmcall => hypercall::handle(exit, ctx),
        ExitReason::ExceptionOrNmi => exception::handle(exit, ctx),
        // Instructions that CPUID hides, and VMX, which a guest never enters.
        ExitReason::Getsec
        | ExitReason::Rsm
        | ExitReason::Vmclear
        | ExitReason::Vmlaunch
        | ExitReason::Vmptrld
        | ExitReason::Vmptrst
        | ExitReason::Vmread
        | ExitReason::Vmresume
        | ExitReason::Vmwrite
        | ExitReason::Vmxoff
        | ExitReason::Vmxon
        | ExitReason::Vmfunc
        | ExitReason::Invept
        | ExitReason::Invvpid
        | ExitReason::Mwait
        | ExitReason::Monitor
        | ExitReason::Invpcid
        | ExitReason::Encls
        | ExitReason::Enclv
        | ExitReason::Xsaves
        | ExitReason::Xrstors
        | ExitReason::Pconfig
        | ExitReason::Umwait
        | ExitReason::Tpause
        | ExitReason::Loadiwkey
        | ExitReason::Seamcall
        | ExitReason::Tdcall => Outcome::Inject(Event::INVALID_OPCODE),
        // Not there either, but what refuses them is the MSR they name.
        ExitReason::Rdmsrlist | ExitReason::Wrmsrlist => Outcome::Inject(Event::GENERAL_PROTECTION),
        ExitReason::TripleFault => {
            stop(ctx, FaultKind::TripleFault, "triple fault: an exception could not be delivered, nor the double fault")
        }
        ExitReason::TaskSwitch => {
            stop(ctx, FaultKind::TaskSwitch, "task switch through a task gate or TSS, which Lamina does not support")
        }
        ExitReason::EptMisconfiguration => ept::handle_misconfiguration(exit, ctx),
        ExitReason::InvalidGuestState | ExitReason::MsrLoading | ExitReason::MachineCheckOnEntry => {
            let kind = if reason == ExitReason::MachineCheckOnEntry {
                FaultKind::MachineCheck
            } else {
                FaultKind::InvalidGuestState
            };
            crash(kind, format!("{reason} (exit qualification {:#x}), RIP {:#x}", exit.qualification, rip(ctx)))
        }
        ExitReason::InitSignal
        | ExitReason::StartupIpi
        | ExitReason::IoSmi
        | ExitReason::OtherSmi
        | ExitReason::Invlpg
        | ExitReason::MovDr
        | ExitReason::GdtrOrIdtrAccess
        | ExitReason::LdtrOrTrAccess
        | ExitReason::Rdrand
        | ExitReason::Rdseed
        | ExitReason::SppEvent
        | ExitReason::EnqcmdPasid
        | ExitReason::EnqcmdsPasid
        | ExitReason::InstructionTimeout => stop_unhandled(exit, ctx),
    }
}

/// The end of a VM whose exit nobody can handle: the other VMs go on.
#[cold]
fn stop_unhandled(exit: &RawExit, ctx: &Context<'_>) -> Outcome {
    let name = ExitReason::of(exit.reason).map_or("no reason the manual defines", ExitReason::name);
    let detail = format!(
        "VM exit {} ({name}) is not handled: exit qualification {:#x}, RIP {:#x}",
        exit.reason & 0xffff,
        exit.qualification,
        rip(ctx)
    );
    crash(FaultKind::UnhandledExit, detail)
}

#[cold]
fn stop(ctx: &Context<'_>, kind: FaultKind, what: &str) -> Outcome {
    crash(kind, format!("{what}; RIP {:#x}", rip(ctx)))
}

#[cold]
fn crash(kind: FaultKind, detail: alloc::string::String) -> Outcome {
    Outcome::Stop(StopReason::fault(kind, detail))
}

/// What an exit-reason field says, in the manual's words.
#[must_use]
pub fn reason_name(exit_reason: u32) -> alloc::string::String {
    let failed = if ExitReason::is_entry_failure(exit_reason) { ", entry failed" } else { "" };
    match ExitReason::of(exit_reason) {
        Some(reason) => format!("{}{failed}", reason.name()),
        None => format!("reason {}{failed}", exit_reason & 0xffff),
    }
}

fn rip(ctx: &Context<'_>) -> u64 {
    ctx.state.read(GuestField::Rip)
}
