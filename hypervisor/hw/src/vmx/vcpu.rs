//! A virtual CPU in hardware: its VMCS and the registers that the VMCS does not hold.

use super::instructions::{VmFail, invvpid_single, vmclear, vmptrld, vmread, vmwrite};
use super::pages::VirtualApicPage;
use super::root::{CR4_VMXE, VmxRoot};
use super::switch;
use crate::cpu::{FpuState, gdt_base, host_selectors, msr, tss_base};
use crate::mem::{GuestRam, HostFrame, OutOfFrames, Owner};
use core::arch::asm;
use lamina_core::exit::{Event, RawExit};
use lamina_core::loader::EntryState;
use lamina_core::memory::{FrameKind, HostPhysAddr};
use lamina_core::vmx::{
    ControlField, EntryControls, ExitReason, FieldSet, GuestField, HostField, PrimaryProcBased, ReadOnlyField,
    SecondaryProcBased,
};
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

/// CR0 bits that the guest cannot change by itself: NE, which VMX fixes, and the caching bits, which would be the host's.
const CR0_HOST_OWNED: u64 = CR0_NE | CR0_NW | CR0_CD;
const CR0_NE: u64 = 1 << 5;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
/// CR0.ET is fixed to 1 by the architecture.
const CR0_ET: u64 = 1 << 4;
/// CR4 bits that the guest changes by itself: those of features that CPUID shows to it and that need nothing of the host.
/// MCE is not among them: with MCE clear a machine check would shut the machine down (SDM, "Machine-Check Exception").
const CR4_GUEST_OWNED: u64 = CR4_VME_PVI_TSD_DE_PSE_PAE | CR4_PGE | CR4_OSFXSR_OSXMMEXCPT;
const CR4_VME_PVI_TSD_DE_PSE_PAE: u64 = 0b11_1111;
const CR4_MCE: u64 = 1 << 6;
const CR4_PGE: u64 = 1 << 7;
const CR4_OSFXSR_OSXMMEXCPT: u64 = 0b11 << 9;

/// Which form of the local APIC the CPU virtualises for a vCPU at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApicVirtualization {
    /// None: every access comes as an exit.
    Off,
    /// The memory-mapped registers.
    XApic,
    /// The x2APIC's MSRs.
    X2Apic,
}

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
    vpid: u16,
    /// What the control fields hold: they are never read back.
    primary: PrimaryProcBased,
    secondary: SecondaryProcBased,
    entry: EntryControls,
    msr_bitmaps: [HostPhysAddr; 2],
    cr0_fixed0: u64,
    timer_shift: u8,
    apicv: bool,
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
        let plan = root.plan();
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
            vpid: slot + 1,
            primary: plan.primary,
            secondary: plan.secondary,
            entry: plan.entry,
            msr_bitmaps: [bitmaps.default.address(), bitmaps.x2apic.address()],
            cr0_fixed0: root.capabilities().cr0_fixed0,
            timer_shift: root.capabilities().preemption_timer_shift(),
            apicv: plan.apicv,
        };
        // SAFETY: the region is a frame of ours with the revision identifier; no CPU has it as its VMCS.
        let cleared = unsafe { vmclear(vcpu.vmcs.address()) };
        assert_eq!(cleared, Ok(()), "VMCLEAR of a fresh VMCS region");
        invvpid_single(vcpu.vpid);
        vcpu.program(root, ram, state);
        Ok(vcpu)
    }

    pub(super) fn vmcs_address(&self) -> HostPhysAddr {
        self.vmcs.address()
    }

    /// The page that the CPU recognises as the local APIC's, for [`GuestRam::show_apic_access_page`].
    #[must_use]
    pub const fn apic_access_page(&self) -> &HostFrame {
        &self.apic_access
    }

    /// Writes the whole VMCS once.
    fn program(&mut self, root: &mut VmxRoot, ram: &GuestRam, state: &EntryState) {
        let plan = *root.plan();
        let [io_a, io_b] = root.io_bitmaps().each_ref().map(|frame| frame.address().0);
        let mut current = root.load(self);
        current.program_controls(&plan, ram.eptp(), [io_a, io_b]);
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

    fn program_controls(&mut self, plan: &lamina_core::vmx::ControlPlan, eptp: u64, io_bitmaps: [u64; 2]) {
        use ControlField as F;
        let vcpu = &*self.vcpu;
        let (primary, secondary, entry) = (vcpu.primary, vcpu.secondary, vcpu.entry);
        let (msr_bitmap, vpid) = (vcpu.msr_bitmaps[0].0, vcpu.vpid);
        let (virtual_apic, apic_access) = (vcpu.virtual_apic.address().0, vcpu.apic_access.address().0);
        self.set_control(F::PinBasedControls, u64::from(plan.pin.bits()));
        self.set_control(F::PrimaryProcBasedControls, u64::from(primary.bits()));
        self.set_control(F::SecondaryProcBasedControls, u64::from(secondary.bits()));
        self.set_control(F::ExitControls, u64::from(plan.exit.bits()));
        self.set_control(F::EntryControls, u64::from(entry.bits()));
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
        if secondary.contains(SecondaryProcBased::ENABLE_XSAVES_XRSTORS) {
            self.set_control(F::XssExitingBitmap, u64::MAX);
        }
        self.set_control(F::TscOffset, 0);
        let cr0_mask = CR0_HOST_OWNED;
        self.set_control(F::Cr0GuestHostMask, cr0_mask);
        self.set_control(F::Cr4GuestHostMask, !CR4_GUEST_OWNED);
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
        if self.vcpu.apicv {
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
        let count = (ticks >> self.vcpu.timer_shift).min(u64::from(u32::MAX));
        self.write(GuestField::PreemptionTimerValue, count);
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

    /// Chooses what of the local APIC the CPU virtualises. The APIC-access page must be shown in the guest's RAM if and only
    /// if this is [`ApicVirtualization::XApic`].
    pub fn set_apic_virtualization(&mut self, form: ApicVirtualization) {
        if !self.vcpu.apicv {
            return;
        }
        let mut secondary = self.vcpu.secondary;
        let on = form != ApicVirtualization::Off;
        secondary.set(SecondaryProcBased::VIRTUALIZE_APIC_ACCESSES, form == ApicVirtualization::XApic);
        secondary.set(SecondaryProcBased::VIRTUALIZE_X2APIC_MODE, form == ApicVirtualization::X2Apic);
        secondary.set(SecondaryProcBased::APIC_REGISTER_VIRTUALIZATION, on);
        secondary.set(SecondaryProcBased::VIRTUAL_INTERRUPT_DELIVERY, on);
        if secondary != self.vcpu.secondary {
            self.vcpu.secondary = secondary;
            self.set_control(ControlField::SecondaryProcBasedControls, u64::from(secondary.bits()));
        }
        let bitmap = self.vcpu.msr_bitmaps[usize::from(form == ApicVirtualization::X2Apic)].0;
        self.set_control(ControlField::MsrBitmap, bitmap);
    }

    /// Sets the vectors whose EOI exits: the level-triggered ones.
    pub fn set_eoi_exit_bitmap(&mut self, bitmap: [u64; 4]) {
        use ControlField as F;
        let fields = [F::EoiExitBitmap0, F::EoiExitBitmap1, F::EoiExitBitmap2, F::EoiExitBitmap3];
        for (field, bits) in fields.into_iter().zip(bitmap) {
            self.set_control(field, bits);
        }
    }

    /// The VM-entry controls in force, for the check of guest state after a failed entry.
    #[must_use]
    pub fn entry_controls(&self) -> EntryControls {
        self.vcpu.entry
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
        self.read(GuestField::Cr0) & !CR0_HOST_OWNED | shadow & CR0_HOST_OWNED
    }

    fn cr4(&self) -> u64 {
        let shadow = vmread(ControlField::Cr4ReadShadow.encoding()).unwrap_or(0);
        self.read(GuestField::Cr4) & CR4_GUEST_OWNED | shadow & !CR4_GUEST_OWNED
    }

    fn set_cr0(&mut self, value: u64) {
        // With "unrestricted guest" PE and PG may be 0 whatever IA32_VMX_CR0_FIXED0 says (SDM, "Checks on Guest Control
        // Registers"). NW and CD would be the host's caches: the guest only believes it set them.
        const PE: u64 = 1 << 0;
        const PG: u64 = 1 << 31;
        let fixed = self.vcpu.cr0_fixed0 & !(PE | PG);
        self.set_control(ControlField::Cr0ReadShadow, value);
        self.write(GuestField::Cr0, value & !(CR0_NW | CR0_CD) | fixed | CR0_ET);
        invvpid_single(self.vcpu.vpid);
    }

    fn set_cr4(&mut self, value: u64) {
        self.set_control(ControlField::Cr4ReadShadow, value);
        self.write(GuestField::Cr4, value | CR4_VMXE | CR4_MCE);
        invvpid_single(self.vcpu.vpid);
    }

    fn set_long_mode(&mut self, active: bool) {
        self.vcpu.entry.set(EntryControls::IA_32E_MODE_GUEST, active);
        let entry = self.vcpu.entry.bits();
        self.set_control(ControlField::EntryControls, u64::from(entry));
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
