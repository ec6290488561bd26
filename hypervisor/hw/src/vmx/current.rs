//! The VMCS that is current on this CPU: running the guest, and all that changes while it is loaded.

use super::exit_fields::{read_exit, read_only};
use super::instructions::{invvpid, vmread, vmwrite};
use super::root::VmxRoot;
use super::switch;
use super::vcpu::Vcpu;
use crate::cpu::{self, handle_machine_check, handle_nmi, msr};
use crate::mem::{GuestRam, OutOfFrames};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::arch::asm;
use core::marker::PhantomData;
use lamina_core::device::lapic::ApicPage;
use lamina_core::exit::{Event, EventKind, RawExit};
use lamina_core::vmx::controls::{ApicAccess, EntryControls, PrimaryProcBased, SecondaryProcBased};
use lamina_core::vmx::guest_state;
use lamina_core::vmx::{ControlField, ExitReason, GuestField, HostField, ReadOnlyField};
use lamina_core::x86::control::{cr0, cr4};
use lamina_core::x86::{Gprs, VcpuState};

const _: () = assert!(cr4::GUEST_OWNED & (cr4::MCE | cr4::VMXE) == 0, "machine checks and VMX stay the host's");

/// A failed VM entry: the guest did not run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryFailure {
    /// There was no current VMCS.
    Invalid,
    /// The VM-instruction error number.
    InstructionError(u32),
}

/// What was done about an exit before anything else was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtOnce {
    /// Nothing.
    No,
    /// It was answered, and the guest may go on.
    GoOn,
    /// It was answered, and there is something else to look at.
    Look,
}

/// The current VMCS of this CPU: proof that a vCPU is loaded. Its guest-state area is what exit handlers work on.
///
/// It holds the CPU's root as long as it lives, so that no other VMCS becomes current meanwhile, and stays on its CPU as the
/// root does.
#[derive(Debug)]
pub struct CurrentVmcs<'a> {
    pub(super) vcpu: &'a mut Vcpu,
    _root: PhantomData<&'a mut VmxRoot>,
}

impl<'a> CurrentVmcs<'a> {
    pub(super) fn new(_root: &'a mut VmxRoot, vcpu: &'a mut Vcpu) -> Self {
        Self { vcpu, _root: PhantomData }
    }

    pub(super) fn set_control(&mut self, field: ControlField, value: u64) {
        // SAFETY: every caller, here and in `program.rs`, passes flags from the resolved plan, addresses of frames that stay as
        // long as the vCPU can run (see `Vcpu`), or numbers that name no memory.
        let written = unsafe { vmwrite(field.encoding(), value) };
        debug_assert_eq!(written, Ok(()), "VMWRITE of {field:?}");
    }

    pub(super) fn set_host(&mut self, field: HostField, value: u64) {
        // SAFETY: called from `program_host` alone, with this CPU's present state.
        let written = unsafe { vmwrite(field.encoding(), value) };
        debug_assert_eq!(written, Ok(()), "VMWRITE of {field:?}");
    }

    /// Runs the guest in `ram`, the one that the vCPU was made with, until an exit that `at_once`, which is shown each exit-reason
    /// field, leaves to the caller: that exit, or `None` where it was answered and the caller is to look around. An NMI or
    /// machine check that caused an exit has been handled when this returns.
    ///
    /// To other CPUs the guest runs all the while: one that takes a page of its memory away, or wants something else, sends an
    /// interrupt, and the next entry exits for it before the guest executes an instruction.
    ///
    /// # Errors
    /// [`EntryFailure`] when the CPU refused the VM entry before it looked at the guest's state. (Bad guest state comes as an
    /// exit, with bit 31 of its reason set.)
    ///
    /// # Panics
    /// If `ram` is another one: the VMCS names the EPT of the first, which may be gone.
    #[inline]
    pub fn run(
        &mut self,
        ram: &GuestRam,
        gprs: &mut Gprs,
        mut at_once: impl FnMut(&mut Self, &mut Gprs, u32) -> AtOnce,
    ) -> Result<Option<RawExit>, EntryFailure> {
        assert_eq!(ram.id(), self.vcpu.ram, "a vCPU runs in the RAM it was made with");
        let presence = ram.enter(cpu::this());
        if self.vcpu.flush_l1d {
            self.vcpu.flush_l1d = false;
            cpu::speculation::flush_l1d();
        }
        loop {
            // SAFETY: the VMCS is current (that is what `self` says) and was programmed whole by `Vcpu::new`; what it names is
            // there (see `Vcpu`; the EPT by the check above); `launched` and `host_rsp` are kept in step with it here alone.
            let entered = unsafe { switch::enter(gprs, self.vcpu.launched, &mut self.vcpu.host_rsp) };
            match entered {
                0 => {}
                1 => return Err(EntryFailure::Invalid),
                _ => {
                    let error = read_only(ReadOnlyField::InstructionError) as u32;
                    return Err(EntryFailure::InstructionError(error));
                }
            }
            let reason = read_only(ReadOnlyField::ExitReason) as u32;
            // An entry that failed on the guest's state leaves the launch state as it was.
            self.vcpu.launched |= reason >> 31 == 0;
            match at_once(self, gprs, reason) {
                AtOnce::GoOn => {}
                AtOnce::Look => return Ok(None),
                AtOnce::No => {
                    drop(presence);
                    let exit = read_exit(reason);
                    handle_host_exception(&exit);
                    return Ok(Some(exit));
                }
            }
        }
    }

    /// The length of the instruction that exited.
    #[must_use]
    pub fn exit_instruction_len(&self) -> u32 {
        read_only(ReadOnlyField::ExitInstructionLength) as u32
    }

    /// Has the guest exit after at most this many TSC ticks (in steps of the preemption timer's rate).
    pub fn set_preemption_timer(&mut self, ticks: u64) {
        let count = self.vcpu.capabilities.preemption_timer_count(ticks);
        self.write(GuestField::PreemptionTimerValue, u64::from(count));
    }

    /// Delivers an event at the next VM entry.
    pub fn inject(&mut self, event: Event) {
        const VALID: u32 = 1 << 31;
        const DELIVER_ERROR_CODE: u32 = 1 << 11;
        const CR0_PE: u64 = 1;
        if event.kind == EventKind::Nmi {
            // One whose delivery an exit cut short has blocked NMIs already; VM entry delivers none into that.
            self.set_nmi_blocking(false);
        }
        let mut information = VALID | u32::from(event.kind as u8) << 8 | u32::from(event.vector);
        // "The deliver-error-code bit must be 0 [...] if CR0.PE is 0": real mode knows no error codes.
        let error_code = event.error_code.filter(|_| self.read(GuestField::Cr0) & CR0_PE != 0);
        if let Some(code) = error_code {
            information |= DELIVER_ERROR_CODE;
            self.set_control(ControlField::EntryExceptionErrorCode, u64::from(code));
        }
        if event.instruction_len != 0 {
            self.set_control(ControlField::EntryInstructionLength, u64::from(event.instruction_len));
        }
        self.set_control(ControlField::EntryInterruptionInformation, u64::from(information));
    }

    /// Sets or clears the guest's "blocking by NMI".
    pub fn set_nmi_blocking(&mut self, on: bool) {
        const BLOCKING_BY_NMI: u64 = 1 << 3;
        let state = self.read(GuestField::InterruptibilityState) & !BLOCKING_BY_NMI;
        self.write(GuestField::InterruptibilityState, if on { state | BLOCKING_BY_NMI } else { state });
    }

    /// Has the guest exit as soon as it can take an interrupt, or no longer.
    pub fn set_interrupt_window_exiting(&mut self, on: bool) {
        self.set_primary(PrimaryProcBased::INTERRUPT_WINDOW_EXITING, on);
    }

    /// Has the guest exit as soon as it can take an NMI, or no longer.
    pub fn set_nmi_window_exiting(&mut self, on: bool) {
        self.set_primary(PrimaryProcBased::NMI_WINDOW_EXITING, on);
    }

    fn set_primary(&mut self, control: PrimaryProcBased, on: bool) {
        let mut primary = self.vcpu.primary;
        primary.set(control, on);
        if primary != self.vcpu.primary {
            self.vcpu.primary = primary;
            self.set_control(ControlField::PrimaryProcBasedControls, u64::from(primary.bits()));
        }
    }

    /// Has the guest exit when its TPR falls below `class` (bits 7:4 of a vector), or never for 0. Without virtual-interrupt
    /// delivery this tells when an interrupt that the TPR holds back may come.
    pub fn set_tpr_threshold(&mut self, class: u8) {
        let shadowed = self.vcpu.primary.contains(PrimaryProcBased::USE_TPR_SHADOW);
        if !shadowed || self.vcpu.plan.apicv {
            return;
        }
        // "The value of bits 3:0 of the TPR threshold VM-execution control field should not be greater than the value of bits
        // 7:4 of VTPR". Where the TPR is lower, it holds nothing back: an interrupt in service does, and its EOI exits.
        const TPR: u16 = 0x80;
        let tpr_class = (self.vcpu.virtual_apic.read(TPR) >> 4 & 0xf) as u8;
        let class = if class & 0xf > tpr_class { 0 } else { class & 0xf };
        if self.vcpu.tpr_threshold != class {
            self.vcpu.tpr_threshold = class;
            self.set_control(ControlField::TprThreshold, u64::from(class));
        }
    }

    /// Sets what RDTSC in the guest adds to the host's TSC.
    pub fn set_tsc_offset(&mut self, offset: u64) {
        self.set_control(ControlField::TscOffset, offset);
    }

    /// The XCR0 that the guest has from now on; the CPU has it now.
    pub fn set_xcr0(&mut self, xcr0: u64) {
        self.vcpu.fpu.set_xcr0(xcr0);
    }

    /// The guest's CR2, as it is in the CPU.
    #[must_use]
    pub fn cr2(&self) -> u64 {
        x86_64::registers::control::Cr2::read_raw()
    }

    /// Sets the guest's CR2.
    pub fn set_cr2(&mut self, value: u64) {
        // SAFETY: CR2 is the loaded guest's; the hypervisor has no page fault that it goes on from.
        unsafe { asm!("mov cr2, {}", in(reg) value, options(nostack, nomem, preserves_flags)) };
    }

    /// What the CPU would have done to DR6 at the #DB that exited with this qualification: "a debug exception causes a VM exit
    /// [and] does not update DR6" (SDM volume 3, "Architectural State Before a VM Exit").
    pub fn set_debug_status(&mut self, qualification: u64) {
        const BREAKPOINTS: u64 = 0xf;
        const DETECTED_AND_SINGLE_STEP: u64 = 0b11 << 13;
        let dr6: u64;
        // SAFETY: DR6 is the loaded guest's, and only tells of past events.
        unsafe { asm!("mov {}, dr6", out(reg) dr6, options(nostack, nomem, preserves_flags)) };
        let dr6 = dr6 & !BREAKPOINTS | qualification & (BREAKPOINTS | DETECTED_AND_SINGLE_STEP);
        // SAFETY: as above; only bits that exist in every CPU were set, so no reserved one is.
        unsafe { asm!("mov dr6, {}", in(reg) dr6, options(nostack, nomem, preserves_flags)) };
    }

    /// Whether the CPU virtualises the local APIC at all.
    #[must_use]
    pub const fn has_apicv(&self) -> bool {
        self.vcpu.plan.apicv
    }

    /// Tells the CPU how the vCPU's local APIC is reached, and shows the APIC-access page in the guest's RAM where that is by
    /// memory. `page_needed` says whether any vCPU of the VM reaches its own so: the page stays for it, and the others find memory
    /// there that nobody else reads. Does nothing where the CPU does not virtualise the APIC.
    ///
    /// # Errors
    /// [`OutOfFrames`] when the APIC-access page cannot be mapped.
    pub fn set_apic_access(
        &mut self,
        ram: &GuestRam,
        access: ApicAccess,
        page_needed: bool,
    ) -> Result<(), OutOfFrames> {
        if !self.vcpu.plan.apicv || access == self.vcpu.apic_access_mode {
            return Ok(());
        }
        ram.show_apic_access_page(page_needed)?;
        let secondary = self.vcpu.plan.secondary_for(access);
        self.vcpu.apic_access_mode = access;
        self.set_control(ControlField::SecondaryProcBasedControls, u64::from(secondary.bits()));
        let pages = self.vcpu.root_pages;
        let bitmap = if access == ApicAccess::Msrs { &pages.msr_bitmap_x2apic } else { &pages.msr_bitmap };
        self.set_control(ControlField::MsrBitmap, bitmap.address().0);
        // What the CPU remembers of the page was found under the old control.
        self.flush_tlb();
        Ok(())
    }

    /// Sets the vectors whose EOI exits: the level-triggered ones.
    pub fn set_eoi_exit_bitmap(&mut self, bitmap: [u64; 4]) {
        use ControlField as F;
        let fields = [F::EoiExitBitmap0, F::EoiExitBitmap1, F::EoiExitBitmap2, F::EoiExitBitmap3];
        for (field, bits) in fields.into_iter().zip(bitmap) {
            self.set_control(field, bits);
        }
    }

    /// Sets the guest's IA32_TSC_AUX.
    pub fn set_tsc_aux(&mut self, value: u32) {
        if self.vcpu.has_tsc_aux {
            // SAFETY: the CPU has the MSR; only the guest's RDTSCP and RDPID read it.
            unsafe { msr::write(super::vcpu::TSC_AUX, u64::from(value)) };
        }
    }

    /// Drops the guest's cached linear translations.
    pub fn flush_tlb(&mut self) {
        if self.vcpu.plan.vpid() {
            invvpid(self.vcpu.vpid());
        }
    }

    /// After a VM entry that failed on the guest's state: the rules that it breaks, in words.
    #[must_use]
    pub fn broken_rules(&self) -> Vec<String> {
        let control = |field: ControlField| vmread(field.encoding()).unwrap_or(0) as u32;
        let secondary = self.vcpu.plan.secondary_for(self.vcpu.apic_access_mode);
        let address_sizes = raw_cpuid::CpuId::new().get_processor_capacity_feature_info();
        let context = guest_state::EntryContext {
            // Read from the VMCS: a VM exit stores IA32_EFER.LMA into "IA-32e mode guest".
            entry: EntryControls::from_bits_retain(control(ControlField::EntryControls)),
            unrestricted_guest: secondary.contains(SecondaryProcBased::UNRESTRICTED_GUEST),
            ept: secondary.contains(SecondaryProcBased::ENABLE_EPT),
            virtual_nmis: self.vcpu.plan.virtual_nmis(),
            interruption_info: control(ControlField::EntryInterruptionInformation),
            capabilities: self.vcpu.capabilities,
            physical_address_bits: address_sizes.map_or(36, |sizes| u32::from(sizes.physical_address_bits())),
        };
        guest_state::check(&|field| self.read(field), &context).iter().map(ToString::to_string).collect()
    }
}

/// Handles what exited from the guest but is the host's: NMIs and machine checks.
#[inline]
fn handle_host_exception(exit: &RawExit) {
    const MACHINE_CHECK: u32 = 18;
    const HARDWARE_EXCEPTION: u32 = EventKind::HardwareException as u32;
    const NMI: u32 = EventKind::Nmi as u32;
    match ExitReason::of(exit.reason) {
        Some(ExitReason::ExceptionOrNmi) => {
            match (exit.interruption_info >> 8 & 0b111, exit.interruption_info & 0xff) {
                (NMI, _) => handle_nmi(),
                (HARDWARE_EXCEPTION, MACHINE_CHECK) => handle_machine_check(),
                _ => {}
            }
        }
        Some(ExitReason::MachineCheckOnEntry) => handle_machine_check(),
        _ => {}
    }
}

impl VcpuState for CurrentVmcs<'_> {
    fn read(&self, field: GuestField) -> u64 {
        vmread(field.encoding()).unwrap_or(0)
    }

    fn write(&mut self, field: GuestField, value: u64) {
        // SAFETY: a guest-state field decides what the guest runs with. The CPU checks the area as a whole at VM entry; whatever
        // it lets pass stays within the guest's EPT, bitmaps and controls. The VMCS link pointer names no VMCS but by
        // VMCS shadowing, which is off. A field that this CPU lacks is left.
        let _ = unsafe { vmwrite(field.encoding(), value) };
    }

    fn cr0(&self) -> u64 {
        let shadow = vmread(ControlField::Cr0ReadShadow.encoding()).unwrap_or(0);
        self.read(GuestField::Cr0) & cr0::GUEST_OWNED | shadow & !cr0::GUEST_OWNED
    }

    fn cr4(&self) -> u64 {
        let shadow = vmread(ControlField::Cr4ReadShadow.encoding()).unwrap_or(0);
        self.read(GuestField::Cr4) & cr4::GUEST_OWNED | shadow & !cr4::GUEST_OWNED
    }

    fn set_cr0(&mut self, value: u64) {
        // NW and CD would be the host's caches: the guest only believes it set them.
        let fixed = self.vcpu.capabilities.guest_cr0_ones();
        self.set_control(ControlField::Cr0ReadShadow, value);
        self.write(GuestField::Cr0, value & !(cr0::NW | cr0::CD) | fixed | cr0::ET);
    }

    fn set_cr4(&mut self, value: u64) {
        // With MCE clear a machine check would shut the machine down, not the guest (SDM, "Machine-Check Exception").
        self.set_control(ControlField::Cr4ReadShadow, value);
        self.write(GuestField::Cr4, value | cr4::VMXE | cr4::MCE);
    }

    fn set_long_mode(&mut self, active: bool) {
        let mut entry = self.vcpu.plan.controls.entry;
        entry.set(EntryControls::IA32E_MODE_GUEST, active);
        self.set_control(ControlField::EntryControls, u64::from(entry.bits()));
    }
}
