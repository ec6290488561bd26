//! The VMX instructions. Each takes its VM-fail flags in the same assembly block: nothing may come between the
//! instruction and the reading of RFLAGS (SDM volume 3, "Conventions" of the VMX instruction reference).

use core::arch::asm;
use lamina_core::memory::HostPhysAddr;

/// Why a VMX instruction failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum VmFail {
    /// VMfailInvalid: there is no current VMCS.
    Invalid,
    /// VMfailValid: the VM-instruction error field of the current VMCS tells why.
    Valid,
}

fn outcome(carry: u8, zero: u8) -> Result<(), VmFail> {
    match (carry, zero) {
        (0, 0) => Ok(()),
        (0, _) => Err(VmFail::Valid),
        _ => Err(VmFail::Invalid),
    }
}

/// VMXON.
///
/// # Safety
/// `region` must be a frame that is the CPU's alone until VMXOFF, with the VMCS revision identifier in its first 31 bits;
/// CR4.VMXE must be set and CR0, CR4 within what VMX fixes.
pub(crate) unsafe fn vmxon(region: HostPhysAddr) -> Result<(), VmFail> {
    let (carry, zero): (u8, u8);
    // SAFETY: forwarded to the caller.
    unsafe {
        asm!("vmxon [{}]", "setc {}", "setz {}", in(reg) &region.0, lateout(reg_byte) carry, lateout(reg_byte) zero,
             options(nostack));
    }
    outcome(carry, zero)
}

/// VMCLEAR.
///
/// # Safety
/// `region` must be a VMCS region that the hypervisor owns.
pub(crate) unsafe fn vmclear(region: HostPhysAddr) -> Result<(), VmFail> {
    let (carry, zero): (u8, u8);
    // SAFETY: forwarded to the caller.
    unsafe {
        asm!("vmclear [{}]", "setc {}", "setz {}", in(reg) &region.0, lateout(reg_byte) carry, lateout(reg_byte) zero,
             options(nostack));
    }
    outcome(carry, zero)
}

/// VMPTRLD.
///
/// # Safety
/// `region` must be a VMCS region that the hypervisor owns, current on no other CPU.
pub(crate) unsafe fn vmptrld(region: HostPhysAddr) -> Result<(), VmFail> {
    let (carry, zero): (u8, u8);
    // SAFETY: forwarded to the caller.
    unsafe {
        asm!("vmptrld [{}]", "setc {}", "setz {}", in(reg) &region.0, lateout(reg_byte) carry, lateout(reg_byte) zero,
             options(nostack));
    }
    outcome(carry, zero)
}

/// VMREAD from the current VMCS. A field that this CPU does not have fails.
#[inline]
pub(crate) fn vmread(encoding: u32) -> Result<u64, VmFail> {
    let value: u64;
    let (carry, zero): (u8, u8);
    // SAFETY: VMREAD reads the current VMCS alone; callers hold a `CurrentVmcs` or `VmxRoot`, so the CPU is in VMX root
    // operation and the instruction raises no #UD.
    unsafe {
        asm!("vmread {}, {}", "setc {}", "setz {}", lateout(reg) value, in(reg) u64::from(encoding),
             lateout(reg_byte) carry, lateout(reg_byte) zero, options(nostack, nomem));
    }
    outcome(carry, zero).map(|()| value)
}

/// VMWRITE to the current VMCS.
///
/// # Safety
/// For control and host fields the value must keep the hypervisor's memory and CPU state its own: addresses of frames it
/// owns, host state that is the CPU's current state.
#[inline]
pub(crate) unsafe fn vmwrite(encoding: u32, value: u64) -> Result<(), VmFail> {
    let (carry, zero): (u8, u8);
    // SAFETY: forwarded to the caller.
    unsafe {
        asm!("vmwrite {}, {}", "setc {}", "setz {}", in(reg) u64::from(encoding), in(reg) value,
             lateout(reg_byte) carry, lateout(reg_byte) zero, options(nostack, nomem));
    }
    outcome(carry, zero)
}

/// INVEPT and INVVPID: the type for one EPT pointer or VPID.
const SINGLE_CONTEXT: u64 = 1;
/// The type for all of them (of all VPIDs but 0).
const ALL_CONTEXT: u64 = 2;

/// INVEPT: drops what the CPU caches of the translations under this EPT pointer.
///
/// # Panics
/// If the CPU refuses, which the check of its capabilities ruled out: a guest with stale translations could reach frames that
/// are no longer its own.
pub(crate) fn invept(eptp: u64) {
    let descriptor: [u64; 2] = [eptp, 0];
    let (carry, zero): (u8, u8);
    // SAFETY: INVEPT only drops cached translations; the descriptor is 16 readable bytes.
    unsafe {
        asm!("invept {}, [{}]", "setc {}", "setz {}", in(reg) SINGLE_CONTEXT, in(reg) &descriptor,
             lateout(reg_byte) carry, lateout(reg_byte) zero, options(nostack));
    }
    assert_eq!(outcome(carry, zero), Ok(()), "INVEPT of EPT pointer {eptp:#x}");
}

/// INVVPID: drops the linear translations tagged with this VPID; where the CPU cannot drop one VPID's, those of all.
///
/// # Panics
/// As [`invept`].
pub(crate) fn invvpid(vpid: u16) {
    let descriptor: [u64; 2] = [u64::from(vpid), 0];
    let run = |kind: u64| {
        let (carry, zero): (u8, u8);
        // SAFETY: INVVPID only drops cached translations; the descriptor is 16 readable bytes and the VPID is not 0.
        unsafe {
            asm!("invvpid {}, [{}]", "setc {}", "setz {}", in(reg) kind, in(reg) &descriptor,
                 lateout(reg_byte) carry, lateout(reg_byte) zero, options(nostack));
        }
        outcome(carry, zero)
    };
    let done = run(SINGLE_CONTEXT).or_else(|_| run(ALL_CONTEXT));
    assert_eq!(done, Ok(()), "INVVPID of {vpid}");
}
