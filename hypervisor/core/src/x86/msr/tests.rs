//! The MSR policy, value by value, and the bitmap.

use super::*;
use crate::exit::tests::{CONFIG, FakeVcpu, generous_host};
use proptest::prelude::*;
use std::vec::Vec;

const WB: u64 = 0x0606_0606_0606_0606;

fn cpu() -> CpuState {
    CpuState::new(&generous_host, CONFIG, 0x0200_0065)
}

/// (MSR, value, whether the write is allowed, what reads afterwards if it is)
const WRITES: &[(u32, u64, bool, u64)] = &[
    (IA32_PAT, 0x0007_0406_0007_0406, true, 0x0007_0406_0007_0406),
    (IA32_PAT, 0x0105_0406_0007_0406, true, 0x0105_0406_0007_0406),
    (IA32_PAT, 0x02, false, 0),
    (IA32_PAT, 0x0800_0000_0000_0000, false, 0),
    (IA32_MISC_ENABLE, 0, true, 0x1800),
    (IA32_MISC_ENABLE, 1 | 1 << 34, true, 0x1801),
    (IA32_MISC_ENABLE, 1 << 18, false, 0),
    (IA32_BIOS_SIGN_ID, 0, true, 0x0200_0065_0000_0000),
    (IA32_MCG_STATUS, 0, true, 0),
    (IA32_MCG_STATUS, 4, false, 0),
    (IA32_DEBUGCTL, 0, true, 0),
    (IA32_DEBUGCTL, 3, true, 2),
    (IA32_DEBUGCTL, 1 << 6, false, 0),
    (IA32_TSC_AUX, 0xffff_ffff, true, 0xffff_ffff),
    (IA32_TSC_AUX, 1 << 32, false, 0),
    (IA32_FEATURE_CONTROL, 5, false, 0),
    (IA32_PLATFORM_ID, 0, false, 0),
    (MSR_PLATFORM_INFO, 0, false, 0),
    (IA32_MTRRCAP, 0, false, 0),
    (IA32_MCG_CAP, 0, false, 0),
    (IA32_MTRR_DEF_TYPE, 0xc06, true, 0xc06),
    (IA32_MTRR_DEF_TYPE, 0xc02, false, 0),
    (IA32_MTRR_DEF_TYPE, 0x1000, false, 0),
    (IA32_MTRR_FIX64K_00000, WB, true, WB),
    (IA32_MTRR_FIX4K_F8000, WB + 1, false, 0),
    (IA32_MTRR_FIX4K_F8000, 0x0504_0100_0605_0401, true, 0x0504_0100_0605_0401),
    (IA32_MTRR_PHYSBASE0, 0x8000_0006, true, 0x8000_0006),
    (IA32_MTRR_PHYSBASE0, 0x8000_0106, false, 0),
    (IA32_MTRR_PHYSBASE0, 1 << 39, false, 0),
    (IA32_MTRR_PHYSMASK7, 0x7f_8000_0800, true, 0x7f_8000_0800),
    (IA32_MTRR_PHYSMASK7, 0x7f_8000_0c00, false, 0),
    (MSR_KVM_STEAL_TIME, 0x1_2341, true, 0x1_2341),
    (MSR_KVM_STEAL_TIME, 0x1_2340, true, 0x1_2340),
    (MSR_KVM_STEAL_TIME, u64::MAX << 6, true, u64::MAX << 6),
    (MSR_KVM_STEAL_TIME, 0x1_2343, false, 0),
    (MSR_KVM_STEAL_TIME, 0x1_2361, false, 0),
    (MSR_KVM_STEAL_TIME, 0x1_2350, false, 0),
    (MSR_KVM_SYSTEM_TIME, 0, true, 0),
    (MSR_KVM_SYSTEM_TIME, 0x1001, false, 0),
    (0x11, 0, false, 0),
    (0x4b56_4d01, 0, false, 0),
    (0x4b56_4d04, 0, false, 0),
    (0x210, 0, false, 0),
    (0x48, 0, false, 0),
    (0x10a, 0, false, 0),
    (0xda0, 0, false, 0),
    (0x345, 0, false, 0),
];

#[test]
fn each_msr_keeps_its_rules() {
    for &(msr, value, allowed, after) in WRITES {
        let (mut cpu, mut state) = (cpu(), FakeVcpu::bits64());
        let before = read(&cpu, &state, msr, 0);
        let done = write(&mut cpu, &mut state, msr, value, 0);
        assert_eq!(done.is_ok(), allowed, "MSR {msr:#x} = {value:#x}");
        let expected = if allowed { Ok(after) } else { before };
        assert_eq!(read(&cpu, &state, msr, 0), expected, "MSR {msr:#x} after {value:#x}");
    }
}

#[test]
fn efer_keeps_lma_and_refuses_lme_under_paging() {
    const PAGING: u64 = 0x8000_0001;
    use efer::{LMA, LME, NXE, SCE};
    for (old, cr0, value, after) in [
        (0, 0, SCE | LME | NXE, Some(SCE | LME | NXE)),
        (LME | LMA, PAGING, SCE | LME, Some(SCE | LME | LMA)),
        (LME | LMA, PAGING, SCE, None),
        (0, PAGING, LME, None),
        (0, PAGING, NXE | LMA, Some(NXE)),
        (0, 0, 1 << 12, None),
        (0, 0, 1 << 1, None),
        (0, 0, 1 << 63, None),
    ] {
        let mut state = FakeVcpu { cr0, ..FakeVcpu::default() };
        state.write(GuestField::Ia32Efer, old);
        let done = write(&mut cpu(), &mut state, IA32_EFER, value, 0);
        assert_eq!(done, if after.is_some() { Ok(()) } else { Err(MsrFault::Refused) }, "{old:#x} -> {value:#x}");
        assert_eq!(state.read(GuestField::Ia32Efer), after.unwrap_or(old));
    }
}

#[test]
fn the_tsc_is_the_clock_plus_what_the_guest_added() {
    let (mut cpu, mut state) = (cpu(), FakeVcpu::bits64());
    assert_eq!(read(&cpu, &state, IA32_TSC, 500), Ok(500));
    write(&mut cpu, &mut state, IA32_TSC_ADJUST, 100, 500).unwrap();
    assert_eq!(read(&cpu, &state, IA32_TSC, 600), Ok(700));
    write(&mut cpu, &mut state, IA32_TSC, 0, 1000).unwrap();
    assert_eq!(read(&cpu, &state, IA32_TSC, 1010), Ok(10));
    assert_eq!(read(&cpu, &state, IA32_TSC_ADJUST, 0), Ok(1000u64.wrapping_neg()));
    cpu.reset();
    assert_eq!(read(&cpu, &state, IA32_TSC, 3), Ok(3));
}

#[test]
fn memory_types_after_reset_are_a_pcs() {
    let (cpu, state) = (cpu(), FakeVcpu::bits64());
    let value = |msr| read(&cpu, &state, msr, 0);
    assert_eq!(value(IA32_MTRRCAP), Ok(0x508));
    assert_eq!(value(IA32_MTRR_DEF_TYPE), Ok(0xc06));
    assert_eq!(value(IA32_MTRR_FIX64K_00000), Ok(WB));
    assert_eq!(value(IA32_MTRR_FIX16K_A0000), Ok(0), "the VGA window is uncached");
    assert_eq!((value(IA32_MTRR_PHYSBASE0), value(IA32_MTRR_PHYSBASE0 + 1)), (Ok(0xc000_0000), Ok(0x7f_c000_0800)));
    assert_eq!(value(MSR_PLATFORM_INFO), Ok(20 << 8));
    assert_eq!(value(IA32_FEATURE_CONTROL), Ok(1), "locked, VMX off");
}

#[test]
fn tsc_aux_comes_with_rdtscp() {
    let config = crate::x86::cpuid::CpuidConfig { rdtscp: false, ..CONFIG };
    let mut cpu = CpuState::new(&generous_host, config, 0);
    assert_eq!(read(&cpu, &FakeVcpu::bits64(), IA32_TSC_AUX, 0), Err(MsrFault::Unknown));
    assert_eq!(write(&mut cpu, &mut FakeVcpu::bits64(), IA32_TSC_AUX, 0, 0), Err(MsrFault::Unknown));
}

#[test]
fn kvms_msrs_come_with_its_leaves() {
    let config = crate::x86::cpuid::CpuidConfig { steal_time: false, ..CONFIG };
    let mut cpu = CpuState::new(&generous_host, config, 0);
    for msr in [MSR_KVM_STEAL_TIME, MSR_KVM_SYSTEM_TIME] {
        assert_eq!(read(&cpu, &FakeVcpu::bits64(), msr, 0), Err(MsrFault::Unknown));
        assert_eq!(write(&mut cpu, &mut FakeVcpu::bits64(), msr, 0, 0), Err(MsrFault::Unknown));
    }
}

#[test]
fn a_reset_switches_steal_time_off() {
    let (mut cpu, mut state) = (cpu(), FakeVcpu::bits64());
    write(&mut cpu, &mut state, MSR_KVM_STEAL_TIME, 0x1001, 0).unwrap();
    cpu.reset();
    assert_eq!(read(&cpu, &state, MSR_KVM_STEAL_TIME, 0), Ok(0));
}

/// The MSRs whose bit is clear in one half of a bitmap.
fn without_exit(bitmap: &[u8; MSR_BITMAP_LEN], half: usize) -> Vec<u32> {
    let bit = |at: usize, index: u32| bitmap[at + index as usize / 8] >> (index % 8) & 1;
    let low = (0..0x2000).filter(|&index| bit(half, index) == 0);
    let high = (0..0x2000).filter(|&index| bit(half + 1024, index) == 0).map(|index| 0xc000_0000 + index);
    low.chain(high).collect()
}

const READ_WITHOUT_EXIT: &[u32] = &[
    0x10,
    0x174,
    0x175,
    0x176,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
];

#[test]
fn the_bitmap_lets_through_what_the_table_says() {
    let mut bitmap = [0; MSR_BITMAP_LEN];
    build_bitmap(&mut bitmap, false);
    assert_eq!(without_exit(&bitmap, 0), READ_WITHOUT_EXIT);
    assert_eq!(without_exit(&bitmap, 2048), READ_WITHOUT_EXIT[1..]);
    build_bitmap(&mut bitmap, true);
    let reads = without_exit(&bitmap, 0);
    let x2apic: Vec<u32> = reads.iter().copied().filter(|msr| (0x800..0x900).contains(msr)).collect();
    assert!(x2apic.contains(&0x802) && x2apic.contains(&0x808) && x2apic.contains(&0x820));
    for must_exit in [0x80b, 0x830, 0x839, 0x83f, 0x840, 0x8ff, IA32_TSC_DEADLINE, IA32_APIC_BASE] {
        assert!(!reads.contains(&must_exit), "RDMSR {must_exit:#x}");
    }
    let writes = without_exit(&bitmap, 2048);
    assert_eq!(writes.len(), READ_WITHOUT_EXIT.len() - 1 + 3);
    assert!([0x808, 0x80b, 0x83f].iter().all(|msr| writes.contains(msr)));
}

proptest! {
    #[test]
    fn no_access_panics(msr in prop_oneof![any::<u32>(), 0u32..0x300, 0xc000_0080u32..0xc000_0110, 0x4b56_4d00u32..0x4b56_4d10], value in any::<u64>(), now in any::<u64>()) {
        let (mut cpu, mut state) = (cpu(), FakeVcpu::bits64());
        let before = cpu.clone();
        if write(&mut cpu, &mut state, msr, value, now).is_err() {
            prop_assert_eq!(&cpu, &before);
            prop_assert_eq!(&state, &FakeVcpu::bits64());
        } else {
            prop_assert!(read(&cpu, &state, msr, now).is_ok() || msr == IA32_BIOS_UPDT_TRIG);
        }
    }
}
