//! The CPUID a guest sees: [`CpuidPolicy`], a table made once per vCPU, looked up at every CPUID exit.
//!
//! Source: Intel SDM volume 2, "CPUID—CPU Identification". What is passed on is in `features.rs`; the rest of this file
//! computes what depends on the VM: topology, XSAVE sizes, frequencies, and Lamina's own leaves.
//!
//! Hypervisor leaves (documented for guests):
//! - 0x4000_0000: EAX = highest hypervisor leaf, EBX:ECX:EDX = `LaminaLamina`.
//! - 0x4000_0001: EAX = version of this interface (1), EBX = features (bit 0: leaf 0x4000_0010 is there).
//! - 0x4000_0010: EAX = TSC frequency in kHz, EBX = clock of the local APIC's timer in kHz. The same number.
//!
//! Beside them are KVM's (Linux, Documentation/virt/kvm/x86/cpuid.rst), where VMs are told their steal time: guests that
//! know KVM look for its signature at every 0x100th leaf from 0x4000_0000 on.
//! - 0x4000_0100: EAX = 0x4000_0101, EBX:ECX:EDX = `KVMKVMKVM`.
//! - 0x4000_0101: EAX = features, EDX = hints (none).
//!
//! Of the features only two are there: bit 5, KVM_FEATURE_STEAL_TIME, and bit 1, KVM_FEATURE_NOP_IO_DELAY: a device here
//! needs no pause between two accesses, so Linux saves the exits of its writes to port 0x80. All others ask for something of
//! the hypervisor that it does not do: the clock (the TSC is told exactly, stands still with the VM, and needs no help),
//! page faults on the host's behalf, hypercalls, its own EOI (the CPU does that by itself).
//!
//! What follows from the signature in Linux, feature bits aside: it takes x2APIC mode although there is no interrupt remapping
//! (right: no APIC ID is above 254), believes the timer's interrupt without a check, and leaves the hard-lockup detector off. TSC
//! and APIC frequencies it takes from leaf 0x15, as without it.

mod features;
mod leaves;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::vec::Vec;
use features as f;
use leaves::{basic_leaf, extended_leaf};

/// EAX, EBX, ECX, EDX of a leaf.
pub type Registers = [u32; 4];

/// First hypervisor leaf.
pub const HYPERVISOR_BASE: u32 = 0x4000_0000;
/// The hypervisor leaf that tells the frequencies.
pub const HYPERVISOR_FREQUENCIES: u32 = 0x4000_0010;
/// What EBX:ECX:EDX of [`HYPERVISOR_BASE`] spell.
pub const SIGNATURE: &[u8; 12] = b"LaminaLamina";
/// First of KVM's leaves.
pub const KVM_BASE: u32 = 0x4000_0100;
/// The leaf that tells KVM's features.
pub const KVM_FEATURES: u32 = 0x4000_0101;
/// What EBX:ECX:EDX of [`KVM_BASE`] spell.
const KVM_SIGNATURE: &[u8; 12] = b"KVMKVMKVM\0\0\0";
/// Writes to port 0x80 for a pause between two accesses to a device are not needed.
const KVM_FEATURE_NOP_IO_DELAY: u32 = 1 << 1;
/// MSR_KVM_STEAL_TIME is there.
const KVM_FEATURE_STEAL_TIME: u32 = 1 << 5;

/// First extended leaf.
const EXTENDED_BASE: u32 = 0x8000_0000;
/// Highest extended leaf.
const EXTENDED_MAX: u32 = 0x8000_0008;
/// Highest basic leaf of a host that has no leaf 0x1F. Up to here every leaf is Lamina's own if the host lacks it.
const BASIC_MAX: u32 = 0x16;
/// "V2 extended topology enumeration", the highest basic leaf we give.
const TOPOLOGY_V2: u32 = 0x1f;
/// XCR0 components that are kept per vCPU: x87, SSE, AVX.
const XCR0_SUPPORTED: u32 = 0b111;
/// The XCR0 component of AVX (the upper halves of YMM).
const XCR0_AVX: u64 = 1 << 2;
/// Size of the legacy region and the header of an XSAVE area: SDM volume 1, "Layout of the XSAVE Area".
const XSAVE_BASE_LEN: u32 = 512 + 64;

/// What a vCPU's CPUID depends on, beside the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuidConfig {
    /// The guest's TSC frequency in Hz; also the clock of its local-APIC timer.
    pub tsc_hz: u64,
    /// How many vCPUs the VM has (cores of one package).
    pub vcpu_count: u32,
    /// This vCPU's APIC ID.
    pub apic_id: u32,
    /// Whether "enable RDTSCP" is set for the guest (else RDTSCP and RDPID are hidden).
    pub rdtscp: bool,
    /// Whether "enable INVPCID" is set for the guest.
    pub invpcid: bool,
    /// Whether the guest is told its steal time, by KVM's interface.
    pub steal_time: bool,
}

/// What a lookup needs to know of the vCPU's present state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuidDynamic {
    /// CR4.OSXSAVE, as the guest sees it.
    pub osxsave: bool,
    /// XCR0.
    pub xcr0: u64,
    /// Whether IA32_APIC_BASE has the local APIC enabled.
    pub apic_enabled: bool,
}

/// A leaf: its sub-leaves, the first one standing for all where the leaf has none.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Leaf {
    subleaves: Box<[Registers]>,
    /// Whether ECX selects among `subleaves` (else it is ignored).
    indexed: bool,
}

impl Leaf {
    fn plain(registers: Registers) -> Self {
        Self { subleaves: Box::new([registers]), indexed: false }
    }

    fn indexed(subleaves: Vec<Registers>) -> Self {
        Self { subleaves: subleaves.into_boxed_slice(), indexed: true }
    }
}

/// The CPUID of one vCPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuidPolicy {
    basic: Box<[Leaf]>,
    extended: Box<[Leaf]>,
    frequencies: Registers,
    apic_id: u32,
    xcr0_allowed: u64,
    avx_end: u32,
    avx_len: u32,
    cr4_allowed: u64,
    physical_bits: u8,
    rdtscp: bool,
    steal_time: bool,
}

/// How the host answers CPUID: `(leaf, subleaf)` to registers.
pub type HostCpuid<'a> = &'a dyn Fn(u32, u32) -> Registers;

impl CpuidPolicy {
    /// The policy for one vCPU on the host whose CPUID `host` answers.
    #[must_use]
    pub fn new(host: HostCpuid<'_>, config: CpuidConfig) -> Self {
        let host_max = host(0, 0)[0];
        let basic_max = if host_max >= TOPOLOGY_V2 { TOPOLOGY_V2 } else { BASIC_MAX };
        let real = |leaf: u32, subleaf: u32| if leaf <= host_max { host(leaf, subleaf) } else { [0; 4] };
        let host_extended_max = host(EXTENDED_BASE, 0)[0];
        let real_extended = |leaf: u32| if leaf <= host_extended_max { host(leaf, 0) } else { [0; 4] };

        let xcr0_allowed = xcr0_allowed(&real);
        let avx = xcr0_allowed & XCR0_AVX != 0;
        let [avx_len, avx_offset, ..] = if avx { real(0xd, 2) } else { [0; 4] };
        let basic: Box<[Leaf]> =
            (0..=basic_max).map(|leaf| basic_leaf(leaf, basic_max, &real, &config, xcr0_allowed)).collect();
        let extended: Box<[Leaf]> = (EXTENDED_BASE..=EXTENDED_MAX)
            .map(|leaf| Leaf::plain(extended_leaf(leaf, &real_extended, &config)))
            .collect();

        let khz = u32::try_from(config.tsc_hz / 1000).unwrap_or(u32::MAX);
        let mut policy = Self {
            basic,
            extended,
            frequencies: [khz, khz, 0, 0],
            apic_id: config.apic_id,
            xcr0_allowed,
            avx_end: avx_offset.saturating_add(avx_len),
            avx_len,
            cr4_allowed: 0,
            physical_bits: 0,
            rdtscp: false,
            steal_time: config.steal_time,
        };
        policy.rdtscp = policy.fixed(EXTENDED_BASE + 1)[3] & f::RDTSCP != 0;
        policy.physical_bits = policy.fixed(EXTENDED_MAX)[0].to_le_bytes()[0].clamp(32, 52);
        policy.cr4_allowed = policy.allowed_cr4();
        policy
    }

    /// The registers for `leaf` and `subleaf` (EAX and ECX of the guest). `dynamic` is called for the few leaves that
    /// depend on the vCPU's state.
    #[must_use]
    pub fn lookup(&self, leaf: u32, subleaf: u32, dynamic: impl FnOnce() -> CpuidDynamic) -> Registers {
        if let Some(leaf_data) = self.find(leaf) {
            return self.select(leaf, leaf_data, subleaf, dynamic);
        }
        match leaf {
            0x4000_0000..=0x4fff_ffff => self.hypervisor_leaf(leaf),
            // "If a value entered for CPUID.EAX is higher than the maximum input value for basic or extended function
            // for that processor then the data for the highest basic information leaf is returned."
            _ => match self.basic.last() {
                Some(highest) => self.select(self.max_basic(), highest, subleaf, dynamic),
                None => [0; 4],
            },
        }
    }

    /// The XCR0 bits that XSETBV may set; 0 without XSAVE.
    #[must_use]
    pub const fn xcr0_allowed(&self) -> u64 {
        self.xcr0_allowed
    }

    /// The CR4 bits that the features shown here give the guest.
    #[must_use]
    pub const fn cr4_allowed(&self) -> u64 {
        self.cr4_allowed
    }

    /// MAXPHYADDR, 32 to 52.
    #[must_use]
    pub const fn physical_bits(&self) -> u8 {
        self.physical_bits
    }

    /// Whether the guest has RDTSCP, and with it IA32_TSC_AUX.
    #[must_use]
    pub const fn has_rdtscp(&self) -> bool {
        self.rdtscp
    }

    /// Whether the guest is told its steal time, and has MSR_KVM_STEAL_TIME with it.
    #[must_use]
    pub const fn has_steal_time(&self) -> bool {
        self.steal_time
    }

    fn max_basic(&self) -> u32 {
        u32::try_from(self.basic.len()).unwrap_or(1).saturating_sub(1)
    }

    fn find(&self, leaf: u32) -> Option<&Leaf> {
        let (table, index) = if leaf < HYPERVISOR_BASE {
            (&self.basic, leaf)
        } else {
            (&self.extended, leaf.checked_sub(EXTENDED_BASE)?)
        };
        table.get(usize::try_from(index).ok()?)
    }

    /// The first sub-leaf of `leaf`.
    fn fixed(&self, leaf: u32) -> Registers {
        self.find(leaf).and_then(|leaf| leaf.subleaves.first()).copied().unwrap_or_default()
    }

    fn select(&self, leaf: u32, data: &Leaf, subleaf: u32, dynamic: impl FnOnce() -> CpuidDynamic) -> Registers {
        let index = if data.indexed { subleaf } else { 0 };
        let found = usize::try_from(index).ok().and_then(|index| data.subleaves.get(index)).copied();
        match leaf {
            1 => state_dependent_features(found.unwrap_or_default(), dynamic()),
            0xb | TOPOLOGY_V2 => self.topology(found, subleaf),
            0xd => self.xsave_sizes(found.unwrap_or_default(), subleaf, dynamic),
            _ => found.unwrap_or_default(),
        }
    }

    /// "If an input value n in ECX returns the invalid level-type of 0 in ECX[15:8], other input values with ECX > n
    /// also return 0 in ECX[15:8]"; ECX[7:0] repeats the input and EDX is the x2APIC ID for every sub-leaf.
    fn topology(&self, found: Option<Registers>, subleaf: u32) -> Registers {
        let [eax, ebx, ecx, _] = found.unwrap_or_default();
        [eax, ebx, ecx | (subleaf & 0xff), self.apic_id]
    }

    /// Leaf 0xD tells sizes for the XCR0 of the moment: EBX of sub-leaf 0 in standard form, of sub-leaf 1 compacted.
    fn xsave_sizes(
        &self,
        [eax, ebx, ecx, edx]: Registers,
        subleaf: u32,
        dynamic: impl FnOnce() -> CpuidDynamic,
    ) -> Registers {
        // "If EAX[1] and EAX[3] are both 0" (neither XSAVEC nor XSAVES), sub-leaf 1 has no size to tell.
        let told = self.xcr0_allowed != 0 && (subleaf == 0 || subleaf == 1 && eax & f::XSAVEC != 0);
        if !told {
            return [eax, ebx, ecx, edx];
        }
        let avx = dynamic().xcr0 & XCR0_AVX != 0;
        let size = match (subleaf, avx) {
            (0, true) => self.avx_end,
            (_, true) => XSAVE_BASE_LEN.saturating_add(self.avx_len),
            _ => XSAVE_BASE_LEN,
        };
        [eax, size, ecx, edx]
    }

    fn hypervisor_leaf(&self, leaf: u32) -> Registers {
        match leaf {
            HYPERVISOR_BASE => {
                let [ebx, ecx, edx] = spelt(SIGNATURE);
                [HYPERVISOR_FREQUENCIES, ebx, ecx, edx]
            }
            0x4000_0001 => [1, 1, 0, 0],
            HYPERVISOR_FREQUENCIES => self.frequencies,
            KVM_BASE if self.steal_time => {
                let [ebx, ecx, edx] = spelt(KVM_SIGNATURE);
                [KVM_FEATURES, ebx, ecx, edx]
            }
            KVM_FEATURES if self.steal_time => [KVM_FEATURE_NOP_IO_DELAY | KVM_FEATURE_STEAL_TIME, 0, 0, 0],
            _ => [0; 4],
        }
    }

    fn allowed_cr4(&self) -> u64 {
        use super::control::cr4;
        let [_, _, ecx1, _] = self.fixed(1);
        let [_, ebx7, ecx7, _] = self.fixed(7);
        let when = |present: bool, bit: u64| if present { bit } else { 0 };
        cr4::ALWAYS
            | when(ecx1 & f::PCID != 0, cr4::PCIDE)
            | when(ecx1 & f::XSAVE != 0, cr4::OSXSAVE)
            | when(ebx7 & f::FSGSBASE != 0, cr4::FSGSBASE)
            | when(ebx7 & f::SMEP != 0, cr4::SMEP)
            | when(ebx7 & f::SMAP != 0, cr4::SMAP)
            | when(ecx7 & f::UMIP != 0, cr4::UMIP)
    }
}

/// EBX, ECX, EDX of a leaf that holds a signature.
fn spelt(signature: &[u8; 12]) -> [u32; 3] {
    let (words, _) = signature.as_chunks::<4>();
    let word = |index: usize| words.get(index).copied().map_or(0, u32::from_le_bytes);
    [word(0), word(1), word(2)]
}

fn state_dependent_features([eax, ebx, mut ecx, mut edx]: Registers, dynamic: CpuidDynamic) -> Registers {
    if dynamic.osxsave {
        ecx |= f::OSXSAVE;
    }
    if !dynamic.apic_enabled {
        edx &= !f::APIC;
    }
    [eax, ebx, ecx, edx]
}

/// XCR0 as far as it is kept per vCPU: nothing without XSAVE, AVX only with what it builds on.
fn xcr0_allowed(real: &dyn Fn(u32, u32) -> Registers) -> u64 {
    if real(1, 0)[2] & f::XSAVE == 0 {
        return 0;
    }
    u64::from(real(0xd, 0)[0] & XCR0_SUPPORTED)
}
