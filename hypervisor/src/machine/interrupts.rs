//! What a guest waits for and what is delivered to it: timers, messages between its interrupt controllers, events at VM entry.

use super::vcpu::Context;
use super::{Machine, Shared};
use alloc::format;
use lamina_core::device::lapic::{ApicMode, VcpuMask};
use lamina_core::exit::{Event, EventKind, StopReason};
use lamina_core::fault::FaultKind;
use lamina_core::vm::Activity;
use lamina_core::vmx::GuestField;
use lamina_core::vmx::controls::ApicAccess;
use lamina_core::x86::{CpuChanges, VcpuState};
use lamina_hw::vmx::CurrentVmcs;

/// vCPU 0, whose LINT0 the PIC's output is wired to.
const BOOTSTRAP: VcpuMask = 1;

impl Context {
    /// Runs the timers that are due and routes what the interrupt controllers say to each other. Answers with the vCPUs that are
    /// to look at what waits for them.
    pub(super) fn service(&mut self, shared: &mut Shared, now: u64) -> VcpuMask {
        let index = usize::from(self.index);
        let Shared { board, apics, .. } = shared;
        if board.next_deadline().is_some_and(|deadline| deadline <= now) {
            board.expire(now);
        }
        let mut told = 0;
        if let Some(apic) = apics.local(index) {
            if apic.next_deadline().is_some_and(|deadline| deadline <= now) {
                apic.expire(now);
                self.interrupt_status_stale = true;
            }
            while let Some(vector) = apic.take_eoi() {
                board.ioapic_eoi(vector);
            }
            if let Some(ipi) = apic.take_ipi() {
                told |= apics.send(&ipi);
            }
        }
        while let Some(message) = board.take_message() {
            told |= apics.send(&message);
        }
        self.interrupt_status_stale |= apics.collect(index);
        told &= !(1 << index);
        if index == 0 {
            // It has seen both, and arms its timer for the second.
            shared.pic_told = shared.board.pic_pending();
            shared.board_wait = shared.board.next_deadline().unwrap_or(u64::MAX);
        } else {
            told |= shared.for_bootstrap();
        }
        told
    }

    /// Whether something ends the vCPU's HLT.
    pub(super) fn wakes(&self, shared: &mut Shared) -> bool {
        let Activity::Halted { interruptible, nmi_blocked } = self.activity else { return false };
        let external = self.external_interrupt_pending(shared);
        let Some(apic) = shared.apics.local(usize::from(self.index)) else { return false };
        let interrupt = external || self.deferred.is_some() || apic.pending_vector().is_some();
        self.pending.is_some() || !nmi_blocked && apic.nmi_pending() || interruptible && interrupt
    }

    /// Whether the PIC's output reaches the vCPU: through LINT0 in ExtINT mode.
    fn external_interrupt_pending(&self, shared: &mut Shared) -> bool {
        self.index == 0 && shared.board.pic_pending() && shared.apics.local(0).is_some_and(|apic| apic.accepts_extint())
    }

    /// The vCPU waits: until which host TSC, as far as its own timers go. vCPU 0 waits for the board's, too.
    pub(super) fn wait(&self, shared: &mut Shared) -> Option<u64> {
        if self.activity == Activity::WaitForSipi {
            return None;
        }
        let own = shared.apics.local(usize::from(self.index)).and_then(|apic| apic.next_deadline());
        let boards = shared.board.next_deadline().filter(|_| self.index == 0);
        let deadline = own.into_iter().chain(boards).min()?;
        Some(deadline.saturating_add(shared.origin))
    }

    /// Brings to the hardware what exit handlers changed in the processor's state.
    pub(super) fn apply_changes(
        &mut self,
        machine: &Machine,
        shared: &Shared,
        vmcs: &mut CurrentVmcs<'_>,
    ) -> Result<(), StopReason> {
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
            vmcs.set_tsc_offset(self.cpu.tsc_adjust().wrapping_sub(shared.origin));
        }
        if changes.contains(CpuChanges::FLUSH_TLB) {
            vmcs.flush_tlb();
        }
        if changes.contains(CpuChanges::APIC_MODE) {
            let apics = shared.apics.all();
            let access = match apics.get(usize::from(self.index)).map_or(ApicMode::Disabled, |apic| apic.mode()) {
                ApicMode::Disabled => ApicAccess::Disabled,
                ApicMode::XApic => ApicAccess::Memory,
                ApicMode::X2Apic => ApicAccess::Msrs,
            };
            let page_needed = apics.iter().any(|apic| apic.mode() == ApicMode::XApic);
            self.interrupt_status_stale = true;
            vmcs.set_apic_access(&machine.ram, access, page_needed)
                .map_err(|error| format!("no memory to map the APIC-access page: {error}"))
                .map_err(|detail| StopReason::fault(FaultKind::Host, detail))?;
        }
        Ok(())
    }

    /// Has the next VM entry deliver the most urgent event, and the guest exit when it can take the next one.
    pub(super) fn deliver(&mut self, shared: &mut Shared, vmcs: &mut CurrentVmcs<'_>) {
        let external = self.external_interrupt_pending(shared);
        let Shared { apics, board, pic_told, .. } = shared;
        let Some(apic) = apics.local(usize::from(self.index)) else { return };
        let virtual_delivery = vmcs.has_apicv() && apic.mode() != ApicMode::Disabled;
        if vmcs.has_apicv() && self.interrupt_status_stale {
            // A disabled APIC delivers nothing, but the CPU goes by this status alone: its registers are clear then.
            let vector = |vector: Option<u8>| u64::from(vector.unwrap_or(0));
            let status = vector(apic.highest_isr()) << 8 | vector(apic.highest_irr());
            vmcs.write(GuestField::InterruptStatus, status);
            self.interrupt_status_stale = false;
        }
        if virtual_delivery && apic.take_eoi_exit_bitmap_changed() {
            vmcs.set_eoi_exit_bitmap(apic.eoi_exit_bitmap());
        }

        let mut taken = false;
        if let Some(event) = self.pending.take() {
            vmcs.inject(event);
            (taken, self.sign) = (true, true);
        }
        if apic.nmi_pending() {
            const BLOCKING_NMI: u64 = 0b1011;
            if !taken && vmcs.read(GuestField::InterruptibilityState) & BLOCKING_NMI == 0 {
                apic.take_nmi();
                vmcs.inject(Event::NMI);
                (taken, self.sign) = (true, true);
            }
            vmcs.set_nmi_window_exiting(apic.nmi_pending());
        } else {
            vmcs.set_nmi_window_exiting(false);
        }

        let vector = if external || virtual_delivery { None } else { apic.pending_vector() };
        let mut waiting = external || vector.is_some() || self.deferred.is_some();
        if waiting && !taken && can_take_interrupt(vmcs) {
            self.sign = true;
            if let Some(event) = self.deferred.take() {
                vmcs.inject(event);
                vmcs.set_interrupt_window_exiting(external || vector.is_some());
                return;
            }
            let vector = match vector {
                Some(vector) => {
                    apic.acknowledge(vector);
                    vector
                }
                None => {
                    apic.acknowledge_extint();
                    let vector = board.pic_acknowledge();
                    *pic_told = board.pic_pending();
                    vector
                }
            };
            let kind = EventKind::ExternalInterrupt;
            vmcs.inject(Event { kind, vector, error_code: None, instruction_len: 0 });
            let external = self.index == 0 && board.pic_pending() && apic.accepts_extint();
            waiting = external || (!virtual_delivery && apic.pending_vector().is_some());
        }
        vmcs.set_interrupt_window_exiting(waiting);
        if !virtual_delivery {
            vmcs.set_tpr_threshold(apic.tpr_threshold());
        }
    }
}

impl Shared {
    /// The host TSC of the next timer that ends this vCPU's stay in the guest: its own, or one of the board, which every vCPU
    /// that runs looks after.
    pub(super) fn next_deadline(&mut self, index: u16) -> Option<u64> {
        let own = self.apics.local(usize::from(index)).and_then(|apic| apic.next_deadline());
        let deadline = own.into_iter().chain(self.board.next_deadline()).min()?;
        Some(deadline.saturating_add(self.origin))
    }

    /// What another vCPU has done that vCPU 0 must know of: an interrupt at the PIC, or a timer of the board that is due before
    /// what it waits for.
    fn for_bootstrap(&mut self) -> VcpuMask {
        let pending = self.board.pic_pending();
        let news = pending && !self.pic_told;
        self.pic_told = pending;
        let deadline = self.board.next_deadline().unwrap_or(u64::MAX);
        let earlier = deadline < self.board_wait;
        self.board_wait = self.board_wait.min(deadline);
        if news || earlier { BOOTSTRAP } else { 0 }
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
