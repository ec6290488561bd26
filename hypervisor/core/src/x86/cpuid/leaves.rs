//! The content of each CPUID leaf, computed once from the host's and the VM's configuration.

use super::{CpuidConfig, EXTENDED_MAX, Leaf, Registers, TOPOLOGY_V2, XCR0_AVX, XSAVE_BASE_LEN, features as f};
use alloc::vec::Vec;

/// Level types of leaves 0xB and 0x1F: the domain of logical processors (SMT) and of cores, in ECX[15:8].
const LEVEL_SMT: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;
/// Leaf 4 lists at most this many caches; a CPU has four.
const MAX_CACHES: u32 = 8;

/// How many bits number `count` vCPUs.
fn id_bits(count: u32) -> u32 {
    count.clamp(1, 1 << 16).next_power_of_two().trailing_zeros()
}

/// A basic leaf. `real` answers as the host, with zeros past its highest leaf.
pub(super) fn basic_leaf(
    leaf: u32,
    basic_max: u32,
    real: &dyn Fn(u32, u32) -> Registers,
    config: &CpuidConfig,
    xcr0_allowed: u64,
) -> Leaf {
    match leaf {
        0 => {
            let [_, ebx, ecx, edx] = real(0, 0);
            Leaf::plain([basic_max, ebx, ecx, edx])
        }
        1 => Leaf::plain(features_leaf(real(1, 0), config, xcr0_allowed)),
        // Descriptors of caches and TLBs: the host's, and nothing that a guest could act upon.
        2 => Leaf::plain(real(2, 0)),
        4 => Leaf::indexed(caches(real, config.vcpu_count)),
        6 => Leaf::plain([f::LEAF_6_EAX, 0, 0, 0]),
        7 => Leaf::indexed(alloc::vec![structured_features(real(7, 0), config, xcr0_allowed)]),
        0xb | TOPOLOGY_V2 => Leaf::indexed(topology(config.vcpu_count)),
        0xd if xcr0_allowed != 0 => Leaf::indexed(xsave(real, xcr0_allowed)),
        0x15 => Leaf::plain(tsc_and_crystal(config.tsc_hz)),
        0x16 => {
            let mhz = (config.tsc_hz.saturating_add(500_000) / 1_000_000) & 0xffff;
            let mhz = u32::try_from(mhz).unwrap_or(0xffff);
            Leaf::plain([mhz, mhz, 100, 0])
        }
        // 3 (serial number), 5 (MONITOR), 9 (DCA), 0xA (performance monitoring), 0xF and 0x10 (RDT), 0x12 (SGX),
        // 0x14 (PT) and what later CPUs add: not there.
        _ => Leaf::plain([0; 4]),
    }
}

/// An extended leaf.
pub(super) fn extended_leaf(leaf: u32, real: &dyn Fn(u32) -> Registers, config: &CpuidConfig) -> Registers {
    let [eax, _, ecx, edx] = real(leaf);
    match leaf & 0xffff {
        0 => [EXTENDED_MAX, 0, 0, 0],
        1 => {
            let hidden = if config.rdtscp { 0 } else { f::RDTSCP };
            [0, 0, ecx & f::LEAF_8000_0001_ECX, ((edx | f::SYSCALL) & f::LEAF_8000_0001_EDX) & !hidden]
        }
        // The brand string and the L2 cache are the host's.
        2..=4 | 6 => real(leaf),
        // The guest's TSC never stops and never changes its rate while the guest runs.
        7 => [0, 0, 0, f::INVARIANT_TSC],
        // Physical address width as the host's; linear addresses of 48 bits, for LA57 is hidden.
        8 => [(eax & 0xff).clamp(32, 52) | 48 << 8, 0, 0, 0],
        _ => [0; 4],
    }
}

fn features_leaf([eax, ebx, ecx, edx]: Registers, config: &CpuidConfig, xcr0_allowed: u64) -> Registers {
    let several = config.vcpu_count > 1;
    let addressable_ids = if several { 1 << id_bits(config.vcpu_count) } else { 0 };
    // "Initial APIC ID" is 8 bits wide; the whole of it is in leaf 0xB.
    let ebx = (config.apic_id & 0xff) << 24 | (addressable_ids & 0xff) << 16 | ebx & 0xff00;
    let mut ecx = ecx & f::LEAF_1_ECX | f::LEAF_1_ECX_OURS;
    if !config.invpcid {
        // An operating system that has PCID expects INVPCID beside it, for each invalidates what the other caches.
        ecx &= !f::PCID;
    }
    if xcr0_allowed == 0 {
        ecx &= !f::XSAVE;
    }
    if xcr0_allowed & XCR0_AVX == 0 {
        ecx &= !f::LEAF_1_ECX_AVX;
    }
    let edx = edx & f::LEAF_1_EDX | f::LEAF_1_EDX_OURS | if several { f::HTT } else { 0 };
    [eax, ebx, ecx, edx]
}

fn structured_features([_, ebx, ecx, edx]: Registers, config: &CpuidConfig, xcr0_allowed: u64) -> Registers {
    let mut ebx = ebx & f::LEAF_7_EBX | f::LEAF_7_EBX_OURS;
    let mut ecx = ecx & f::LEAF_7_ECX;
    if !config.invpcid {
        ebx &= !f::INVPCID;
    }
    if !config.rdtscp {
        ecx &= !f::RDPID;
    }
    if xcr0_allowed & XCR0_AVX == 0 {
        ebx &= !f::LEAF_7_EBX_AVX;
        ecx &= !f::LEAF_7_ECX_AVX;
    }
    [0, ebx, ecx, edx & f::LEAF_7_EDX]
}

/// Leaf 4: the host's caches, with "maximum number of addressable IDs for logical processors sharing this cache" and
/// "... for processor cores in the physical package" of the VM: caches of level 3 on are shared by all vCPUs.
fn caches(real: &dyn Fn(u32, u32) -> Registers, vcpu_count: u32) -> Vec<Registers> {
    let ids = (1 << id_bits(vcpu_count)) - 1;
    let mut caches: Vec<Registers> = (0..MAX_CACHES)
        .map(|subleaf| real(4, subleaf))
        .take_while(|[eax, ..]| eax & 0x1f != 0)
        .map(|[eax, ebx, ecx, edx]| {
            let level = eax >> 5 & 0b111;
            let sharing = if level >= 3 { ids & 0xfff } else { 0 };
            [eax & 0x3fff | sharing << 14 | (ids & 0x3f) << 26, ebx, ecx, edx]
        })
        .collect();
    if caches.is_empty() {
        caches.push([0; 4]);
    }
    caches
}

/// Leaves 0xB and 0x1F: one thread in a core, all cores in one package. EDX and ECX[7:0] are filled in by the lookup.
fn topology(vcpu_count: u32) -> Vec<Registers> {
    alloc::vec![[0, 1, LEVEL_SMT, 0], [id_bits(vcpu_count), vcpu_count & 0xffff, LEVEL_CORE, 0]]
}

/// Leaf 0xD: sub-leaf 0 what XCR0 may hold, 1 the variants of XSAVE, 2 where AVX state lies.
fn xsave(real: &dyn Fn(u32, u32) -> Registers, xcr0_allowed: u64) -> Vec<Registers> {
    let [avx_len, avx_offset, ..] = real(0xd, 2);
    let avx = xcr0_allowed & XCR0_AVX != 0;
    let len = if avx { avx_offset.saturating_add(avx_len) } else { XSAVE_BASE_LEN };
    let [low, high] = [xcr0_allowed & 0xffff_ffff, xcr0_allowed >> 32].map(|half| u32::try_from(half).unwrap_or(0));
    let mut leaves = alloc::vec![[low, len, len, high], [real(0xd, 1)[0] & f::LEAF_D1_EAX, 0, 0, 0]];
    if avx {
        leaves.push([avx_len, avx_offset, 0, 0]);
    }
    leaves
}

/// Leaf 0x15: "TSC frequency = core crystal clock frequency * EBX/EAX". The crystal is the clock of the APIC timer as
/// well, and in a VM that is the TSC: the ratio is 1. A TSC past 4.29 GHz does not fit ECX; 0 means "not enumerated",
/// and leaf 0x16 and the hypervisor's leaf tell it.
fn tsc_and_crystal(tsc_hz: u64) -> Registers {
    [1, 1, u32::try_from(tsc_hz).unwrap_or(0), 0]
}
