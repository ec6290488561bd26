//! A guest's x87, SSE and AVX state while another guest runs.
//!
//! The hypervisor is compiled soft-float and never touches these registers, so they are swapped when the CPU goes from
//! one vCPU to another, not on every VM exit.

use crate::mem::{HostFrame, OutOfFrames, Owner};
use core::arch::asm;

/// XCR0 bits that guests may use: x87, SSE, AVX.
const XCR0_MASK: u64 = 0b111;
/// MXCSR's power-up value ("MXCSR Control and Status Register").
const MXCSR_RESET: u32 = 0x1f80;
/// Offset of MXCSR in the legacy region of the XSAVE area, and of FXSAVE's image.
const MXCSR_OFFSET: usize = 24;
/// x87 control word's value after FNINIT; the rest of the reset state is zero.
const FCW_RESET: u16 = 0x37f;

/// The saved state of one vCPU: an XSAVE area (standard format) or FXSAVE image, and the vCPU's XCR0.
#[derive(Debug)]
pub struct FpuState {
    area: HostFrame,
    xcr0: u64,
}

/// Whether this CPU has XSAVE; else FXSAVE is used.
fn has_xsave() -> bool {
    x86_64::registers::control::Cr4::read().contains(x86_64::registers::control::Cr4Flags::OSXSAVE)
}

/// The XCR0 that a guest may at most have on this CPU.
fn host_xcr0() -> u64 {
    let states = raw_cpuid::CpuId::new().get_extended_state_info();
    states.map_or(1, |info| {
        let mut mask = 1;
        mask |= u64::from(info.xcr0_supports_sse_128()) << 1;
        mask |= u64::from(info.xcr0_supports_avx_256()) << 2;
        mask & XCR0_MASK
    })
}

/// Sets XCR0 to a value that this CPU has.
pub(crate) fn set_xcr0(value: u64) {
    let value = (value & host_xcr0()) | 1;
    // SAFETY: XSETBV with a subset of the supported x87/SSE/AVX bits and bit 0 set raises no fault; AVX without SSE
    // cannot come here since `exit` refuses it to the guest. The hypervisor uses none of the registers it governs.
    unsafe { asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") 0, options(nomem, nostack)) };
}

impl FpuState {
    /// The state at power-on.
    ///
    /// # Errors
    /// [`OutOfFrames`] when there is no frame for it.
    pub fn new(owner: Owner) -> Result<Self, OutOfFrames> {
        let mut area = HostFrame::new(owner)?;
        area.write_u32(MXCSR_OFFSET, MXCSR_RESET);
        area.write_u32(0, u32::from(FCW_RESET));
        // XSTATE_BV = x87 | SSE: both are restored from the area.
        area.write_u32(512, 0b11);
        Ok(Self { area, xcr0: 1 })
    }

    /// The XCR0 to give the vCPU when it runs.
    pub fn set_xcr0(&mut self, xcr0: u64) {
        self.xcr0 = xcr0;
    }

    /// Takes the registers of this CPU into the area.
    pub(crate) fn save(&mut self) {
        let area = self.area.as_mut_ptr();
        if has_xsave() {
            set_xcr0(host_xcr0());
            // SAFETY: the area is a whole page, 64-byte aligned and exclusively ours; the states of XCR0_MASK need 832 bytes.
            unsafe { asm!("xsave64 [{}]", in(reg) area, in("eax") XCR0_MASK as u32, in("edx") 0, options(nostack)) };
        } else {
            // SAFETY: FXSAVE needs 512 bytes, 16-byte aligned; the area is a whole page.
            unsafe { asm!("fxsave64 [{}]", in(reg) area, options(nostack)) };
        }
    }

    /// Gives the CPU this state, and the vCPU's XCR0.
    pub(crate) fn restore(&mut self) {
        let area = self.area.as_mut_ptr();
        if has_xsave() {
            set_xcr0(host_xcr0());
            // SAFETY: the area was written by XSAVE in the same format, or by `new` with a valid header (XSTATE_BV within
            // XCR0, reserved bytes zero) and a valid MXCSR; guests cannot write to it.
            unsafe { asm!("xrstor64 [{}]", in(reg) area, in("eax") XCR0_MASK as u32, in("edx") 0, options(nostack)) };
            set_xcr0(self.xcr0);
        } else {
            // SAFETY: the area holds an FXSAVE image, or the one `new` made.
            unsafe { asm!("fxrstor64 [{}]", in(reg) area, options(nostack)) };
        }
    }
}
