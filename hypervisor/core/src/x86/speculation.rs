//! What is done against speculative execution, which can let a guest learn of data that it cannot read.
//!
//! [`Speculation::decide`] takes what the CPU reports and what the operator wants, and says of each [`Mitigation`] whether it is
//! on and why. The rules are those of Intel's "Speculative Execution Side Channel Mitigations" and of the pages on each issue in
//! Intel's "Software Security Guidance": a CPU that says nothing of an issue is taken to be affected by it.

use core::fmt;

/// CPUID.(EAX=07H, ECX=0):EDX.
mod structured {
    /// VERW overwrites CPU buffers.
    pub(super) const MD_CLEAR: u32 = 1 << 10;
    /// IA32_SPEC_CTRL.IBRS and IA32_PRED_CMD.IBPB.
    pub(super) const IBRS_IBPB: u32 = 1 << 26;
    /// IA32_SPEC_CTRL.STIBP.
    pub(super) const STIBP: u32 = 1 << 27;
    /// IA32_FLUSH_CMD.L1D_FLUSH.
    pub(super) const L1D_FLUSH: u32 = 1 << 28;
    /// IA32_ARCH_CAPABILITIES.
    pub(super) const ARCH_CAPABILITIES: u32 = 1 << 29;
}

/// CPUID.(EAX=07H, ECX=0):EBX: transactional memory.
const RTM: u32 = 1 << 11;

/// IA32_ARCH_CAPABILITIES.
mod capabilities {
    pub(super) const RDCL_NO: u64 = 1 << 0;
    pub(super) const IBRS_ALL: u64 = 1 << 1;
    pub(super) const SKIP_L1DFL_VMENTRY: u64 = 1 << 3;
    pub(super) const MDS_NO: u64 = 1 << 5;
    pub(super) const IF_PSCHANGE_MC_NO: u64 = 1 << 6;
    pub(super) const TAA_NO: u64 = 1 << 8;
    /// SBDR_SSDP_NO, FBSDP_NO and PSDP_NO: nothing stale from memory-mapped I/O.
    pub(super) const MMIO_STALE_DATA_NO: u64 = 0b111 << 13;
    pub(super) const FB_CLEAR: u64 = 1 << 17;
    pub(super) const PBRSB_NO: u64 = 1 << 24;
}

/// IA32_SPEC_CTRL.
mod spec_ctrl {
    pub(super) const IBRS: u64 = 1 << 0;
    pub(super) const STIBP: u64 = 1 << 1;
}

/// What a CPU reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpeculationFacts {
    /// CPUID.(EAX=07H, ECX=0):EBX and EDX.
    pub structured_ebx: u32,
    /// See [`Self::structured_ebx`].
    pub structured_edx: u32,
    /// IA32_ARCH_CAPABILITIES; 0 where there is none.
    pub arch_capabilities: u64,
    /// Threads share a core (CPUID.0BH has more than one at the SMT level).
    pub smt: bool,
}

impl SpeculationFacts {
    /// Whether IA32_ARCH_CAPABILITIES can be read, by CPUID.(EAX=07H, ECX=0):EDX.
    #[must_use]
    pub const fn has_arch_capabilities(structured_edx: u32) -> bool {
        structured_edx & structured::ARCH_CAPABILITIES != 0
    }

    const fn says(&self, capability: u64) -> bool {
        self.arch_capabilities & capability == capability
    }

    const fn has(&self, feature: u32) -> bool {
        self.structured_edx & feature != 0
    }

    /// Why the mitigation is of use here and can be done, or not.
    fn verdict(&self, mitigation: Mitigation) -> (Verdict, &'static str) {
        use Verdict::{NotNeeded, On, Unavailable};
        match mitigation {
            Mitigation::Ibrs if !self.has(structured::IBRS_IBPB) => (Unavailable, "the CPU has no IBRS"),
            Mitigation::Ibrs if self.says(capabilities::IBRS_ALL) => (On, "enhanced IBRS: set once"),
            Mitigation::Ibrs => (On, "set anew after each VM exit: the CPU has no enhanced IBRS"),
            Mitigation::Ibpb if !self.has(structured::IBRS_IBPB) => (Unavailable, "the CPU has no IBPB"),
            Mitigation::Ibpb => (On, "a barrier when a CPU goes from one VM to another"),
            Mitigation::Stibp if !self.smt => (NotNeeded, "no threads share a core"),
            Mitigation::Stibp if !self.has(structured::STIBP) => (Unavailable, "the CPU has no STIBP"),
            Mitigation::Stibp => (On, "threads share a core, and with it branch predictors"),
            Mitigation::RsbFill if self.says(capabilities::IBRS_ALL | capabilities::PBRSB_NO) => {
                (NotNeeded, "enhanced IBRS, and PBRSB_NO")
            }
            Mitigation::RsbFill => (On, "return predictions of the guest's are overwritten after each VM exit"),
            Mitigation::L1dFlush if self.says(capabilities::RDCL_NO) => (NotNeeded, "RDCL_NO: no L1 terminal fault"),
            Mitigation::L1dFlush if self.says(capabilities::SKIP_L1DFL_VMENTRY) => (NotNeeded, "SKIP_L1DFL_VMENTRY"),
            Mitigation::L1dFlush if !self.has(structured::L1D_FLUSH) => (Unavailable, "the CPU has no L1D_FLUSH"),
            Mitigation::L1dFlush => (On, "the L1 data cache is flushed before a vCPU's turn"),
            Mitigation::Verw if !self.has_stale_buffers() => (NotNeeded, "MDS_NO, no TAA, no stale data from MMIO"),
            Mitigation::Verw if !self.has(structured::MD_CLEAR) && !self.says(capabilities::FB_CLEAR) => {
                (Unavailable, "VERW overwrites no buffers: the CPU reports neither MD_CLEAR nor FB_CLEAR")
            }
            Mitigation::Verw => (On, "buffers are overwritten before each VM entry"),
            Mitigation::NxHugePages if self.says(capabilities::IF_PSCHANGE_MC_NO) => (NotNeeded, "IF_PSCHANGE_MC_NO"),
            Mitigation::NxHugePages => (On, "a guest executes from 4 KiB pages only"),
        }
    }

    const fn has_stale_buffers(&self) -> bool {
        let taa = self.structured_ebx & RTM != 0 && !self.says(capabilities::TAA_NO);
        let mmio = !self.says(capabilities::MMIO_STALE_DATA_NO) && self.says(capabilities::FB_CLEAR);
        !self.says(capabilities::MDS_NO) || taa || mmio
    }
}

/// Something that is done against speculative execution.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mitigation {
    /// Indirect branches of the hypervisor's are not predicted by what a guest did.
    Ibrs,
    /// Indirect branches of one guest are not predicted by what another one did.
    Ibpb,
    /// Nor by what the other thread of the core does.
    Stibp,
    /// Returns of the hypervisor's are not predicted by what a guest did.
    RsbFill,
    /// A guest finds nothing of others' in the L1 data cache (L1 terminal fault).
    L1dFlush,
    /// Nor in the CPU's buffers (microarchitectural data sampling, TAA, MMIO stale data).
    Verw,
    /// A guest cannot stop the machine by changing the size of a page that it executes from (a machine check on page size
    /// change, the "ITLB multihit" erratum).
    NxHugePages,
}

impl Mitigation {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Ibrs, Self::Ibpb, Self::Stibp, Self::RsbFill, Self::L1dFlush, Self::Verw, Self::NxHugePages];

    /// Its name, in the configuration and on the console.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ibrs => "ibrs",
            Self::Ibpb => "ibpb",
            Self::Stibp => "stibp",
            Self::RsbFill => "rsb-fill",
            Self::L1dFlush => "l1d-flush",
            Self::Verw => "verw",
            Self::NxHugePages => "nx-huge-pages",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mitigation| mitigation.name() == name)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Some mitigations.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Mitigations(u8);

impl Mitigations {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// All of them.
    pub const ALL: Self = Self((1 << Mitigation::ALL.len()) - 1);

    /// Adds one.
    pub fn insert(&mut self, mitigation: Mitigation) {
        self.0 |= mitigation.bit();
    }

    /// Whether it is among them.
    #[must_use]
    pub const fn contains(self, mitigation: Mitigation) -> bool {
        self.0 & mitigation.bit() != 0
    }

    /// Those among them.
    pub fn iter(self) -> impl Iterator<Item = Mitigation> {
        Mitigation::ALL.into_iter().filter(move |mitigation| self.contains(*mitigation))
    }
}

/// Whether a mitigation is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is.
    On,
    /// The operator does without.
    SwitchedOff,
    /// The CPU says that it is not affected.
    NotNeeded,
    /// The CPU cannot do it, and does not say that it is not affected: it is vulnerable. Newer microcode may help.
    Unavailable,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::SwitchedOff => "off",
            Self::NotNeeded => "not needed",
            Self::Unavailable => "unavailable",
        })
    }
}

/// What is done on a CPU, and what registers are set to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Speculation {
    facts: SpeculationFacts,
    off: Mitigations,
}

impl Speculation {
    /// Decides for a CPU; `off` is what the operator does without.
    #[must_use]
    pub const fn decide(facts: SpeculationFacts, off: Mitigations) -> Self {
        Self { facts, off }
    }

    /// Whether a mitigation is on, and why.
    #[must_use]
    pub fn verdict(&self, mitigation: Mitigation) -> (Verdict, &'static str) {
        match self.facts.verdict(mitigation) {
            (Verdict::On, _) if self.off.contains(mitigation) => (Verdict::SwitchedOff, "by the configuration"),
            verdict => verdict,
        }
    }

    /// Whether it is on.
    #[must_use]
    pub fn is_on(&self, mitigation: Mitigation) -> bool {
        self.verdict(mitigation).0 == Verdict::On
    }

    /// What IA32_SPEC_CTRL holds while the hypervisor runs, and its guests, who have none of their own.
    #[must_use]
    pub fn spec_ctrl(&self) -> u64 {
        let ibrs = if self.is_on(Mitigation::Ibrs) { spec_ctrl::IBRS } else { 0 };
        let stibp = if self.is_on(Mitigation::Stibp) { spec_ctrl::STIBP } else { 0 };
        ibrs | stibp
    }

    /// Whether IA32_SPEC_CTRL is to be written after each VM exit: "software should write 1 to IA32_SPEC_CTRL.IBRS after a
    /// transition to a more privileged predictor mode", unless the CPU has enhanced IBRS.
    #[must_use]
    pub fn rewrites_spec_ctrl(&self) -> bool {
        self.is_on(Mitigation::Ibrs) && !self.facts.says(capabilities::IBRS_ALL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_FEATURES: u32 = structured::MD_CLEAR
        | structured::IBRS_IBPB
        | structured::STIBP
        | structured::L1D_FLUSH
        | structured::ARCH_CAPABILITIES;

    fn verdicts(facts: SpeculationFacts, off: Mitigations) -> [Verdict; 7] {
        let plan = Speculation::decide(facts, off);
        Mitigation::ALL.map(|mitigation| plan.verdict(mitigation).0)
    }

    #[test]
    fn a_cpu_that_says_nothing_is_affected_by_everything() {
        use Verdict::{NotNeeded, On, Unavailable};
        let facts = SpeculationFacts::default();
        let expected = [Unavailable, Unavailable, NotNeeded, On, Unavailable, Unavailable, On];
        assert_eq!(verdicts(facts, Mitigations::NONE), expected);
        assert_eq!(Speculation::decide(facts, Mitigations::NONE).spec_ctrl(), 0);
    }

    /// As a Skylake server with microcode of 2018.
    #[test]
    fn an_affected_cpu_with_the_means_uses_them_all() {
        let facts = SpeculationFacts { structured_edx: ALL_FEATURES, smt: true, ..SpeculationFacts::default() };
        assert_eq!(verdicts(facts, Mitigations::NONE), [Verdict::On; 7]);
        let plan = Speculation::decide(facts, Mitigations::NONE);
        assert_eq!((plan.spec_ctrl(), plan.rewrites_spec_ctrl()), (0b11, true));
        assert_eq!(verdicts(facts, Mitigations::ALL), [Verdict::SwitchedOff; 7]);
        let plan = Speculation::decide(facts, Mitigations::ALL);
        assert_eq!((plan.spec_ctrl(), plan.rewrites_spec_ctrl()), (0, false));
    }

    /// As an Emerald Rapids.
    #[test]
    fn a_cpu_that_is_not_affected_needs_little() {
        use Verdict::{NotNeeded, On};
        let capabilities = capabilities::RDCL_NO
            | capabilities::IBRS_ALL
            | capabilities::MDS_NO
            | capabilities::IF_PSCHANGE_MC_NO
            | capabilities::TAA_NO
            | capabilities::MMIO_STALE_DATA_NO
            | capabilities::PBRSB_NO;
        let facts = SpeculationFacts {
            structured_ebx: RTM,
            structured_edx: ALL_FEATURES,
            arch_capabilities: capabilities,
            smt: false,
        };
        assert_eq!(verdicts(facts, Mitigations::NONE), [On, On, NotNeeded, NotNeeded, NotNeeded, NotNeeded, NotNeeded]);
        assert!(!Speculation::decide(facts, Mitigations::NONE).rewrites_spec_ctrl());
    }

    /// Each of the three issues that VERW is for is enough, and each is told by a bit of its own.
    #[test]
    fn stale_buffers_have_three_causes() {
        let clean =
            capabilities::MDS_NO | capabilities::TAA_NO | capabilities::MMIO_STALE_DATA_NO | capabilities::FB_CLEAR;
        let facts = |arch_capabilities| SpeculationFacts {
            structured_ebx: RTM,
            structured_edx: ALL_FEATURES,
            arch_capabilities,
            smt: false,
        };
        let verw = |facts| Speculation::decide(facts, Mitigations::NONE).verdict(Mitigation::Verw).0;
        assert_eq!(verw(facts(clean)), Verdict::NotNeeded);
        for missing in [capabilities::MDS_NO, capabilities::TAA_NO, 1 << 13, 1 << 14, 1 << 15] {
            assert_eq!(verw(facts(clean & !missing)), Verdict::On, "{missing:#x}");
        }
        let without_tsx = SpeculationFacts { structured_ebx: 0, ..facts(clean & !capabilities::TAA_NO) };
        assert_eq!(verw(without_tsx), Verdict::NotNeeded);
    }

    #[test]
    fn names_lead_back() {
        for mitigation in Mitigation::ALL {
            assert_eq!(Mitigation::from_name(mitigation.name()), Some(mitigation));
        }
        assert_eq!(Mitigation::from_name("spectre"), None);
        assert_eq!(Mitigations::ALL.iter().count(), Mitigation::ALL.len());
    }
}
