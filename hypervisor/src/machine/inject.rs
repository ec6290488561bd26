//! Faults that no guest can bring about, at the operator's word (`debug fault`): each is brought about as near to its cause as it can
//! be without harm to the host, and what finds the real one finds it.

use super::Machine;
use super::exits::populate;
use super::vcpu::{Context, SliceEnd};
use lamina_core::exit::{Event, EventKind, RawExit};
use lamina_core::fault::FaultKind;
use lamina_core::memory::GuestPhysAddr;
use lamina_core::vmx::{ExitReason, GuestField};
use lamina_core::x86::VcpuState;
use lamina_hw::vmx::CurrentVmcs;

impl Context {
    /// Brings a fault about where the vCPU would enter the guest; `None` where that entry has it.
    #[cold]
    pub(super) fn inject_fault(
        &mut self,
        kind: FaultKind,
        vmcs: &mut CurrentVmcs<'_>,
        machine: &Machine,
    ) -> Option<SliceEnd> {
        let exit = match kind {
            FaultKind::InvalidGuestState => {
                // "Reserved bits [...] bit 1 must be 1" (SDM volume 3, "Checks on Guest RIP, RFLAGS, and SSP").
                const ALWAYS_ONE: u64 = 1 << 1;
                let rflags = vmcs.read(GuestField::Rflags);
                vmcs.write(GuestField::Rflags, rflags & !ALWAYS_ONE);
                return None;
            }
            FaultKind::EntryFailure => {
                // "The VM-entry instruction-length field must contain a value in the range 0-15" (SDM volume 3, "VM-Entry
                // Control Fields").
                let kind = EventKind::SoftwareInterrupt;
                self.pending = Some(Event { kind, vector: 0, error_code: None, instruction_len: 16 });
                return None;
            }
            // No guest-physical address is so high.
            FaultKind::Host => return populate(machine, GuestPhysAddr(u64::MAX), false).break_value(),
            FaultKind::EptMisconfiguration => exit_for(ExitReason::EptMisconfiguration),
            FaultKind::MachineCheck => {
                // Valid, a hardware exception, vector 18.
                const MACHINE_CHECK: u32 = 1 << 31 | (EventKind::HardwareException as u32) << 8 | 18;
                RawExit { interruption_info: MACHINE_CHECK, ..exit_for(ExitReason::ExceptionOrNmi) }
            }
            // "Basic exit reason" 65,535, which the manual does not define.
            FaultKind::UnhandledExit => RawExit { reason: 0xffff, ..RawExit::default() },
            _ => return None,
        };
        let pending = self.pending;
        let end = self.handle(&exit, vmcs, machine).break_value();
        // As it has not been in the guest, this waits on.
        self.pending = pending;
        end
    }
}

/// What the CPU would have said, had the entry led to this.
fn exit_for(reason: ExitReason) -> RawExit {
    RawExit { reason: u32::from(reason.number()), ..RawExit::default() }
}
