//! The heartbeat of a VM that has a limit for it: after each turn its vCPU is looked at. What follows from what is seen is said by
//! [`lamina_core::vm::heartbeat`].

use super::vcpu::{SliceEnd, VcpuTask};
use super::{Machine, Shared};
use crate::hypervisor::Hypervisor;
use crate::manager::Turn;
use alloc::format;
use lamina_core::exit::StopReason;
use lamina_core::fault::FaultKind;
use lamina_core::vm::Activity;
use lamina_core::vm::heartbeat::{Found, Sources, state};
use lamina_core::vmx::GuestField;
use lamina_core::x86::VcpuState;
use lamina_hw::time;
use lamina_hw::vmx::VmxRoot;

const INTERRUPT_FLAG: u64 = 1 << 9;

impl VcpuTask {
    /// Looks at the vCPU after a turn that ended like this. It ends the VM where that is hung, and has a vCPU that waits looked at
    /// again in time.
    pub(super) fn beat(
        &mut self,
        machine: &Machine,
        hypervisor: &Hypervisor,
        turn: &Turn,
        root: &mut VmxRoot,
        end: SliceEnd,
    ) -> SliceEnd {
        if matches!(end, SliceEnd::Starved(_) | SliceEnd::Stopped(_)) || machine.heartbeat.lock().is_none() {
            return end;
        }
        let index = usize::from(self.context.index);
        let found = self.found(root);
        let sign = core::mem::take(&mut self.context.sign);
        let mut shared = machine.lock();
        let now = time::now();
        // Its own time: the clock of the guest without what others took of it.
        let stolen = turn.steal.saturating_sub(self.context.steal_before.unwrap_or(turn.steal));
        let own_now = now.wrapping_sub(shared.origin).saturating_sub(stolen);
        let mut heartbeat = machine.heartbeat.lock();
        let Some(heartbeat) = heartbeat.as_mut() else { return end };
        let again = heartbeat.look(index, own_now, found, sign, shared.sources(index));
        let awaited = |other: usize| u16::try_from(other).is_ok_and(|other| machine.is_notified(other));
        let hung = heartbeat.is_hung(|other| {
            // What waits for a vCPU may be anything.
            if awaited(other) { Sources { interrupt: true, nmi: true } } else { shared.sources(other) }
        });
        if hung {
            let silent = heartbeat.last(index).map_or(0, |(silent, _)| silent);
            let silent_ms = hypervisor.clock.ticks_to_periods(silent, 1_000);
            return SliceEnd::Stopped(self.explain_silence(silent_ms, found, root));
        }
        match end {
            SliceEnd::Halted { wake_at } if found != Found::NotStarted => {
                let look_at = now.saturating_add(again);
                SliceEnd::Halted { wake_at: Some(wake_at.map_or(look_at, |wake_at| wake_at.min(look_at))) }
            }
            end => end,
        }
    }

    fn found(&mut self, root: &mut VmxRoot) -> Found {
        match self.context.activity {
            Activity::Halted { interruptible, .. } => Found::Halted { interruptible },
            Activity::WaitForSipi => Found::NotStarted,
            Activity::Active => {
                let vmcs = root.load(&mut self.hw);
                let interruptible = vmcs.read(GuestField::Rflags) & INTERRUPT_FLAG != 0;
                Found::Executing { state: state(&vmcs, &self.context.gprs), interruptible }
            }
        }
    }

    #[cold]
    fn explain_silence(&mut self, silent_ms: u64, found: Found, root: &mut VmxRoot) -> StopReason {
        let what = match found {
            Found::Executing { interruptible: false, .. } => "goes around with interrupts disabled",
            Found::Executing { interruptible: true, .. } => "goes around and nothing can interrupt it",
            Found::Halted { interruptible: false } => "is halted with interrupts disabled",
            Found::Halted { interruptible: true } | Found::NotStarted => "is halted and nothing can interrupt it",
        };
        let rip = root.load(&mut self.hw).read(GuestField::Rip);
        let index = self.context.index;
        let detail = format!("heartbeat: no sign of life for {silent_ms} ms: vCPU {index} {what}; RIP {rip:#x}");
        StopReason::fault(FaultKind::Heartbeat, detail)
    }
}

impl Shared {
    /// What can make vCPU `index` go on.
    fn sources(&mut self, index: usize) -> Sources {
        let Some(apic) = self.apics.local(index) else { return Sources::default() };
        let devices = self.board.interrupt_sources(index == 0 && apic.accepts_extint());
        Sources {
            interrupt: devices.interrupt || apic.next_deadline().is_some() || apic.pending_vector().is_some(),
            nmi: devices.nmi || apic.nmi_pending(),
        }
    }
}
