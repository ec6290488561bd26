//! The mitigations of speculative execution, as `lamina-core` decides on them ([`Speculation`]).

use super::{cpuid, msr};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering};
use lamina_core::x86::speculation::{Mitigation, Mitigations, Speculation, SpeculationFacts};
use spin::Once;

/// IA32_SPEC_CTRL.
const SPEC_CTRL: u32 = 0x48;
/// IA32_PRED_CMD, and its IBPB.
const PRED_CMD: u32 = 0x49;
const IBPB: u64 = 1;
/// IA32_ARCH_CAPABILITIES.
const ARCH_CAPABILITIES: u32 = 0x10a;
/// IA32_FLUSH_CMD, and its L1D_FLUSH.
const FLUSH_CMD: u32 = 0x10b;
const L1D_FLUSH: u64 = 1;

static DECIDED: Once<Speculation> = Once::new();

/// What the world switch does after an exit: bit 0, fill the return stack buffer; bit 1, write [`SPEC_CTRL_VALUE`].
pub(crate) static AFTER_EXIT: AtomicU8 = AtomicU8::new(0);
/// The world switch executes VERW before an entry, if not 0.
pub(crate) static VERW_BEFORE_ENTRY: AtomicU8 = AtomicU8::new(0);
/// What VERW takes: "the memory-operand variant of VERW" overwrites buffers, with the selector of a writable data segment.
pub(crate) static VERW_SELECTOR: AtomicU16 = AtomicU16::new(0);
/// The low half of IA32_SPEC_CTRL; there is nothing in the high one.
pub(crate) static SPEC_CTRL_VALUE: AtomicU32 = AtomicU32::new(0);

static IBPB_BETWEEN_VMS: AtomicBool = AtomicBool::new(false);
static FLUSH_L1D: AtomicBool = AtomicBool::new(false);

/// Decides by what this CPU reports and what is switched off. To be called once, before a guest runs.
pub fn decide_mitigations(off: Mitigations) {
    let decided = *DECIDED.call_once(|| Speculation::decide(facts(), off));
    let bit = |mitigation, bit: u8| if decided.is_on(mitigation) { bit } else { 0 };
    SPEC_CTRL_VALUE.store(decided.spec_ctrl() as u32, Ordering::Relaxed);
    VERW_SELECTOR.store(super::gdt::host_selectors().1, Ordering::Relaxed);
    let rewrite = if decided.rewrites_spec_ctrl() { 0b10 } else { 0 };
    AFTER_EXIT.store(bit(Mitigation::RsbFill, 0b01) | rewrite, Ordering::Relaxed);
    VERW_BEFORE_ENTRY.store(bit(Mitigation::Verw, 1), Ordering::Relaxed);
    IBPB_BETWEEN_VMS.store(decided.is_on(Mitigation::Ibpb), Ordering::Relaxed);
    FLUSH_L1D.store(decided.is_on(Mitigation::L1dFlush), Ordering::Relaxed);
}

/// Sets what stays set in the CPU that calls; the mitigations must have been decided on.
pub fn apply_mitigations() {
    let value = SPEC_CTRL_VALUE.load(Ordering::Relaxed);
    if value != 0 {
        // SAFETY: CPUID reports the bits that are set; they only restrict prediction.
        unsafe { msr::write(SPEC_CTRL, u64::from(value)) };
    }
}

/// What was decided.
#[must_use]
pub fn mitigations() -> Speculation {
    DECIDED.get().copied().unwrap_or_default()
}

/// This CPU goes from one VM to another.
pub(crate) fn between_vms() {
    if IBPB_BETWEEN_VMS.load(Ordering::Relaxed) {
        // SAFETY: a command that only forgets predictions; CPUID reports it.
        unsafe { msr::write(PRED_CMD, IBPB) };
    }
}

/// Whether the L1 data cache is to be flushed before a guest runs that another one, or the host, has run before.
pub(crate) fn flushes_l1d() -> bool {
    FLUSH_L1D.load(Ordering::Relaxed)
}

/// Writes the L1 data cache back and empties it.
pub(crate) fn flush_l1d() {
    // SAFETY: a command that changes no memory; CPUID reports it.
    unsafe { msr::write(FLUSH_CMD, L1D_FLUSH) };
}

fn facts() -> SpeculationFacts {
    const STRUCTURED: u32 = 7;
    const TOPOLOGY: u32 = 0xb;
    let [most, ..] = cpuid(0, 0);
    let [_, structured_ebx, _, structured_edx] = if most >= STRUCTURED { cpuid(STRUCTURED, 0) } else { [0; 4] };
    let arch_capabilities =
        if SpeculationFacts::has_arch_capabilities(structured_edx) { msr::read(ARCH_CAPABILITIES) } else { 0 };
    let [_, threads, ..] = if most >= TOPOLOGY { cpuid(TOPOLOGY, 0) } else { [0; 4] };
    SpeculationFacts { structured_ebx, structured_edx, arch_capabilities, smt: threads & 0xffff > 1 }
}
