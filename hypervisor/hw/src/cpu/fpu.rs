//! A guest's x87, SSE and AVX state while another guest runs.
//!
//! The hypervisor is compiled soft-float and never touches these registers, so they are swapped when the CPU goes from
//! one vCPU to another, not on every VM exit.

use crate::mem::{HostFrame, OutOfFrames, Owner};
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

/// XCR0 bits that guests may use: x87, SSE, AVX.
const XCR0_MASK: u64 = 0b111;
/// MXCSR's power-up value ("MXCSR Control and Status Register").
const MXCSR_RESET: u32 = 0x1f80;
/// Offset of MXCSR in the legacy region of the XSAVE area, and of FXSAVE's image.
const MXCSR_OFFSET: usize = 24;
/// x87 control word's value after FNINIT; the rest of the reset state is zero.
const FCW_RESET: u16 = 0x37f;

/// Whether guests are not to see XSAVEC, which this machine has and does wrong.
static XSAVEC_BROKEN: AtomicBool = AtomicBool::new(false);

/// Finds out whether XSAVEC saves as the manual says ("Operation of XSAVEC"): with x87, SSE and AVX state the compacted format is
/// the standard one, so AVX state lies behind the header. Bochs 2.7 writes it across the header, and a guest whose tasks are
/// switched while such state is in use finds what it saved refused by XRSTOR. For the boot CPU, before any guest ran.
pub(super) fn look_at_xsavec() {
    const XSAVEC: u32 = 1 << 1;
    const HEADER_WORDS: core::ops::Range<usize> = 64..72;
    let Some(max) = xcr0_max().filter(|max| *max == XCR0_MASK) else { return };
    if core::arch::x86_64::__cpuid_count(0xd, 1).eax & XSAVEC == 0 {
        return;
    }
    #[repr(C, align(64))]
    struct Area([u64; 104]);
    let mut area = Area([0; 104]);
    xsetbv(max, max);
    // SAFETY: AVX is enabled in CR4 and XCR0; no guest's state is in the registers yet, and the hypervisor keeps none there;
    // XSAVEC writes the 832 bytes of the area, which is aligned to 64.
    unsafe {
        asm!("vpcmpeqd xmm0, xmm0, xmm0", "vinsertf128 ymm0, ymm0, xmm0, 1", "xsavec64 [{}]", "vzeroall",
             in(reg) &raw mut area, in("eax") XCR0_MASK as u32, in("edx") 0, options(nostack));
    }
    let header = area.0.get(HEADER_WORDS).unwrap_or_default();
    let reserved_are_zero = header.iter().skip(2).all(|word| *word == 0);
    let behind_it = area.0.get(HEADER_WORDS.end).copied();
    XSAVEC_BROKEN.store(!(reserved_are_zero && behind_it == Some(u64::MAX)), Ordering::Relaxed);
}

/// Whether the CPU has an XSAVEC that does not save as the manual says, so that guests do not see it.
#[must_use]
pub fn hides_xsavec() -> bool {
    XSAVEC_BROKEN.load(Ordering::Relaxed)
}

/// The saved state of one vCPU: an XSAVE area (standard format) or FXSAVE image, and the vCPU's XCR0.
#[derive(Debug)]
pub(crate) struct FpuState {
    area: HostFrame,
    /// The XCR0 that a guest may at most have on this CPU; `None` where there is no XSAVE, and FXSAVE is used. Asked once:
    /// CPUID is a VM exit where the hypervisor itself is a guest.
    xcr0_max: Option<u64>,
    xcr0: u64,
}

/// The XCR0 that a guest may at most have on this CPU, where the hypervisor has switched XSAVE on.
fn xcr0_max() -> Option<u64> {
    use x86_64::registers::control::{Cr4, Cr4Flags};
    if !Cr4::read().contains(Cr4Flags::OSXSAVE) {
        return None;
    }
    let states = raw_cpuid::CpuId::new().get_extended_state_info()?;
    let (sse, avx) = (states.xcr0_supports_sse_128(), states.xcr0_supports_avx_256());
    Some(1 | u64::from(sse) << 1 | u64::from(sse && avx) << 2)
}

/// XSETBV, of what is legal of `value` on a CPU that has the states in `max`.
fn xsetbv(value: u64, max: u64) {
    const SSE: u64 = 0b010;
    const AVX: u64 = 0b100;
    let mut value = value & max | 1;
    if value & SSE == 0 {
        value &= !AVX;
    }
    // SAFETY: XSETBV raises no fault with a subset of the supported x87/SSE/AVX bits, bit 0 set, and no AVX without SSE. The
    // hypervisor uses none of the registers it governs.
    unsafe { asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") 0, options(nomem, nostack)) };
}

impl FpuState {
    /// The state at power-on.
    ///
    /// # Errors
    /// [`OutOfFrames`] when there is no frame for it.
    pub(crate) fn new(owner: Owner) -> Result<Self, OutOfFrames> {
        let mut area = HostFrame::new(owner)?;
        area.write_u32(MXCSR_OFFSET, MXCSR_RESET);
        area.write_u32(0, u32::from(FCW_RESET));
        // XSTATE_BV = x87 | SSE: both are restored from the area.
        area.write_u32(512, 0b11);
        Ok(Self { area, xcr0_max: xcr0_max(), xcr0: 1 })
    }

    /// The XCR0 that the vCPU, which is loaded, has from now on.
    pub(crate) fn set_xcr0(&mut self, xcr0: u64) {
        self.xcr0 = xcr0;
        if let Some(max) = self.xcr0_max {
            xsetbv(xcr0, max);
        }
    }

    /// Takes the registers of this CPU into the area.
    pub(crate) fn save(&mut self) {
        let area = self.area.as_mut_ptr();
        if let Some(max) = self.xcr0_max {
            xsetbv(max, max);
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
        if let Some(max) = self.xcr0_max {
            xsetbv(max, max);
            // SAFETY: the area was written by XSAVE in the same format, or by `new` with a valid header (XSTATE_BV within
            // XCR0, reserved bytes zero) and a valid MXCSR; guests cannot write to it.
            unsafe { asm!("xrstor64 [{}]", in(reg) area, in("eax") XCR0_MASK as u32, in("edx") 0, options(nostack)) };
            xsetbv(self.xcr0, max);
        } else {
            // SAFETY: the area holds an FXSAVE image, or the one `new` made.
            unsafe { asm!("fxrstor64 [{}]", in(reg) area, options(nostack)) };
        }
    }
}
