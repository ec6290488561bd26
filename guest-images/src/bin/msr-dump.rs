//! Prints the MSRs that a guest may know, writes and reads back those that an operating system keeps, and expects #GP
//! from those that do not exist. Expected: `verdict: pass msr-dump: ...`.
#![no_std]
#![no_main]

use guest::trap::Exception;
use guest::{apic, check, cpu, guest_main, pass, println};

guest_main!(main);

const EFER: u32 = 0xC000_0080;
const PAT: u32 = 0x277;
const TSC_AUX: u32 = 0xC000_0103;

/// Every MSR worth a line: number, name, and whether it must be there.
const KNOWN: [(u32, &str, bool); 26] = [
    (0x10, "IA32_TIME_STAMP_COUNTER", true),
    (0x17, "IA32_PLATFORM_ID", false),
    (apic::APIC_BASE_MSR, "IA32_APIC_BASE", true),
    (0x3A, "IA32_FEATURE_CONTROL", false),
    (0x3B, "IA32_TSC_ADJUST", false),
    (0x8B, "IA32_BIOS_SIGN_ID", false),
    (0xCE, "MSR_PLATFORM_INFO", false),
    (0xFE, "IA32_MTRRCAP", false),
    (0x10A, "IA32_ARCH_CAPABILITIES", false),
    (0x174, "IA32_SYSENTER_CS", true),
    (0x175, "IA32_SYSENTER_ESP", true),
    (0x176, "IA32_SYSENTER_EIP", true),
    (0x179, "IA32_MCG_CAP", false),
    (0x1A0, "IA32_MISC_ENABLE", false),
    (0x1D9, "IA32_DEBUGCTL", false),
    (PAT, "IA32_PAT", true),
    (0x2FF, "IA32_MTRR_DEF_TYPE", false),
    (apic::TSC_DEADLINE_MSR, "IA32_TSC_DEADLINE", false),
    (EFER, "IA32_EFER", true),
    (0xC000_0081, "IA32_STAR", true),
    (0xC000_0082, "IA32_LSTAR", true),
    (0xC000_0084, "IA32_FMASK", true),
    (0xC000_0100, "IA32_FS_BASE", true),
    (0xC000_0101, "IA32_GS_BASE", true),
    (0xC000_0102, "IA32_KERNEL_GS_BASE", true),
    (TSC_AUX, "IA32_TSC_AUX", false),
];

/// MSRs that an operating system keeps: any canonical address, or any value within the mask.
const KEPT: [(u32, &str, u64); 10] = [
    (0x174, "IA32_SYSENTER_CS", 0xFFFF),
    (0x175, "IA32_SYSENTER_ESP", u64::MAX),
    (0x176, "IA32_SYSENTER_EIP", u64::MAX),
    (0xC000_0081, "IA32_STAR", u64::MAX),
    (0xC000_0082, "IA32_LSTAR", u64::MAX),
    (0xC000_0083, "IA32_CSTAR", u64::MAX),
    (0xC000_0084, "IA32_FMASK", 0xFFFF_FFFF),
    (0xC000_0100, "IA32_FS_BASE", u64::MAX),
    (0xC000_0101, "IA32_GS_BASE", u64::MAX),
    (0xC000_0102, "IA32_KERNEL_GS_BASE", u64::MAX),
];

/// MSRs that no machine of ours has: unassigned numbers, another hypervisor's, and AMD's.
const UNKNOWN: [u32; 6] = [0x2F, 0x0DEA_DBEE, 0x4000_0000, 0x4B56_4D00, 0xC000_0090, 0xC001_0015];

fn main() {
    let mut present = 0;
    for (msr, name, required) in KNOWN {
        match cpu::try_read_msr(msr) {
            Ok(value) => {
                println!("msr {msr:#010x} {name} = {value:#018x}");
                present += 1;
            }
            Err(exception) => {
                println!("msr {msr:#010x} {name} raises {exception}");
                check!(!required, "{name} must be there");
                check!(exception.vector == Exception::GP, "RDMSR {name} raised {exception} instead of #GP");
            }
        }
    }
    check_kept();
    check_promised();
    check_hidden();
    check_efer_and_pat();
    for msr in UNKNOWN {
        expect_gp(msr, "an MSR that does not exist");
    }
    pass!("{present} MSRs read");
}

fn check_kept() {
    for (msr, name, mask) in KEPT {
        let before = cpu::read_msr(msr);
        for value in [0x0000_7123_4567_89A0, 0xFFFF_8000_DEAD_B000, 0] {
            // SAFETY: this kernel uses neither SYSCALL, SYSENTER nor the FS and GS segments.
            unsafe { cpu::write_msr(msr, value & mask) };
            let found = cpu::read_msr(msr);
            check!(found == value & mask, "{name} holds {found:#x}, {:#x} was written", value & mask);
        }
        // SAFETY: the value was there before.
        unsafe { cpu::write_msr(msr, before) };
    }
    let base = cpu::read_msr(apic::APIC_BASE_MSR);
    check!(base & 0xF_FFFF_F000 == apic::XAPIC_ADDRESS, "IA32_APIC_BASE is {base:#x}: not at 0xFEE00000");
    check!(base & apic::BASE_BSP != 0, "IA32_APIC_BASE is {base:#x}: not the bootstrap processor");
    let before = cpu::read_tsc();
    let tsc = cpu::read_msr(0x10);
    let after = cpu::read_tsc();
    check!(
        (before..=after).contains(&tsc),
        "IA32_TIME_STAMP_COUNTER is {tsc}, RDTSC {before} before and {after} after"
    );
}

/// What CPUID promises must be there.
fn check_promised() {
    let features = cpu::cpuid(1, 0);
    for (promised, msr, name) in [
        (features.edx & 1 << 12 != 0, 0xFE, "IA32_MTRRCAP"),
        (features.edx & 1 << 14 != 0, 0x179, "IA32_MCG_CAP"),
        (features.ecx & 1 << 24 != 0, apic::TSC_DEADLINE_MSR, "IA32_TSC_DEADLINE"),
        (features.ecx & 1 << 15 != 0, 0x345, "IA32_PERF_CAPABILITIES"),
        (cpu::cpuid(7, 0).ebx & 1 << 1 != 0, 0x3B, "IA32_TSC_ADJUST"),
        (cpu::cpuid(7, 0).edx & 1 << 29 != 0, 0x10A, "IA32_ARCH_CAPABILITIES"),
        (cpu::cpuid(0x8000_0001, 0).edx & 1 << 27 != 0, TSC_AUX, "IA32_TSC_AUX"),
    ] {
        if promised {
            let value = cpu::try_read_msr(msr);
            check!(value.is_ok(), "CPUID promises {name}, reading it gave {value:?}");
        }
    }
}

/// What CPUID hides must not be there.
fn check_hidden() {
    let features = cpu::cpuid(1, 0);
    if features.ecx & 1 << 5 == 0 {
        for msr in [0x480, 0x481, 0x48B, 0x490] {
            expect_gp(msr, "a VMX capability MSR");
        }
    }
    if features.ecx & 1 << 15 == 0 {
        expect_gp(0x345, "IA32_PERF_CAPABILITIES");
    }
    if cpu::cpuid(0, 0).eax < 0xA || cpu::cpuid(0xA, 0).eax & 0xFF == 0 {
        expect_gp(0x186, "IA32_PERFEVTSEL0");
        expect_gp(0x38F, "IA32_PERF_GLOBAL_CTRL");
    }
}

fn check_efer_and_pat() {
    const SCE: u64 = 1 << 0;
    const LME_LMA: u64 = 1 << 8 | 1 << 10;
    const NXE: u64 = 1 << 11;
    let efer = cpu::read_msr(EFER);
    check!(efer & LME_LMA == LME_LMA, "IA32_EFER is {efer:#x} in 64-bit mode");
    let has_nx = cpu::cpuid(0x8000_0001, 0).edx & 1 << 20 != 0;
    let mut values = [efer | SCE, efer | SCE, efer];
    if has_nx {
        values[1] |= NXE;
    }
    for value in values {
        // SAFETY: SYSCALL and no-execute are used by nothing here; long mode stays.
        unsafe { cpu::write_msr(EFER, value) };
        let found = cpu::read_msr(EFER);
        check!(found == value, "IA32_EFER holds {found:#x}, {value:#x} was written");
    }
    let pat = cpu::read_msr(PAT);
    let other = 0x0007_0406_0007_0406 ^ 0x01 << 56;
    for value in [other, pat] {
        // SAFETY: the entries in use (0: write-back, 2 and 3: uncacheable) stay what they are.
        unsafe { cpu::write_msr(PAT, value) };
        let found = cpu::read_msr(PAT);
        check!(found == value, "IA32_PAT holds {found:#x}, {value:#x} was written");
    }
}

/// Both RDMSR and WRMSR must raise #GP(0).
fn expect_gp(msr: u32, what: &str) {
    const GP0: Exception = Exception { vector: Exception::GP, error_code: 0 };
    let read = cpu::try_read_msr(msr);
    check!(read == Err(GP0), "RDMSR {msr:#x} ({what}) gave {read:x?} instead of #GP(0)");
    // SAFETY: nothing hangs on an MSR that does not exist.
    let written = unsafe { cpu::try_write_msr(msr, 0) };
    check!(written == Err(GP0), "WRMSR {msr:#x} ({what}) gave {written:x?} instead of #GP(0)");
}
