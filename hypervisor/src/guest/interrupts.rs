//! What a guest waits for and what is delivered to it: timers, messages between its interrupt controllers, events at VM entry.

use super::{Activity, Machine};
use alloc::format;
use lamina_core::device::lapic::ApicMode;
use lamina_core::exit::{Event, EventKind, StopReason};
use lamina_core::vmx::GuestField;
use lamina_core::vmx::controls::ApicAccess;
use lamina_core::x86::{CpuChanges, VcpuState};
use lamina_hw::vmx::CurrentVmcs;

impl Machine {
    /// Runs the timers that are due and routes what the interrupt controllers say to each other.
    pub(super) fn service(&mut self, now: u64) {
        if self.apic.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.apic.expire(now);
            self.interrupt_status_stale = true;
        }
        if self.board.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.board.expire(now);
        }
        while let Some(vector) = self.apic.take_eoi() {
            self.board.ioapic_eoi(vector);
        }
        while let Some(message) = self.board.take_message().or_else(|| self.apic.take_ipi()) {
            if self.apic.matches(&message) {
                self.apic.accept(&message);
                self.interrupt_status_stale = true;
            }
        }
    }

    /// Whether something ends the vCPU's HLT.
    pub(super) fn wakes(&self) -> bool {
        let interruptible = self.activity == Activity::Halted { interruptible: true };
        self.pending.is_some()
            || self.apic.nmi_pending()
            || interruptible && (self.apic.pending_vector().is_some() || self.external_interrupt_pending())
    }

    /// Whether the PIC's output reaches the CPU: through LINT0 in ExtINT mode.
    fn external_interrupt_pending(&self) -> bool {
        self.board.pic_pending() && self.apic.accepts_extint()
    }

    /// The host TSC of the next timer.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        let deadlines = [self.apic.next_deadline(), self.board.next_deadline()];
        deadlines.into_iter().flatten().min().map(|deadline| deadline.saturating_add(self.origin))
    }

    /// Brings to the hardware what exit handlers changed in the processor's state.
    pub(super) fn apply_changes(&mut self, vmcs: &mut CurrentVmcs<'_>) -> Result<(), StopReason> {
        let changes = self.cpu.take_changes();
        if changes.is_empty() {
            return Ok(());
        }
        if changes.contains(CpuChanges::XCR0) {
            vmcs.set_xcr0(self.cpu.xcr0());
        }
        if changes.contains(CpuChanges::TSC_AUX) {
            vmcs.set_tsc_aux(self.cpu.tsc_aux());
        }
        if changes.contains(CpuChanges::TSC_OFFSET) {
            vmcs.set_tsc_offset(self.cpu.tsc_adjust().wrapping_sub(self.origin));
        }
        if changes.contains(CpuChanges::FLUSH_TLB) {
            vmcs.flush_tlb();
        }
        if changes.contains(CpuChanges::APIC_MODE) {
            let access = match self.apic.mode() {
                ApicMode::Disabled => ApicAccess::Disabled,
                ApicMode::XApic => ApicAccess::Memory,
                ApicMode::X2Apic => ApicAccess::Msrs,
            };
            self.interrupt_status_stale = true;
            vmcs.set_apic_access(&mut self.ram, access)
                .map_err(|error| StopReason::Crashed(format!("no memory to map the APIC-access page: {error}")))?;
        }
        Ok(())
    }

    /// Has the next VM entry deliver the most urgent event, and the guest exit when it can take the next one.
    pub(super) fn deliver(&mut self, vmcs: &mut CurrentVmcs<'_>) {
        let virtual_delivery = vmcs.has_apicv() && self.apic.mode() != ApicMode::Disabled;
        if vmcs.has_apicv() && self.interrupt_status_stale {
            // A disabled APIC delivers nothing, but the CPU goes by this status alone: its registers are clear then.
            let vector = |vector: Option<u8>| u64::from(vector.unwrap_or(0));
            let status = vector(self.apic.highest_isr()) << 8 | vector(self.apic.highest_irr());
            vmcs.write(GuestField::InterruptStatus, status);
            self.interrupt_status_stale = false;
        }
        if virtual_delivery && self.apic.take_eoi_exit_bitmap_changed() {
            vmcs.set_eoi_exit_bitmap(self.apic.eoi_exit_bitmap());
        }

        let mut taken = false;
        if let Some(event) = self.pending.take() {
            vmcs.inject(event);
            taken = true;
        }
        if self.apic.nmi_pending() {
            const BLOCKING_NMI: u64 = 0b1011;
            if !taken && vmcs.read(GuestField::InterruptibilityState) & BLOCKING_NMI == 0 {
                self.apic.take_nmi();
                vmcs.inject(Event::NMI);
                taken = true;
            }
            vmcs.set_nmi_window_exiting(self.apic.nmi_pending());
        } else {
            vmcs.set_nmi_window_exiting(false);
        }

        let external = self.external_interrupt_pending();
        let vector = if external || virtual_delivery { None } else { self.apic.pending_vector() };
        let mut waiting = external || vector.is_some() || self.deferred.is_some();
        if waiting && !taken && can_take_interrupt(vmcs) {
            if let Some(event) = self.deferred.take() {
                vmcs.inject(event);
                vmcs.set_interrupt_window_exiting(external || vector.is_some());
                return;
            }
            let vector = match vector {
                Some(vector) => {
                    self.apic.acknowledge(vector);
                    vector
                }
                None => {
                    self.apic.acknowledge_extint();
                    self.board.pic_acknowledge()
                }
            };
            let kind = EventKind::ExternalInterrupt;
            vmcs.inject(Event { kind, vector, error_code: None, instruction_len: 0 });
            waiting = self.external_interrupt_pending() || (!virtual_delivery && self.apic.pending_vector().is_some());
        }
        vmcs.set_interrupt_window_exiting(waiting);
        if !virtual_delivery {
            vmcs.set_tpr_threshold(self.apic.tpr_threshold());
        }
    }
}

/// "An external interrupt [...] can be delivered if RFLAGS.IF is 1 and there is no blocking by STI or by MOV SS" (SDM volume 3,
/// "Maskable Hardware Interrupts", "Interruptibility State").
fn can_take_interrupt(vmcs: &CurrentVmcs<'_>) -> bool {
    const INTERRUPT_FLAG: u64 = 1 << 9;
    const BLOCKING_STI_OR_MOV_SS: u64 = 0b11;
    vmcs.read(GuestField::Rflags) & INTERRUPT_FLAG != 0
        && vmcs.read(GuestField::InterruptibilityState) & BLOCKING_STI_OR_MOV_SS == 0
}
