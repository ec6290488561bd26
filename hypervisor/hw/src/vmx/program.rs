//! What a new vCPU's VMCS is filled with: controls, host state, the guest's first registers.

use super::current::CurrentVmcs;
use super::switch;
use crate::cpu::{gdt_base, host_selectors, msr, tss_base};
use crate::mem::GuestRam;
use lamina_core::loader::EntryState;
use lamina_core::vmx::controls::{ApicAccess, PrimaryProcBased, SecondaryProcBased};
use lamina_core::vmx::{ControlField, GuestField, HostField};
use lamina_core::x86::VcpuState;
use lamina_core::x86::control::{cr0, cr4};

/// PAUSEs at most this many TSC ticks apart are one loop, and a loop that lasts longer than the window exits: it spins on a
/// lock whose holder may need this CPU (SDM volume 3, "Controls for PAUSE-Loop Exiting").
const PAUSE_LOOP_GAP_TICKS: u64 = 128;
const PAUSE_LOOP_WINDOW_TICKS: u64 = 4096;

/// The exceptions that exit. Machine checks (#MC, 18) are the host's business: a guest sees none. #DB (1) and #AC (17) are the
/// guest's, but their delivery can raise the same exception again and again without an instruction boundary in between, where
/// neither an interrupt nor the preemption timer could take the CPU from the guest; an exit each time lets them.
const EXCEPTION_BITMAP: u32 = 1 << 1 | 1 << 17 | 1 << 18;

impl CurrentVmcs<'_> {
    /// Writes the controls and the guest's first registers; the host-state area is there once the VMCS is current.
    pub(super) fn program(&mut self, ram: &GuestRam, state: &EntryState) {
        self.program_controls(ram);
        self.set_entry_state(state);
    }

    fn program_controls(&mut self, ram: &GuestRam) {
        use ControlField as F;
        let vcpu = &*self.vcpu;
        let io_bitmaps = vcpu.root_pages.io_bitmaps.each_ref().map(|frame| frame.address().0);
        let (plan, controls) = (vcpu.plan, vcpu.plan.controls);
        let (primary, secondary) = (controls.primary, plan.secondary_for(ApicAccess::Disabled));
        let (msr_bitmap, vpid) = (vcpu.root_pages.msr_bitmap.address().0, vcpu.vpid());
        let (virtual_apic, apic_access) = (vcpu.virtual_apic.address().0, ram.apic_access_page().0);
        self.set_control(F::PinBasedControls, u64::from(controls.pin_based.bits()));
        self.set_control(F::PrimaryProcBasedControls, u64::from(primary.bits()));
        self.set_control(F::SecondaryProcBasedControls, u64::from(secondary.bits()));
        self.set_control(F::ExitControls, u64::from(controls.exit.bits()));
        self.set_control(F::EntryControls, u64::from(controls.entry.bits()));
        self.set_control(F::ExceptionBitmap, u64::from(EXCEPTION_BITMAP));
        for field in [F::PageFaultErrorCodeMask, F::PageFaultErrorCodeMatch, F::Cr3TargetCount, F::ExitMsrStoreCount] {
            self.set_control(field, 0);
        }
        for field in [F::ExitMsrLoadCount, F::EntryMsrLoadCount, F::EntryInterruptionInformation] {
            self.set_control(field, 0);
        }
        self.set_control(F::IoBitmapA, io_bitmaps[0]);
        self.set_control(F::IoBitmapB, io_bitmaps[1]);
        self.set_control(F::MsrBitmap, msr_bitmap);
        self.set_control(F::EptPointer, ram.eptp());
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
    pub(super) fn program_host(&mut self) {
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

    /// Sets every register of the vCPU's that the VMCS holds, and the debug registers: its start, or what INIT and a start-up
    /// IPI make of it.
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
        self.vcpu.reset_debug_registers();
    }
}
