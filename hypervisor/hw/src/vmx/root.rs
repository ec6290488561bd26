//! VMX root operation of one CPU.

use super::capabilities;
use super::instructions::{VmFail, vmptrld, vmxon};
use super::vcpu::{CurrentVmcs, Vcpu};
use crate::cpu::{Cpu, msr};
use crate::mem::{HostFrame, OutOfFrames, Owner};
use core::sync::atomic::{AtomicBool, Ordering};
use lamina_core::memory::HostPhysAddr;
use lamina_core::vmx::Capabilities;
use lamina_core::vmx::controls::ControlPlan;
use lamina_core::vmx::refusal::{Refusal, check_cpu, feature_control_to_write};
use lamina_core::x86::msr::build_bitmap;
use thiserror::Error;
use x86_64::registers::control::{Cr0, Cr4};

/// CR4.VMXE.
pub(super) const CR4_VMXE: u64 = 1 << 13;

static VMX_ON: AtomicBool = AtomicBool::new(false);

/// Why this CPU does not run guests.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum VmxError {
    /// The CPU or the firmware does not let us.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// No frame for the VMXON region or a bitmap.
    #[error("too little memory to switch VMX on: {0}")]
    OutOfFrames(#[from] OutOfFrames),
    /// VMXON itself failed, which the checks before should have ruled out.
    #[error("VMXON failed ({0}); the CPU may already be in VMX operation")]
    VmxonFailed(&'static str),
}

/// A CPU in VMX root operation. Not `Send`: it is the proof that *this* CPU is.
#[derive(Debug)]
pub struct VmxRoot {
    plan: ControlPlan,
    capabilities: Capabilities,
    _vmxon_region: HostFrame,
    io_bitmaps: [HostFrame; 2],
    msr_bitmaps: MsrBitmaps,
    /// The vCPU whose registers this CPU holds, by its VMCS's address.
    loaded: Option<HostPhysAddr>,
    _this_cpu: core::marker::PhantomData<*const ()>,
}

/// The MSR bitmaps: one for all vCPUs, and one for those whose x2APIC the CPU virtualises.
#[derive(Debug)]
pub(super) struct MsrBitmaps {
    pub(super) default: HostFrame,
    pub(super) x2apic: HostFrame,
}

impl VmxRoot {
    /// Switches VMX on. The CPU must be able to run guests as `lamina-core`'s plan demands.
    ///
    /// # Errors
    /// [`VmxError`]: what is missing, in the manual's words.
    pub fn enter(_cpu: &Cpu) -> Result<Self, VmxError> {
        let facts = capabilities::cpu_facts();
        let plan = check_cpu(&facts)?;
        // With a plan there are capabilities it was made from.
        let capabilities = facts.capabilities.unwrap_or_default();
        let mut vmxon_region = HostFrame::new(Owner::HOST)?;
        vmxon_region.write_u32(0, capabilities.revision_id());
        let mut io_bitmaps = [HostFrame::new(Owner::HOST)?, HostFrame::new(Owner::HOST)?];
        for bitmap in &mut io_bitmaps {
            bitmap.fill(0xff);
        }
        let mut msr_bitmaps =
            MsrBitmaps { default: HostFrame::new(Owner::HOST)?, x2apic: HostFrame::new(Owner::HOST)? };
        build_bitmap(msr_bitmaps.default.bytes_mut(), false);
        build_bitmap(msr_bitmaps.x2apic.bytes_mut(), true);
        switch_on(&capabilities, &vmxon_region)?;
        VMX_ON.store(true, Ordering::Release);
        Ok(Self {
            plan,
            capabilities,
            _vmxon_region: vmxon_region,
            io_bitmaps,
            msr_bitmaps,
            loaded: None,
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

    pub(super) const fn io_bitmaps(&self) -> &[HostFrame; 2] {
        &self.io_bitmaps
    }

    pub(super) const fn msr_bitmaps(&self) -> &MsrBitmaps {
        &self.msr_bitmaps
    }

    /// Makes the vCPU's VMCS current and gives the CPU its registers.
    ///
    /// The vCPU that was loaded before must have been unloaded: else its registers would be lost, which is a bug of ours.
    pub fn load<'a>(&mut self, vcpu: &'a mut Vcpu) -> CurrentVmcs<'a> {
        let address = vcpu.vmcs_address();
        if self.loaded != Some(address) {
            assert!(self.loaded.is_none(), "a vCPU is loaded while another one's registers are in the CPU");
            // SAFETY: the region is the vCPU's own frame, initialised with the revision identifier, and VMX runs on one CPU.
            let made_current = unsafe { vmptrld(address) };
            assert_eq!(made_current, Ok(()), "VMPTRLD of a VMCS region of ours");
            self.loaded = Some(address);
            vcpu.restore_registers();
        }
        CurrentVmcs::new(vcpu)
    }

    /// Takes the vCPU's registers out of the CPU, if they are in it.
    pub fn unload(&mut self, vcpu: &mut Vcpu) {
        if self.loaded == Some(vcpu.vmcs_address()) {
            vcpu.save_registers();
            self.loaded = None;
        }
    }

    /// Whether this vCPU's registers are in the CPU.
    #[must_use]
    pub fn is_loaded(&self, vcpu: &Vcpu) -> bool {
        self.loaded == Some(vcpu.vmcs_address())
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
    // SAFETY: the region is ours for good (it lives in `VmxRoot`) and holds the revision identifier; CR0 and CR4 are as VMX
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

/// Drops every translation under this EPT pointer, where VMX is on.
pub(crate) fn invalidate_ept(eptp: u64) {
    if VMX_ON.load(Ordering::Acquire) {
        super::instructions::invept_single(eptp);
    }
}
