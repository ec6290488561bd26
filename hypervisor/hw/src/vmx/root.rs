//! VMX root operation of one CPU.

use super::capabilities;
use super::current::CurrentVmcs;
use super::instructions::{VmFail, vmclear, vmptrld, vmxon};
use super::vcpu::Vcpu;
use crate::cpu::{self, Cpu, msr, speculation};
use crate::mem::{HostFrame, OutOfFrames, Owner, RamId};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use lamina_core::vmx::Capabilities;
use lamina_core::vmx::controls::ControlPlan;
use lamina_core::vmx::refusal::{Refusal, check_cpu, feature_control_to_write};
use lamina_core::x86::msr::build_bitmap;
use spin::Once;
use thiserror::Error;
use x86_64::registers::control::{Cr0, Cr4};

/// CR4.VMXE.
pub(super) const CR4_VMXE: u64 = 1 << 13;

/// What the boot CPU's VMX can do and the controls chosen for it, which all vCPUs are made by.
static FIRST: Once<(Capabilities, ControlPlan)> = Once::new();
static PAGES: Once<RootPages> = Once::new();

/// Why this CPU does not run guests.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum VmxError {
    /// The CPU or the firmware does not let us.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// No frame for the VMXON region or a bitmap.
    #[error("too little memory to switch VMX on: {0}")]
    OutOfFrames(#[from] OutOfFrames),
    /// Its VMCSs would not do on the boot CPU, nor the boot CPU's here.
    #[error("its VMX is not like the boot CPU's: {0} differs")]
    Different(&'static str),
    /// VMXON itself failed, which the checks before should have ruled out.
    #[error("VMXON failed ({0}); the CPU may already be in VMX operation")]
    VmxonFailed(&'static str),
}

/// A CPU in VMX root operation. Not `Send`: it is the proof that *this* CPU is. The CPU stays in it, so that a root that was
/// dropped cannot be had again.
#[derive(Debug)]
pub struct VmxRoot {
    plan: ControlPlan,
    capabilities: Capabilities,
    pages: &'static RootPages,
    resident: Arc<Resident>,
    /// The RAM of the vCPU that was loaded last.
    last_ram: Option<RamId>,
    _this_cpu: core::marker::PhantomData<*const ()>,
}

/// The pages that every VMCS names, whichever CPU it is on: never freed, since nothing tells when the last of them is gone.
#[derive(Debug)]
pub(super) struct RootPages {
    pub(super) io_bitmaps: [HostFrame; 2],
    /// For all vCPUs but those whose x2APIC the CPU virtualises.
    pub(super) msr_bitmap: HostFrame,
    /// For those.
    pub(super) msr_bitmap_x2apic: HostFrame,
}

impl RootPages {
    fn new() -> Result<Self, OutOfFrames> {
        let new = || HostFrame::new(Owner::HOST);
        let mut pages = Self { io_bitmaps: [new()?, new()?], msr_bitmap: new()?, msr_bitmap_x2apic: new()? };
        for bitmap in &mut pages.io_bitmaps {
            bitmap.fill(0xff);
        }
        build_bitmap(pages.msr_bitmap.bytes_mut(), false);
        build_bitmap(pages.msr_bitmap_x2apic.bytes_mut(), true);
        Ok(pages)
    }
}

/// What one CPU holds of which vCPU, by the vCPUs' numbers; 0 is none. Shared with the vCPUs, so that one that is dropped is
/// forgotten.
#[derive(Debug, Default)]
pub(super) struct Resident {
    /// Whose VMCS is current.
    vmcs: AtomicU64,
    /// Whose registers are in the CPU.
    pub(super) registers: AtomicU64,
}

impl Resident {
    /// The vCPU with this number is no more.
    pub(super) fn forget(&self, id: u64) {
        for holder in [&self.vmcs, &self.registers] {
            // Failing means that it is another one's.
            let _ = holder.compare_exchange(id, 0, Ordering::AcqRel, Ordering::Acquire);
        }
    }
}

impl VmxRoot {
    /// Switches VMX on. The CPU must be able to run guests as `lamina-core`'s plan demands, and in the same way as the CPU that was
    /// the first to call this.
    ///
    /// # Errors
    /// [`VmxError`]: what is missing, in the manual's words.
    pub fn enter(_cpu: &Cpu) -> Result<Self, VmxError> {
        let facts = capabilities::cpu_facts();
        let plan = check_cpu(&facts)?;
        // With a plan there are capabilities it was made from.
        let capabilities = facts.capabilities.unwrap_or_default();
        let (first, first_plan) = FIRST.call_once(|| (capabilities, plan));
        if let Some(what) = capabilities.difference(first) {
            return Err(VmxError::Different(what));
        }
        if plan != *first_plan {
            return Err(VmxError::Different("the set of controls"));
        }
        let pages = PAGES.try_call_once(RootPages::new)?;
        let mut region = HostFrame::new(Owner::HOST)?;
        region.write_u32(0, capabilities.revision_id());
        switch_on(&capabilities, &region)?;
        // The region is the CPU's for good.
        core::mem::forget(region);
        Ok(Self {
            plan,
            capabilities,
            pages,
            resident: Arc::default(),
            last_ram: None,
            _this_cpu: core::marker::PhantomData,
        })
    }

    /// The controls that this CPU's vCPUs run with.
    #[must_use]
    pub const fn plan(&self) -> &ControlPlan {
        &self.plan
    }

    /// What this CPU's VMX can do.
    #[must_use]
    pub const fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    pub(super) const fn pages(&self) -> &'static RootPages {
        self.pages
    }

    /// Makes the vCPU's VMCS current; whose registers the CPU holds is another matter.
    pub(super) fn make_current<'a>(&'a mut self, vcpu: &'a mut Vcpu) -> CurrentVmcs<'a> {
        if self.resident.vmcs.load(Ordering::Acquire) != vcpu.id() {
            // SAFETY: the region is the vCPU's own frame, initialised with the revision identifier. It is current on no other CPU:
            // a vCPU is an exclusive value, and leaves every CPU by VMCLEAR (`give_up`).
            let made_current = unsafe { vmptrld(vcpu.vmcs_address()) };
            assert_eq!(made_current, Ok(()), "VMPTRLD of a VMCS region of ours");
            self.resident.vmcs.store(vcpu.id(), Ordering::Release);
            vcpu.resident = Some(Arc::clone(&self.resident));
            let here = Some(cpu::this());
            if vcpu.last_cpu != here {
                vcpu.last_cpu = here;
                vcpu.host_rsp = 0;
                let mut vmcs = CurrentVmcs::new(self, vcpu);
                vmcs.program_host();
                // The vCPU may have changed its page tables on another CPU since it was here, and this CPU may know another one by
                // its VPID.
                vmcs.flush_tlb();
                return vmcs;
            }
        }
        CurrentVmcs::new(self, vcpu)
    }

    /// Makes the vCPU's VMCS current and gives the CPU its registers.
    ///
    /// # Panics
    /// If another vCPU's registers are in the CPU (they would be lost, so it must have been unloaded), or if the vCPU is loaded
    /// on another CPU.
    pub fn load<'a>(&'a mut self, vcpu: &'a mut Vcpu) -> CurrentVmcs<'a> {
        let registers = self.resident.registers.load(Ordering::Acquire);
        if registers != vcpu.id() {
            assert_eq!(registers, 0, "a vCPU is loaded while another one's registers are in the CPU");
            assert!(vcpu.resident.is_none(), "a vCPU is loaded while another CPU has it");
            self.resident.registers.store(vcpu.id(), Ordering::Release);
            vcpu.restore_registers();
            vcpu.flush_l1d = speculation::flushes_l1d();
            if self.last_ram != Some(vcpu.ram) {
                self.last_ram = Some(vcpu.ram);
                speculation::between_vms();
            }
        }
        self.make_current(vcpu)
    }

    /// Takes the vCPU's registers and its VMCS out of the CPU, if they are in it: any CPU may load it next.
    pub fn unload(&mut self, vcpu: &mut Vcpu) {
        if self.resident.registers.load(Ordering::Acquire) == vcpu.id() {
            vcpu.save_registers();
            self.resident.registers.store(0, Ordering::Release);
            self.give_up(vcpu);
        }
    }

    /// Writes what the CPU holds of the vCPU's VMCS back to its region. "After VMCLEAR [...] the VMCS is in the 'clear' state" and
    /// can be made current on another CPU (SDM volume 3, "Software Use of the VMCS and Related Structures").
    pub(super) fn give_up(&mut self, vcpu: &mut Vcpu) {
        // SAFETY: the region is a VMCS region of ours.
        let cleared = unsafe { vmclear(vcpu.vmcs_address()) };
        assert_eq!(cleared, Ok(()), "VMCLEAR of a VMCS region of ours");
        self.resident.forget(vcpu.id());
        vcpu.resident = None;
        vcpu.launched = false;
    }
}

fn switch_on(capabilities: &Capabilities, region: &HostFrame) -> Result<(), VmxError> {
    let cr0 = capabilities.fix_cr0(Cr0::read_raw());
    let cr4 = capabilities.fix_cr4(Cr4::read_raw() | CR4_VMXE);
    // SAFETY: to what the hypervisor runs with (which `Cpu::take_over` set) this adds what VMX demands: CR0.NE, CR4.VMXE.
    // Paging, protection and write-protection stay on, since VMX fixes them to 1.
    unsafe {
        Cr0::write_raw(cr0);
        Cr4::write_raw(cr4);
    }
    enable_in_feature_control();
    // SAFETY: the region is ours, for good once this succeeds (it is forgotten) and holds the revision identifier; CR0 and CR4 are as VMX
    // wants them.
    unsafe { vmxon(region.address()) }.map_err(|fail| {
        VmxError::VmxonFailed(match fail {
            VmFail::Invalid => "VMfailInvalid",
            VmFail::Valid => "VMfailValid: already in VMX root operation",
        })
    })
}

/// Where the firmware has left IA32_FEATURE_CONTROL unlocked, allows VMX outside SMX and locks it, as the manual has the
/// firmware do it ("Enabling and Entering VMX Operation"). That a locked register forbids VMX was checked before.
fn enable_in_feature_control() {
    if let Some(value) = feature_control_to_write(msr::read(msr::FEATURE_CONTROL)) {
        // SAFETY: the register only permits VMXON; every CPU with VMX has it.
        unsafe { msr::write(msr::FEATURE_CONTROL, value) };
    }
}
