//! Which feature bits a guest may see: masks laid over what the host's CPU reports.
//!
//! Source: Intel SDM volume 2, "CPUID—CPU Identification"; bit names as in its tables. A bit is here only when the
//! feature works in a guest with what Lamina keeps per vCPU: general registers, x87/SSE/AVX state, and the MSRs of
//! [`crate::x86::msr`]. Whatever is not listed is hidden, and so is every bit a later CPU will bring.

/// The bits `positions` set.
const fn bits(positions: &[u32]) -> u32 {
    let (mut mask, mut rest) = (0, positions);
    while let [first, tail @ ..] = rest {
        mask |= 1 << *first;
        rest = tail;
    }
    mask
}

/// Leaf 1 ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, PCID, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C,
/// RDRAND. Hidden: DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, TM2, CNXT-ID, SDBG, xTPR, PDCM, DCA (each needs an MSR, or
/// an instruction that is not virtualised). OSXSAVE follows CR4.
pub(super) const LEAF_1_ECX: u32 = bits(&[0, 1, 9, 12, 13, 17, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
/// Leaf 1 ECX, provided by Lamina whatever the host has: x2APIC, TSC-Deadline, and "running under a hypervisor".
pub(super) const LEAF_1_ECX_OURS: u32 = bits(&[21, 24, 31]);
/// Leaf 1 ECX: PCID.
pub(super) const PCID: u32 = bits(&[17]);
/// Leaf 1 ECX: XSAVE.
pub(super) const XSAVE: u32 = bits(&[26]);
/// Leaf 1 ECX: OSXSAVE.
pub(super) const OSXSAVE: u32 = bits(&[27]);
/// Leaf 1 ECX: AVX, and what is encoded in AVX's way: FMA, F16C.
pub(super) const LEAF_1_ECX_AVX: u32 = bits(&[12, 28, 29]);

/// Leaf 1 EDX: FPU, VME, DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE, MCA, CMOV, PAT, PSE-36, CLFSH, MMX,
/// FXSR, SSE, SSE2, SS. Hidden: PSN, DS, ACPI, TM, PBE. HTT follows the number of vCPUs.
pub(super) const LEAF_1_EDX: u32 =
    bits(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26, 27]);
/// Leaf 1 EDX, provided by Lamina: APIC, MTRR, PAT.
pub(super) const LEAF_1_EDX_OURS: u32 = bits(&[9, 12, 16]);
/// Leaf 1 EDX: APIC, which real hardware clears while IA32_APIC_BASE switches the local APIC off.
pub(super) const APIC: u32 = bits(&[9]);
/// Leaf 1 EDX: "HTT", more than one logical processor in the package.
pub(super) const HTT: u32 = bits(&[28]);

/// Leaf 6 EAX: ARAT. Our APIC timer never stops. All thermal and power management is hidden.
pub(super) const LEAF_6_EAX: u32 = bits(&[2]);

/// Leaf 7 EBX: FSGSBASE, BMI1, AVX2, FDP_EXCPTN_ONLY, SMEP, BMI2, ERMS, INVPCID, "deprecates FPU CS and DS", RDSEED,
/// ADX, SMAP, CLFLUSHOPT, CLWB, SHA. Hidden: SGX, HLE, RTM, MPX, RDT, AVX-512, PT.
pub(super) const LEAF_7_EBX: u32 = bits(&[0, 3, 5, 6, 7, 8, 9, 10, 13, 18, 19, 20, 23, 24, 29]);
/// Leaf 7 EBX, provided by Lamina: IA32_TSC_ADJUST.
pub(super) const LEAF_7_EBX_OURS: u32 = bits(&[1]);
/// Leaf 7 EBX: FSGSBASE.
pub(super) const FSGSBASE: u32 = bits(&[0]);
/// Leaf 7 EBX: SMEP.
pub(super) const SMEP: u32 = bits(&[7]);
/// Leaf 7 EBX: INVPCID.
pub(super) const INVPCID: u32 = bits(&[10]);
/// Leaf 7 EBX: SMAP.
pub(super) const SMAP: u32 = bits(&[20]);
/// Leaf 7 EBX: AVX2.
pub(super) const LEAF_7_EBX_AVX: u32 = bits(&[5]);

/// Leaf 7 ECX: UMIP, GFNI, VAES, VPCLMULQDQ, RDPID, CLDEMOTE, MOVDIRI, MOVDIR64B. Hidden: PKU (its PKRU is not
/// swapped), WAITPKG, CET, TME, LA57, KL, bus-lock detection, ENQCMD, SGX_LC, PKS, all of AVX-512.
pub(super) const LEAF_7_ECX: u32 = bits(&[2, 8, 9, 10, 22, 25, 27, 28]);
/// Leaf 7 ECX: UMIP.
pub(super) const UMIP: u32 = bits(&[2]);
/// Leaf 7 ECX: RDPID, which reads IA32_TSC_AUX as RDTSCP does.
pub(super) const RDPID: u32 = bits(&[22]);
/// Leaf 7 ECX: VAES, VPCLMULQDQ.
pub(super) const LEAF_7_ECX_AVX: u32 = bits(&[9, 10]);

/// Leaf 7 EDX: FSRM, MD_CLEAR (VERW, no MSR), SERIALIZE. Hidden: all that promises IA32_SPEC_CTRL, IA32_PRED_CMD,
/// IA32_ARCH_CAPABILITIES or IA32_CORE_CAPABILITIES; UINTR, AMX, PCONFIG, architectural LBRs, CET-IBT.
pub(super) const LEAF_7_EDX: u32 = bits(&[4, 10, 14]);

/// Leaf 0xD sub-leaf 1 EAX: XSAVEOPT, XSAVEC, XGETBV with ECX = 1. Hidden: XSAVES (IA32_XSS is not virtualised), XFD.
pub(super) const LEAF_D1_EAX: u32 = bits(&[0, 1, 2]);
/// Leaf 0xD sub-leaf 1 EAX: XSAVEC.
pub(super) const XSAVEC: u32 = bits(&[1]);

/// Leaf 0x8000_0001 ECX: LAHF/SAHF in 64-bit mode, LZCNT, PREFETCHW.
pub(super) const LEAF_8000_0001_ECX: u32 = bits(&[0, 5, 8]);
/// Leaf 0x8000_0001 EDX: SYSCALL in 64-bit mode, NX, 1-GByte pages, RDTSCP, Intel 64.
pub(super) const LEAF_8000_0001_EDX: u32 = bits(&[11, 20, 26, 27, 29]);
/// Leaf 0x8000_0001 EDX: SYSCALL/SYSRET. The host asks outside or inside 64-bit mode; all our CPUs have it inside.
pub(super) const SYSCALL: u32 = bits(&[11]);
/// Leaf 0x8000_0001 EDX: RDTSCP.
pub(super) const RDTSCP: u32 = bits(&[27]);
/// Leaf 0x8000_0007 EDX: invariant TSC.
pub(super) const INVARIANT_TSC: u32 = bits(&[8]);
