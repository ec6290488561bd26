//! What guests see of hosts.

use super::*;
use crate::exit::tests::{CONFIG, TSC_HZ, generous_host};
use crate::x86::control::cr4;
use proptest::prelude::*;

const AT_RESET: CpuidDynamic = CpuidDynamic { osxsave: false, xcr0: 1, apic_enabled: true };

fn policy(config: CpuidConfig) -> CpuidPolicy {
    CpuidPolicy::new(&generous_host, config)
}

fn look(policy: &CpuidPolicy, leaf: u32, subleaf: u32) -> Registers {
    policy.lookup(leaf, subleaf, || AT_RESET)
}

/// Feature bits that must never be seen, by leaf and register: name, leaf, register index, bit.
const HIDDEN: &[(&str, u32, usize, u32)] = &[
    ("DTES64", 1, 2, 2),
    ("MONITOR", 1, 2, 3),
    ("VMX", 1, 2, 5),
    ("SMX", 1, 2, 6),
    ("EIST", 1, 2, 7),
    ("TM2", 1, 2, 8),
    ("PDCM", 1, 2, 15),
    ("DCA", 1, 2, 18),
    ("OSXSAVE at reset", 1, 2, 27),
    ("DS", 1, 3, 21),
    ("ACPI", 1, 3, 22),
    ("TM", 1, 3, 29),
    ("SGX", 7, 1, 2),
    ("HLE", 7, 1, 4),
    ("RTM", 7, 1, 11),
    ("RDT-M", 7, 1, 12),
    ("MPX", 7, 1, 14),
    ("AVX512F", 7, 1, 16),
    ("PT", 7, 1, 25),
    ("AVX512VL", 7, 1, 31),
    ("PKU", 7, 2, 3),
    ("WAITPKG", 7, 2, 5),
    ("CET_SS", 7, 2, 7),
    ("AVX512_VNNI", 7, 2, 11),
    ("LA57", 7, 2, 16),
    ("KL", 7, 2, 23),
    ("bus-lock detection", 7, 2, 24),
    ("ENQCMD", 7, 2, 29),
    ("PKS", 7, 2, 31),
    ("UINTR", 7, 3, 5),
    ("PCONFIG", 7, 3, 18),
    ("CET_IBT", 7, 3, 20),
    ("AMX-TILE", 7, 3, 24),
    ("IBRS and IBPB", 7, 3, 26),
    ("STIBP", 7, 3, 27),
    ("L1D_FLUSH", 7, 3, 28),
    ("ARCH_CAPABILITIES", 7, 3, 29),
    ("CORE_CAPABILITIES", 7, 3, 30),
    ("SSBD", 7, 3, 31),
];

#[test]
fn what_is_not_virtualised_is_hidden() {
    let policy = policy(CONFIG);
    for (name, leaf, register, bit) in HIDDEN {
        assert_eq!(look(&policy, *leaf, 0)[*register] >> bit & 1, 0, "{name}");
    }
    for leaf in [3, 5, 8, 9, 0xa, 0xc, 0xe, 0xf, 0x10, 0x12, 0x14] {
        assert_eq!(look(&policy, leaf, 0), [0; 4], "leaf {leaf:#x}");
    }
    assert_eq!(look(&policy, 6, 0), [4, 0, 0, 0], "ARAT alone");
    assert_eq!(look(&policy, 7, 1), [0; 4], "no further sub-leaf of 7");
}

#[test]
fn what_is_virtualised_is_shown() {
    let policy = policy(CONFIG);
    let [_, ebx, ecx, edx] = look(&policy, 1, 0);
    for (name, bit) in
        [("SSE3", 0), ("x2APIC", 21), ("TSC-Deadline", 24), ("XSAVE", 26), ("AVX", 28), ("hypervisor", 31)]
    {
        assert_eq!(ecx >> bit & 1, 1, "{name}");
    }
    for (name, bit) in [("TSC", 4), ("MSR", 5), ("PAE", 6), ("APIC", 9), ("MTRR", 12), ("PAT", 16), ("SSE2", 26)] {
        assert_eq!(edx >> bit & 1, 1, "{name}");
    }
    assert_eq!(ebx, 0x0800, "CLFLUSH of 64 bytes; one CPU");
    assert_eq!(look(&policy, 7, 0)[1] >> 1 & 1, 1, "TSC_ADJUST");
    assert_eq!(look(&policy, 0x8000_0001, 0)[3], 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29);
    assert_eq!(look(&policy, 0x8000_0007, 0), [0, 0, 0, 1 << 8]);
    assert_eq!(look(&policy, 0x8000_0008, 0), [48 << 8 | 39, 0, 0, 0]);
    assert_eq!(policy.physical_bits(), 39);
    assert_eq!(policy.xcr0_allowed(), 7);
    let cr4_bits = cr4::OSXSAVE | cr4::FSGSBASE | cr4::SMEP | cr4::SMAP | cr4::UMIP | cr4::PCIDE;
    assert_eq!(policy.cr4_allowed(), cr4::ALWAYS | cr4_bits);
}

#[test]
fn features_need_their_controls() {
    let policy = policy(CpuidConfig { rdtscp: false, invpcid: false, ..CONFIG });
    assert!(!policy.has_rdtscp());
    assert_eq!(look(&policy, 0x8000_0001, 0)[3] >> 27 & 1, 0, "RDTSCP");
    assert_eq!(look(&policy, 7, 0)[2] >> 22 & 1, 0, "RDPID");
    assert_eq!(look(&policy, 7, 0)[1] >> 10 & 1, 0, "INVPCID");
    assert_eq!(look(&policy, 1, 0)[2] >> 17 & 1, 0, "PCID");
    assert_eq!(policy.cr4_allowed() & cr4::PCIDE, 0);
}

#[test]
fn the_vms_state_shows() {
    let policy = policy(CONFIG);
    let dynamic = CpuidDynamic { osxsave: true, xcr0: 7, apic_enabled: false };
    let [_, _, ecx, edx] = policy.lookup(1, 0, || dynamic);
    assert_eq!((ecx >> 27 & 1, edx >> 9 & 1), (1, 0));
    for (xcr0, standard, compacted) in [(1, 576, 576), (3, 576, 576), (7, 832, 832)] {
        let dynamic = CpuidDynamic { xcr0, ..AT_RESET };
        assert_eq!(policy.lookup(0xd, 0, || dynamic), [7, standard, 832, 0]);
        assert_eq!(policy.lookup(0xd, 1, || dynamic), [7, compacted, 0, 0], "no XSAVES");
    }
    let plain =
        |leaf: u32, subleaf: u32| if (leaf, subleaf) == (0xd, 1) { [1, 0, 0, 0] } else { generous_host(leaf, subleaf) };
    assert_eq!(look(&CpuidPolicy::new(&plain, CONFIG), 0xd, 1), [1, 0, 0, 0], "no size without XSAVEC");
    assert_eq!(look(&policy, 0xd, 2), [256, 576, 0, 0]);
    for subleaf in [3, 5, 9, 62, u32::MAX] {
        assert_eq!(look(&policy, 0xd, subleaf), [0; 4]);
    }
}

#[test]
fn topology_is_one_package_of_cores() {
    for (vcpu_count, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6)] {
        let policy = policy(CpuidConfig { vcpu_count, apic_id: vcpu_count - 1, ..CONFIG });
        let id = vcpu_count - 1;
        let [_, ebx, _, edx] = look(&policy, 1, 0);
        assert_eq!(ebx >> 24, id);
        assert_eq!(edx >> 28 & 1, u32::from(vcpu_count > 1), "HTT");
        assert_eq!(ebx >> 16 & 0xff, if vcpu_count > 1 { 1 << bits } else { 0 });
        assert_eq!(look(&policy, 0xb, 0), [0, 1, 0x100, id]);
        assert_eq!(look(&policy, 0xb, 1), [bits, vcpu_count, 0x201, id]);
        assert_eq!(look(&policy, 0xb, 2), [0, 0, 2, id]);
        assert_eq!(look(&policy, 0xb, 0x1234), [0, 0, 0x34, id]);
        let ids = (1 << bits) - 1;
        assert_eq!(look(&policy, 4, 0)[0], ids << 26 | 0x121, "L1 is a core's own");
        assert_eq!(look(&policy, 4, 2)[0], ids << 26 | ids << 14 | 0x163, "L3 is the package's");
        assert_eq!(look(&policy, 4, 3), [0; 4]);
    }
}

#[test]
fn frequencies_agree() {
    let policy = policy(CONFIG);
    assert_eq!(look(&policy, 0x15, 0), [1, 1, 2_000_000_000, 0]);
    assert_eq!(look(&policy, 0x16, 0)[0], 2000);
    assert_eq!(look(&policy, HYPERVISOR_FREQUENCIES, 0), [2_000_000, 2_000_000, 0, 0]);
    let fast = CpuidPolicy::new(&generous_host, CpuidConfig { tsc_hz: 5_000_000_000, ..CONFIG });
    assert_eq!(look(&fast, 0x15, 0), [1, 1, 0, 0], "does not fit ECX");
    assert_eq!(look(&fast, 0x16, 0)[0], 5000);
    assert_eq!(TSC_HZ, CONFIG.tsc_hz);
}

#[test]
fn the_hypervisor_introduces_itself() {
    let policy = policy(CONFIG);
    let [max, ebx, ecx, edx] = look(&policy, HYPERVISOR_BASE, 0);
    assert_eq!(max, HYPERVISOR_FREQUENCIES);
    assert_eq!([ebx, ecx, edx].map(u32::to_le_bytes).concat(), SIGNATURE);
    for leaf in [0x4000_0002, 0x4000_000f, 0x4000_0011, 0x4000_00ff, 0x4000_0102, 0x4000_0200, 0x4fff_ffff] {
        assert_eq!(look(&policy, leaf, 0), [0; 4]);
    }
}

#[test]
fn kvms_leaves_offer_steal_time_and_no_clock() {
    let told = policy(CONFIG);
    let [max, ebx, ecx, edx] = look(&told, 0x4000_0100, 0);
    assert_eq!(max, 0x4000_0101);
    assert_eq!([ebx, ecx, edx].map(u32::to_le_bytes).concat(), b"KVMKVMKVM\0\0\0");
    // "1 NOP_IO_DELAY: not necessary to perform delays on PIO operations", "5 STEAL_TIME".
    assert_eq!(look(&told, 0x4000_0101, 0), [0b10_0010, 0, 0, 0]);
    assert!(told.has_steal_time());
    let untold = policy(CpuidConfig { steal_time: false, ..CONFIG });
    assert!(!untold.has_steal_time());
    for leaf in [0x4000_0100, 0x4000_0101] {
        assert_eq!(look(&untold, leaf, 0), [0; 4]);
    }
}

#[test]
fn leaves_out_of_range_are_the_highest_basic_leaf() {
    let policy = policy(CONFIG);
    assert_eq!(look(&policy, 0, 0)[0], 0x16);
    for leaf in [0x17, 0x1f, 0x3fff_ffff, 0x5000_0000, 0x8000_0009, 0x8000_001d, 0xc000_0000, u32::MAX] {
        assert_eq!(look(&policy, leaf, 3), look(&policy, 0x16, 3), "{leaf:#x}");
    }
}

#[test]
fn an_old_host_without_xsave_is_enough() {
    let host = |leaf: u32, _: u32| match leaf {
        0 => [0xb, 0x756e_6547, 0x6c65_746e, 0x4965_6e69],
        1 => [0x0002_06c2, 0x0800, 0x0298_2203, 0x1fcb_fbff],
        0x8000_0000 => [0x8000_0008, 0, 0, 0],
        0x8000_0008 => [0x3024, 0, 0, 0],
        // What the CPU answers out of range must not be taken for a leaf.
        _ => [u32::MAX; 4],
    };
    let policy = CpuidPolicy::new(&host, CONFIG);
    assert_eq!(policy.xcr0_allowed(), 0);
    assert_eq!(look(&policy, 1, 0)[2] >> 26 & 0b101, 0, "neither XSAVE nor AVX");
    assert_eq!(look(&policy, 0xd, 0), [0; 4]);
    assert_eq!(look(&policy, 0x15, 0)[2], 2_000_000_000);
    assert_eq!(policy.cr4_allowed() & cr4::OSXSAVE, 0);
}

proptest! {
    /// Whatever the host has, the guest sees none of it that is not in the policy.
    #[test]
    fn no_host_shows_through(fill in any::<[u32; 4]>(), max in 0u32..0x30, extended_max in 0u32..0x30, leaf in any::<u32>(), subleaf in any::<u32>()) {
        let host = move |leaf: u32, _: u32| match leaf {
            0 => [max, 1, 2, 3],
            0x8000_0000 => [0x8000_0000 + extended_max, 0, 0, 0],
            _ => fill,
        };
        let policy = CpuidPolicy::new(&host, CONFIG);
        for (name, leaf, register, bit) in HIDDEN {
            prop_assert_eq!(look(&policy, *leaf, 0)[*register] >> bit & 1, 0, "{}", name);
        }
        prop_assert_eq!(policy.xcr0_allowed() & !7, 0);
        prop_assert_eq!(policy.cr4_allowed() & cr4::VMXE, 0);
        prop_assert!((32..=52).contains(&policy.physical_bits()));
        let _ = look(&policy, leaf, subleaf);
    }
}
