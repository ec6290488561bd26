//! A virtual CPU in hardware: its VMCS and the registers that the VMCS does not hold.

use super::instructions::{invvpid_single, vmclear, vmread, vmwrite};
use super::pages::VirtualApicPage;
use super::root::VmxRoot;
use super::switch;
use crate::cpu::{FpuState, gdt_base, host_selectors, msr, tss_base};
use crate::mem::{GuestRam, HostFrame, OutOfFrames, Owner};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::arch::asm;
use lamina_core::exit::{Event, RawExit};
use lamina_core::loader::EntryState;
use lamina_core::memory::{FrameKind, HostPhysAddr};
use lamina_core::vmx::controls::{ApicAccess, ControlPlan, EntryControls, PrimaryProcBased, SecondaryProcBased};
use lamina_core::vmx::guest_state;
use lamina_core::vmx::{Capabilities, ControlField, ExitReason, FieldSet, GuestField, HostField, ReadOnlyField};
use lamina_core::x86::control::{cr0, cr4};
use lamina_core::x86::{Gprs, VcpuState};

const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const FMASK: u32 = 0xc000_0084;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;

/// MSRs that the guest has directly and that no VMCS field holds: swapped when the CPU changes vCPUs. The hypervisor
/// itself executes neither SYSCALL nor SWAPGS nor RDTSCP.
const SWAPPED_MSRS: [u32; 6] = [STAR, LSTAR, CSTAR, FMASK, KERNEL_GS_BASE, TSC_AUX];

const _: () = assert!(cr4::GUEST_OWNED & (cr4::MCE | cr4::VMXE) == 0, "machine checks and VMX stay the host's");

/// PAUSEs at most this many TSC ticks apart are one loop, and a loop that lasts longer than the window exits: it spins on a
/// lock whose holder may need this CPU (SDM volume 3, "Controls for PAUSE-Loop Exiting").
const PAUSE_LOOP_GAP_TICKS: u64 = 128;
const PAUSE_LOOP_WINDOW_TICKS: u64 = 4096;

/// A failed VM entry: the guest did not run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryFailure {
    /// There was no current VMCS.
    Invalid,
    /// The VM-instruction error number.
    InstructionError(u32),
}

/// A virtual CPU. Its VMCS, virtual-APIC page and register areas are frames on the VM's account.
#[derive(Debug)]
pub struct Vcpu {
    vmcs: HostFrame,
    virtual_apic: VirtualApicPage,
    apic_access: HostFrame,
    fpu: FpuState,
    msrs: [u64; SWAPPED_MSRS.len()],
    has_tsc_aux: bool,
    debug_registers: [u64; 4],
    dr6: u64,
    cr2: u64,
    launched: bool,
    host_rsp: u64,
    tpr_threshold: u8,
    vpid: u16,
    /// What the control fields hold: they are never read back.
    primary: PrimaryProcBased,
    apic_access_mode: ApicAccess,
    plan: ControlPlan,
    capabilities: Capabilities,
    msr_bitmaps: [HostPhysAddr; 2],
}

impl Vcpu {
    /// A vCPU of the VM in `slot`, to start in `state`, with this RAM. It is loaded by [`VmxRoot::load`].
    ///
    /// # Errors
    /// [`OutOfFrames`].
    pub fn new(
        root: &mut VmxRoot,
        slot: u16,
        ram: &GuestRam,
        virtual_apic: VirtualApicPage,
        state: &EntryState,
    ) -> Result<Self, OutOfFrames> {
        let owner = Owner::vm(slot, FrameKind::Vcpu);
        let mut vmcs = HostFrame::new(owner)?;
        vmcs.write_u32(0, root.capabilities().revision_id());
        let features = raw_cpuid::CpuId::new();
        let has_tsc_aux = features.get_extended_processor_and_feature_identifiers().is_some_and(|f| f.has_rdtscp());
        let bitmaps = root.msr_bitmaps();
        let plan = *root.plan();
        let mut vcpu = Self {
            vmcs,
            virtual_apic,
            apic_access: HostFrame::new(owner)?,
            fpu: FpuState::new(owner)?,
            msrs: [0; SWAPPED_MSRS.len()],
            has_tsc_aux,
            debug_registers: [0; 4],
            dr6: 0xffff_0ff0,
            cr2: 0,
            launched: false,
            host_rsp: 0,
            tpr_threshold: 0,
            vpid: slot + 1,
            primary: plan.controls.primary,
            apic_access_mode: ApicAccess::Disabled,
            plan,
            capabilities: *root.capabilities(),
            msr_bitmaps: [bitmaps.default.address(), bitmaps.x2apic.address()],
        };
        // SAFETY: the region is a frame of ours with the revision identifier; no CPU has it as its VMCS.
        let cleared = unsafe { vmclear(vcpu.vmcs.address()) };
        assert_eq!(cleared, Ok(()), "VMCLEAR of a fresh VMCS region");
        if plan.vpid() {
            invvpid_single(vcpu.vpid);
        }
        vcpu.program(root, ram, state);
        Ok(vcpu)
    }

    pub(super) fn vmcs_address(&self) -> HostPhysAddr {
        self.vmcs.address()
    }

    /// Writes the whole VMCS once.
    fn program(&mut self, root: &mut VmxRoot, ram: &GuestRam, state: &EntryState) {
        let [io_a, io_b] = root.io_bitmaps().each_ref().map(|frame| frame.address().0);
        let mut current = root.load(self);
        current.program_controls(ram.eptp(), [io_a, io_b]);
        current.program_host();
        current.set_entry_state(state);
        root.unload(self);
    }

    /// Gives the CPU the registers that no VMCS field holds.
    pub(super) fn restore_registers(&mut self) {
        self.fpu.restore();
        for (index, &number) in SWAPPED_MSRS.iter().enumerate() {
            if number != TSC_AUX || self.has_tsc_aux {
                // SAFETY: the values are what this guest's own WRMSR put there (the CPU checked them then) or zero, and the
                // hypervisor uses none of these MSRs itself.
                unsafe { msr::write(number, self.msrs[index]) };
            }
        }
        let [dr0, dr1, dr2, dr3] = self.debug_registers;
        // SAFETY: DR7 is 0x400 in the hypervisor (a VM exit sets it), so no breakpoint of the guest's is armed here; CR2 only
        // matters after a page fault, and the hypervisor has none it goes on from.
        unsafe {
            asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", "mov dr6, {}", "mov cr2, {}",
                 in(reg) dr0, in(reg) dr1, in(reg) dr2, in(reg) dr3, in(reg) self.dr6, in(reg) self.cr2,
                 options(nostack, nomem, preserves_flags));
        }
    }

    /// Takes them back.
    pub(super) fn save_registers(&mut self) {
        self.fpu.save();
        for (index, &number) in SWAPPED_MSRS.iter().enumerate() {
            if number != TSC_AUX || self.has_tsc_aux {
                self.msrs[index] = msr::read(number);
            }
        }
        let (dr0, dr1, dr2, dr3): (u64, u64, u64, u64);
        // SAFETY: reading registers.
        unsafe {
            asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", "mov {}, dr6", "mov {}, cr2",
                 out(reg) dr0, out(reg) dr1, out(reg) dr2, out(reg) dr3, out(reg) self.dr6, out(reg) self.cr2,
                 options(nostack, nomem, preserves_flags));
        }
        self.debug_registers = [dr0, dr1, dr2, dr3];
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        // SAFETY: the region is ours; VMCLEAR makes the CPU forget it, so the frame can serve another purpose.
        let _ = unsafe { vmclear(self.vmcs.address()) };
    }
}

/// The current VMCS of this CPU: proof that a vCPU is loaded. Its guest-state area is what exit handlers work on.
#[derive(Debug)]
pub struct CurrentVmcs<'a> {
    vcpu: &'a mut Vcpu,
}

impl<'a> CurrentVmcs<'a> {
    pub(super) fn new(vcpu: &'a mut Vcpu) -> Self {
        Self { vcpu }
    }

    fn set_control(&mut self, field: ControlField, value: u64) {
        // SAFETY: every caller in this file passes flags from the resolved plan, addresses of frames that the vCPU or the root
        // own, or numbers that name no memory.
        let written = unsafe { vmwrite(field.encoding(), value) };
        debug_assert_eq!(written, Ok(()), "VMWRITE of {field:?}");
    }

    fn set_host(&mut self, field: HostField, value: u64) {
        // SAFETY: called from `program_host` alone, with this CPU's present state.
        let written = unsafe { vmwrite(field.encoding(), value) };
        debug_assert_eq!(written, Ok(()), "VMWRITE of {field:?}");
    }

    fn program_controls(&mut self, eptp: u64, io_bitmaps: [u64; 2]) {
        use ControlField as F;
        let vcpu = &*self.vcpu;
        let (plan, controls) = (vcpu.plan, vcpu.plan.controls);
        let (primary, secondary) = (controls.primary, plan.secondary_for(ApicAccess::Disabled));
        let (msr_bitmap, vpid) = (vcpu.msr_bitmaps[0].0, vcpu.vpid);
        let (virtual_apic, apic_access) = (vcpu.virtual_apic.address().0, vcpu.apic_access.address().0);
        self.set_control(F::PinBasedControls, u64::from(controls.pin_based.bits()));
        self.set_control(F::PrimaryProcBasedControls, u64::from(primary.bits()));
        self.set_control(F::SecondaryProcBasedControls, u64::from(secondary.bits()));
        self.set_control(F::ExitControls, u64::from(controls.exit.bits()));
        self.set_control(F::EntryControls, u64::from(controls.entry.bits()));
        // Machine checks are the host's business: a guest sees none.
        self.set_control(F::ExceptionBitmap, 1 << 18);
        for field in [F::PageFaultErrorCodeMask, F::PageFaultErrorCodeMatch, F::Cr3TargetCount, F::ExitMsrStoreCount] {
            self.set_control(field, 0);
        }
        for field in [F::ExitMsrLoadCount, F::EntryMsrLoadCount, F::EntryInterruptionInformation] {
            self.set_control(field, 0);
        }
        self.set_control(F::IoBitmapA, io_bitmaps[0]);
        self.set_control(F::IoBitmapB, io_bitmaps[1]);
        self.set_control(F::MsrBitmap, msr_bitmap);
        self.set_control(F::EptPointer, eptp);
        if secondary.contains(SecondaryProcBased::ENABLE_VPID) {
            self.set_control(F::VirtualProcessorIdentifier, u64::from(vpid));
        }
        if primary.contains(PrimaryProcBased::USE_TPR_SHADOW) {
            self.set_control(F::VirtualApicAddress, virtual_apic);
            self.set_control(F::TprThreshold, 0);
        }
        if plan.apicv {
            self.set_control(F::ApicAccessAddress, apic_access);
            for field in [F::EoiExitBitmap0, F::EoiExitBitmap1, F::EoiExitBitmap2, F::EoiExitBitmap3] {
                self.set_control(field, 0);
            }
        }
        if secondary.contains(SecondaryProcBased::PAUSE_LOOP_EXITING) {
            self.set_control(F::PleGap, PAUSE_LOOP_GAP_TICKS);
            self.set_control(F::PleWindow, PAUSE_LOOP_WINDOW_TICKS);
        }
        self.set_control(F::TscOffset, 0);
        self.set_control(F::Cr0GuestHostMask, !cr0::GUEST_OWNED);
        self.set_control(F::Cr4GuestHostMask, !cr4::GUEST_OWNED);
    }

    /// The host-state area: this CPU as it is now.
    fn program_host(&mut self) {
        use HostField as F;
        use x86_64::registers::control::{Cr0, Cr3, Cr4};
        let (code, data, tss) = host_selectors();
        self.set_host(F::CsSelector, u64::from(code));
        for field in [F::SsSelector, F::DsSelector, F::EsSelector] {
            self.set_host(field, u64::from(data));
        }
        self.set_host(F::FsSelector, 0);
        self.set_host(F::GsSelector, 0);
        self.set_host(F::TrSelector, u64::from(tss));
        self.set_host(F::Cr0, Cr0::read_raw());
        let (root, flags) = Cr3::read_raw();
        self.set_host(F::Cr3, root.start_address().as_u64() | u64::from(flags));
        self.set_host(F::Cr4, Cr4::read_raw());
        self.set_host(F::FsBase, msr::read(msr::FS_BASE));
        self.set_host(F::GsBase, msr::read(msr::GS_BASE));
        self.set_host(F::TrBase, tss_base());
        self.set_host(F::GdtrBase, gdt_base());
        self.set_host(F::IdtrBase, x86_64::instructions::tables::sidt().base.as_u64());
        self.set_host(F::Ia32Efer, msr::read(msr::EFER));
        self.set_host(F::Ia32Pat, msr::read(msr::PAT));
        self.set_host(F::Ia32SysenterCs, msr::read(msr::SYSENTER_CS));
        self.set_host(F::Ia32SysenterEsp, 0);
        self.set_host(F::Ia32SysenterEip, 0);
        self.set_host(F::Rip, switch::exit_address());
        self.set_host(F::Rsp, 0);
    }

    /// Sets every register of the guest's that the VMCS holds.
    pub fn set_entry_state(&mut self, state: &EntryState) {
        use GuestField as F;
        let segments = &state.segments;
        let fields = [
            (segments.es, F::EsSelector, F::EsBase, F::EsLimit, F::EsAccessRights),
            (segments.cs, F::CsSelector, F::CsBase, F::CsLimit, F::CsAccessRights),
            (segments.ss, F::SsSelector, F::SsBase, F::SsLimit, F::SsAccessRights),
            (segments.ds, F::DsSelector, F::DsBase, F::DsLimit, F::DsAccessRights),
            (segments.fs, F::FsSelector, F::FsBase, F::FsLimit, F::FsAccessRights),
            (segments.gs, F::GsSelector, F::GsBase, F::GsLimit, F::GsAccessRights),
            (segments.ldtr, F::LdtrSelector, F::LdtrBase, F::LdtrLimit, F::LdtrAccessRights),
            (segments.tr, F::TrSelector, F::TrBase, F::TrLimit, F::TrAccessRights),
        ];
        for (segment, selector, base, limit, access_rights) in fields {
            self.write(selector, u64::from(segment.selector));
            self.write(base, segment.base);
            self.write(limit, u64::from(segment.limit));
            self.write(access_rights, u64::from(segment.access_rights));
        }
        self.write(F::GdtrBase, state.gdtr.base);
        self.write(F::GdtrLimit, u64::from(state.gdtr.limit));
        self.write(F::IdtrBase, state.idtr.base);
        self.write(F::IdtrLimit, u64::from(state.idtr.limit));
        self.set_cr0(state.cr0);
        self.set_cr4(state.cr4);
        self.write(F::Cr3, state.cr3);
        self.write(F::Ia32Efer, state.efer);
        const EFER_LMA: u64 = 1 << 10;
        self.set_long_mode(state.efer & EFER_LMA != 0);
        self.write(F::Rip, state.rip);
        self.write(F::Rsp, state.rsp);
        self.write(F::Rflags, state.rflags);
        self.write(F::Dr7, 0x400);
        self.write(F::Ia32Pat, 0x0007_0406_0007_0406);
        self.write(F::VmcsLinkPointer, u64::MAX);
        for field in [F::Ia32Debugctl, F::InterruptibilityState, F::ActivityState, F::PendingDebugExceptions] {
            self.write(field, 0);
        }
        for field in [F::Ia32SysenterCs, F::Ia32SysenterEsp, F::Ia32SysenterEip] {
            self.write(field, 0);
        }
        if self.vcpu.plan.apicv {
            self.write(F::InterruptStatus, 0);
        }
        self.vcpu.debug_registers = [0; 4];
        self.vcpu.dr6 = 0xffff_0ff0;
    }

    /// Runs the guest until its next exit.
    ///
    /// # Errors
    /// [`EntryFailure`] when the CPU refused the VM entry before it looked at the guest's state. (Bad guest state comes as an
    /// exit, with bit 31 of its reason set.)
    #[inline]
    pub fn run(&mut self, gprs: &mut Gprs) -> Result<RawExit, EntryFailure> {
        // SAFETY: the VMCS is current (that is what `self` says) and was programmed whole by `Vcpu::new`; `launched` and
        // `host_rsp` are kept in step with it here alone.
        match unsafe { switch::enter(gprs, self.vcpu.launched, &mut self.vcpu.host_rsp) } {
            0 => {
                let exit = read_exit();
                // An entry that failed on the guest's state leaves the launch state as it was.
                self.vcpu.launched |= exit.reason >> 31 == 0;
                Ok(exit)
            }
            1 => Err(EntryFailure::Invalid),
            _ => Err(EntryFailure::InstructionError(read_only(ReadOnlyField::InstructionError) as u32)),
        }
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
        let mut information = VALID | u32::from(event.kind as u8) << 8 | u32::from(event.vector);
        if let Some(code) = event.error_code {
            information |= DELIVER_ERROR_CODE;
            self.set_control(ControlField::EntryExceptionErrorCode, u64::from(code));
        }
        if event.instruction_len != 0 {
            self.set_control(ControlField::EntryInstructionLength, u64::from(event.instruction_len));
        }
        self.set_control(ControlField::EntryInterruptionInformation, u64::from(information));
    }

    /// Has the guest exit as soon as it can take an interrupt, or no longer.
    pub fn set_interrupt_window_exiting(&mut self, on: bool) {
        self.set_primary(PrimaryProcBased::INTERRUPT_WINDOW_EXITING, on);
    }

    /// Has the guest exit as soon as it can take an NMI, or no longer. Needs virtual NMIs.
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
        if shadowed && !self.vcpu.plan.apicv && self.vcpu.tpr_threshold != class {
            self.vcpu.tpr_threshold = class;
            self.set_control(ControlField::TprThreshold, u64::from(class & 0xf));
        }
    }

    /// Sets what RDTSC in the guest adds to the host's TSC.
    pub fn set_tsc_offset(&mut self, offset: u64) {
        self.set_control(ControlField::TscOffset, offset);
    }

    /// The XCR0 that the guest has from now on; the CPU has it now.
    pub fn set_xcr0(&mut self, xcr0: u64) {
        self.vcpu.fpu.set_xcr0(xcr0);
        crate::cpu::set_xcr0(xcr0);
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

    /// Whether the CPU virtualises the local APIC at all.
    #[must_use]
    pub const fn has_apicv(&self) -> bool {
        self.vcpu.plan.apicv
    }

    /// Tells the CPU how the guest's local APIC is reached, and shows or hides the APIC-access page in the guest's RAM with
    /// it. Does nothing where the CPU does not virtualise the APIC.
    ///
    /// # Errors
    /// [`OutOfFrames`] when the APIC-access page cannot be mapped.
    pub fn set_apic_access(&mut self, ram: &mut GuestRam, access: ApicAccess) -> Result<(), OutOfFrames> {
        if !self.vcpu.plan.apicv || access == self.vcpu.apic_access_mode {
            return Ok(());
        }
        ram.show_apic_access_page((access == ApicAccess::Memory).then_some(&self.vcpu.apic_access))?;
        let secondary = self.vcpu.plan.secondary_for(access);
        self.vcpu.apic_access_mode = access;
        self.set_control(ControlField::SecondaryProcBasedControls, u64::from(secondary.bits()));
        let bitmap = self.vcpu.msr_bitmaps[usize::from(access == ApicAccess::Msrs)].0;
        self.set_control(ControlField::MsrBitmap, bitmap);
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
            unsafe { msr::write(TSC_AUX, u64::from(value)) };
        }
    }

    /// Drops the guest's cached linear translations.
    pub fn flush_tlb(&mut self) {
        if self.vcpu.plan.vpid() {
            invvpid_single(self.vcpu.vpid);
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

fn read_only(field: ReadOnlyField) -> u64 {
    vmread(field.encoding()).unwrap_or(0)
}

/// Reads the exit's fields: those its reason defines, and no others.
#[inline]
fn read_exit() -> RawExit {
    let mut exit = RawExit { reason: read_only(ReadOnlyField::ExitReason) as u32, ..RawExit::default() };
    if let Some(reason) = ExitReason::from_basic(exit.reason as u16) {
        read_fields(&mut exit, reason.needed_fields());
        let further = reason.further_fields(&exit);
        if !further.is_empty() {
            read_fields(&mut exit, further);
        }
    }
    exit
}

#[inline]
fn read_fields(exit: &mut RawExit, fields: FieldSet) {
    use ReadOnlyField as F;
    if fields.contains(FieldSet::INSTRUCTION_LEN) {
        exit.instruction_len = read_only(F::ExitInstructionLength) as u32;
    }
    if fields.contains(FieldSet::QUALIFICATION) {
        exit.qualification = read_only(F::ExitQualification);
    }
    if fields.contains(FieldSet::GUEST_PHYSICAL) {
        exit.guest_physical = read_only(F::GuestPhysicalAddress);
    }
    if fields.contains(FieldSet::GUEST_LINEAR) {
        exit.guest_linear = read_only(F::GuestLinearAddress);
    }
    if fields.contains(FieldSet::INTERRUPTION_INFO) {
        exit.interruption_info = read_only(F::ExitInterruptionInformation) as u32;
    }
    if fields.contains(FieldSet::INTERRUPTION_ERROR) {
        exit.interruption_error = read_only(F::ExitInterruptionErrorCode) as u32;
    }
    if fields.contains(FieldSet::IDT_VECTORING_INFO) {
        exit.idt_vectoring_info = read_only(F::IdtVectoringInformation) as u32;
    }
    if fields.contains(FieldSet::IDT_VECTORING_ERROR) {
        exit.idt_vectoring_error = read_only(F::IdtVectoringErrorCode) as u32;
    }
    if fields.contains(FieldSet::INSTRUCTION_INFO) {
        exit.instruction_info = read_only(F::ExitInstructionInformation) as u32;
    }
}
