//! A virtual CPU in hardware: its VMCS and the registers that the VMCS does not hold.

use super::instructions::vmclear;
use super::pages::VirtualApicPage;
use super::root::{Resident, RootPages, VmxRoot};
use super::vpid::Vpid;
use crate::cpu::{self, FpuState, msr};
use crate::mem::{GuestRam, HostFrame, OutOfFrames, Owner, RamId};
use alloc::sync::Arc;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use lamina_core::loader::EntryState;
use lamina_core::memory::{FrameKind, HostPhysAddr};
use lamina_core::sched::CpuId;
use lamina_core::vmx::Capabilities;
use lamina_core::vmx::controls::{ApicAccess, ControlPlan, PrimaryProcBased};
use thiserror::Error;

const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const FMASK: u32 = 0xc000_0084;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
pub(super) const TSC_AUX: u32 = 0xc000_0103;

/// MSRs that the guest has directly and that no VMCS field holds: swapped when the CPU changes vCPUs. The hypervisor
/// itself executes neither SYSCALL nor SWAPGS nor RDTSCP.
const SWAPPED_MSRS: [u32; 6] = [STAR, LSTAR, CSTAR, FMASK, KERNEL_GS_BASE, TSC_AUX];

/// DR6 after power-up and INIT.
const DR6_RESET: u64 = 0xffff_0ff0;

/// The next vCPU's number. 0 is none.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Why there is no vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum VcpuError {
    /// No frame for its VMCS or its register area.
    #[error("{0}")]
    OutOfFrames(#[from] OutOfFrames),
    /// Every VPID is taken.
    #[error("no VPID is free for another vCPU: destroy VMs that are not needed")]
    OutOfVpids,
}

/// A virtual CPU. Its VMCS, virtual-APIC page and register areas are frames on the VM's account.
///
/// It can go from CPU to CPU: while it is not loaded ([`VmxRoot::load`], [`VmxRoot::unload`]) no CPU holds any of its state.
///
/// What its VMCS names stays while it can run: the virtual-APIC page is shared with it, the root's pages are never freed, and
/// [`super::CurrentVmcs::run`] takes the RAM whose EPT and APIC-access page were written to it.
#[derive(Debug)]
pub struct Vcpu {
    id: u64,
    vmcs: HostFrame,
    pub(super) virtual_apic: VirtualApicPage,
    pub(super) ram: RamId,
    /// The L1 data cache may hold what is not the guest's.
    pub(super) flush_l1d: bool,
    pub(super) root_pages: &'static RootPages,
    /// What the CPU that it is loaded on holds; `None` while it is loaded on none.
    pub(super) resident: Option<Arc<Resident>>,
    /// The CPU that it was last loaded on: whose state its host-state area has.
    pub(super) last_cpu: Option<CpuId>,
    pub(super) fpu: FpuState,
    msrs: [u64; SWAPPED_MSRS.len()],
    pub(super) has_tsc_aux: bool,
    pub(super) debug_registers: [u64; 4],
    pub(super) dr6: u64,
    cr2: u64,
    pub(super) launched: bool,
    pub(super) host_rsp: u64,
    pub(super) tpr_threshold: u8,
    vpid: Vpid,
    /// What the control fields hold: they are never read back.
    pub(super) primary: PrimaryProcBased,
    pub(super) apic_access_mode: ApicAccess,
    pub(super) plan: ControlPlan,
    pub(super) capabilities: Capabilities,
}

impl Vcpu {
    /// A vCPU of the VM in `slot`, to start in `state`, with this RAM. It is loaded by [`VmxRoot::load`].
    ///
    /// # Errors
    /// [`VcpuError`].
    pub fn new(
        root: &mut VmxRoot,
        slot: u16,
        ram: &GuestRam,
        virtual_apic: VirtualApicPage,
        state: &EntryState,
    ) -> Result<Self, VcpuError> {
        let owner = Owner::vm(slot, FrameKind::Vcpu);
        let mut vmcs = HostFrame::new(owner)?;
        vmcs.write_u32(0, root.capabilities().revision_id());
        let features = raw_cpuid::CpuId::new();
        let has_tsc_aux = features.get_extended_processor_and_feature_identifiers().is_some_and(|f| f.has_rdtscp());
        let plan = *root.plan();
        let mut vcpu = Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            vmcs,
            virtual_apic,
            ram: ram.id(),
            flush_l1d: false,
            root_pages: root.pages(),
            resident: None,
            last_cpu: None,
            fpu: FpuState::new(owner)?,
            msrs: [0; SWAPPED_MSRS.len()],
            has_tsc_aux,
            debug_registers: [0; 4],
            dr6: DR6_RESET,
            cr2: 0,
            launched: false,
            host_rsp: 0,
            tpr_threshold: 0,
            vpid: Vpid::take().ok_or(VcpuError::OutOfVpids)?,
            primary: plan.controls.primary,
            apic_access_mode: ApicAccess::Disabled,
            plan,
            capabilities: *root.capabilities(),
        };
        // SAFETY: the region is a frame of ours with the revision identifier; no CPU has it as its VMCS.
        let cleared = unsafe { vmclear(vcpu.vmcs.address()) };
        assert_eq!(cleared, Ok(()), "VMCLEAR of a fresh VMCS region");
        // Only its VMCS is needed for that: the CPU may hold another vCPU's registers meanwhile.
        root.make_current(&mut vcpu).program(ram, state);
        root.give_up(&mut vcpu);
        Ok(vcpu)
    }

    /// A number that no other vCPU has or had.
    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    /// Its VPID.
    pub(super) const fn vpid(&self) -> u16 {
        self.vpid.number()
    }

    pub(super) fn vmcs_address(&self) -> HostPhysAddr {
        self.vmcs.address()
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
        self.load_debug_registers();
    }

    /// Gives the CPU the vCPU's debug registers and CR2.
    fn load_debug_registers(&self) {
        let [dr0, dr1, dr2, dr3] = self.debug_registers;
        // SAFETY: DR7 is 0x400 in the hypervisor (a VM exit sets it), so no breakpoint of the guest's is armed here; CR2 only
        // matters after a page fault, and the hypervisor has none it goes on from.
        unsafe {
            asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", "mov dr6, {}", "mov cr2, {}",
                 in(reg) dr0, in(reg) dr1, in(reg) dr2, in(reg) dr3, in(reg) self.dr6, in(reg) self.cr2,
                 options(nostack, nomem, preserves_flags));
        }
    }

    /// Sets the debug registers and CR2 as after power-up or INIT.
    pub(super) fn reset_debug_registers(&mut self) {
        self.debug_registers = [0; 4];
        self.dr6 = DR6_RESET;
        self.cr2 = 0;
        let resident = self.resident.as_ref();
        if resident.is_some_and(|resident| resident.registers.load(Ordering::Acquire) == self.id) {
            self.load_debug_registers();
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
    /// # Panics
    /// If another CPU has it loaded, which would go on with a VMCS that is no more.
    fn drop(&mut self) {
        let Some(resident) = self.resident.take() else { return };
        assert_eq!(self.last_cpu, Some(cpu::this()), "a vCPU is dropped while another CPU has it loaded");
        // SAFETY: the region is ours; VMCLEAR makes the CPU forget it, so the frame can serve another purpose.
        let _ = unsafe { vmclear(self.vmcs.address()) };
        resident.forget(self.id);
    }
}
