//! Prints every CPUID leaf and checks what Lamina promises of them: the hypervisor bit and its signature leaf, VMX
//! hidden, the frequency leaves, a sane topology, and feature bits that follow CR4 and IA32_APIC_BASE.
//! Expected: `verdict: pass cpuid-dump: ...`.
#![no_std]
#![no_main]

use guest::clock::{self, HYPERVISOR_FREQUENCY_LEAF, HYPERVISOR_LEAF};
use guest::cpu::{self, Cpuid, cpuid};
use guest::{apic, check, guest_main, pass, println};

guest_main!(main);

const VMX: u32 = 1 << 5;
const X2APIC: u32 = 1 << 21;
const XSAVE: u32 = 1 << 26;
const OSXSAVE: u32 = 1 << 27;
const HYPERVISOR: u32 = 1 << 31;
/// CPUID.1:EDX.
const APIC: u32 = 1 << 9;
const HTT: u32 = 1 << 28;
const CR4_OSXSAVE: u64 = 1 << 18;

fn main() {
    let max = cpuid(0, 0).eax;
    let extended_max = cpuid(0x8000_0000, 0).eax;
    check!((1..0x1000).contains(&max), "the highest basic leaf is {max:#x}");
    check!((0x8000_0001..0x8000_1000).contains(&extended_max), "the highest extended leaf is {extended_max:#x}");
    (0..=max).for_each(dump);
    (HYPERVISOR_LEAF..=HYPERVISOR_FREQUENCY_LEAF).for_each(dump);
    (0x8000_0000..=extended_max).for_each(dump);

    check_hypervisor();
    check_topology(max);
    check_apic_bits();
    check_osxsave();
    check_beyond(max);
    pass!("{max:#x} is the highest leaf, {extended_max:#x} the highest extended one");
}

/// Prints a leaf, with all subleaves where it has some.
fn dump(leaf: u32) {
    let subleaves = match leaf {
        0x4 | 0x7 | 0xB | 0x1F => 8,
        0xD => 64,
        _ => 1,
    };
    for subleaf in 0..subleaves {
        let Cpuid { eax, ebx, ecx, edx } = cpuid(leaf, subleaf);
        // The last subleaf of 4 has no type, of 0xB and 0x1F no level type; 0xD and 7 have gaps.
        let empty = eax | ebx | edx | (ecx & !0xFF) == 0 || matches!(leaf, 0xB | 0x1F) && ebx == 0;
        if subleaf == 0 || !empty {
            println!("cpuid {leaf:#010x}.{subleaf:<2} eax={eax:08x} ebx={ebx:08x} ecx={ecx:08x} edx={edx:08x}");
        }
    }
}

fn check_hypervisor() {
    let features = cpuid(1, 0);
    check!(features.ecx & HYPERVISOR != 0, "CPUID.1:ECX does not say that there is a hypervisor");
    check!(features.ecx & VMX == 0, "CPUID.1:ECX shows VMX, which is not virtualised");
    let leaf = cpuid(HYPERVISOR_LEAF, 0);
    let mut signature = [0; 12];
    for (bytes, word) in signature.chunks_exact_mut(4).zip([leaf.ebx, leaf.ecx, leaf.edx]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    check!(signature == *b"LaminaLamina", "the hypervisor's signature is {signature:x?}");
    check!(leaf.eax >= HYPERVISOR_FREQUENCY_LEAF, "the highest hypervisor leaf is {:#x}", leaf.eax);
    let told = clock::hypervisor_frequencies();
    check!(told.is_some(), "leaf {HYPERVISOR_FREQUENCY_LEAF:#x} gives no frequencies");
    // A crystal faster than 4.29 GHz does not fit leaf 0x15.
    let architectural = clock::cpuid_frequencies().or(told.filter(|&(tsc, _)| tsc > u64::from(u32::MAX)));
    check!(architectural.is_some(), "leaf 0x15 gives no frequencies");
    let (tsc, bus) = told.unwrap_or_default();
    let (tsc_15, crystal) = architectural.unwrap_or_default();
    println!("cpuid-dump: TSC {tsc} Hz (leaf 0x15: {tsc_15}), APIC timer {bus} Hz (leaf 0x15: {crystal})");
    check!(tsc.abs_diff(tsc_15) <= 1000, "the two leaves tell TSC frequencies of {tsc} and {tsc_15} Hz");
    check!(bus.abs_diff(crystal) <= 1000, "the two leaves tell APIC frequencies of {bus} and {crystal} Hz");
}

/// Leaf 1 and leaf 0xB must name the same APIC ID, and the levels of leaf 0xB must hold one another.
fn check_topology(max: u32) {
    let leaf = cpuid(1, 0);
    let apic_id = leaf.ebx >> 24;
    let hardware_id =
        if apic::is_x2apic() { apic::read(apic::register::ID) } else { apic::read(apic::register::ID) >> 24 };
    check!(apic_id == hardware_id, "CPUID.1 says APIC ID {apic_id}, the APIC says {hardware_id}");
    let logical_count = if leaf.edx & HTT != 0 { leaf.ebx >> 16 & 0xFF } else { 1 };
    check!(logical_count >= 1, "CPUID.1 says no logical processors");
    if max < 0xB || cpuid(0xB, 0).ebx == 0 {
        return;
    }
    let (mut shift_before, mut count_before) = (0, 0);
    for subleaf in 0.. {
        let level = cpuid(0xB, subleaf);
        check!(level.edx == apic_id, "CPUID.0xB.{subleaf} says x2APIC ID {}, CPUID.1 {apic_id}", level.edx);
        check!(level.ecx & 0xFF == subleaf, "CPUID.0xB.{subleaf} does not repeat its subleaf: ECX {:#x}", level.ecx);
        if level.ecx >> 8 & 0xFF == 0 {
            check!(subleaf > 0, "CPUID.0xB has no levels");
            break;
        }
        let (shift, count) = (level.eax & 0x1F, level.ebx & 0xFFFF);
        check!(shift >= shift_before, "CPUID.0xB.{subleaf} shifts by {shift}, the level below by {shift_before}");
        check!(count >= count_before.max(1), "CPUID.0xB.{subleaf} counts {count}, the level below {count_before}");
        check!(count <= 1 << shift, "CPUID.0xB.{subleaf}: {count} processors need more than {shift} bits");
        (shift_before, count_before) = (shift, count);
    }
    check!(count_before <= logical_count, "CPUID.0xB counts {count_before} processors, CPUID.1 {logical_count}");
}

/// The x2APIC bit promises the mode; the APIC bit is a copy of IA32_APIC_BASE's enable bit.
fn check_apic_bits() {
    let base = cpu::read_msr(apic::APIC_BASE_MSR);
    check!(base & apic::BASE_ENABLE != 0, "IA32_APIC_BASE is {base:#x}: not enabled");
    check!(cpuid(1, 0).edx & APIC != 0, "CPUID.1:EDX hides the enabled APIC");
    let promised = cpuid(1, 0).ecx & X2APIC != 0;
    // SAFETY: interrupts are off and nothing uses the APIC; x2APIC mode and back by way of disabled is legal.
    unsafe {
        let entered = cpu::try_write_msr(apic::APIC_BASE_MSR, base | apic::BASE_X2APIC);
        check!(entered.is_ok() == promised, "CPUID.1:ECX.x2APIC is {promised}, x2APIC mode gave {entered:?}");
        if promised {
            let id = cpu::try_read_msr(apic::x2apic_msr(apic::register::ID));
            check!(id.is_ok(), "RDMSR of the x2APIC ID raised {id:?}");
        }
        cpu::write_msr(apic::APIC_BASE_MSR, base & !(apic::BASE_ENABLE | apic::BASE_X2APIC));
        check!(cpuid(1, 0).edx & APIC == 0, "CPUID.1:EDX shows the disabled APIC");
        cpu::write_msr(apic::APIC_BASE_MSR, base);
    }
    check!(cpuid(1, 0).edx & APIC != 0, "CPUID.1:EDX hides the APIC that was enabled again");
}

fn check_osxsave() {
    if cpuid(1, 0).ecx & XSAVE == 0 {
        return;
    }
    for set in [true, false] {
        let cr4 = cpu::read_cr4() & !CR4_OSXSAVE | if set { CR4_OSXSAVE } else { 0 };
        // SAFETY: CR4.OSXSAVE only allows XGETBV, XSETBV and XSAVE, which this kernel does not use.
        let written = unsafe { cpu::try_write_cr4(cr4) };
        check!(written.is_ok(), "CR4.OSXSAVE = {set} gave {written:?}");
        check!((cpuid(1, 0).ecx & OSXSAVE != 0) == set, "CPUID.1:ECX.OSXSAVE does not follow CR4");
    }
}

/// "If a value entered for CPUID.EAX is higher than the maximum input value for basic or extended function for that
/// processor then the data for the highest basic information leaf is returned."
fn check_beyond(max: u32) {
    let highest = cpuid(max, 0);
    for leaf in [max + 1, 0x3FFF_FFFF, 0x8000_FFFF, u32::MAX] {
        check!(cpuid(leaf, 0) == highest, "leaf {leaf:#x} is not the highest basic leaf {max:#x}");
    }
}
