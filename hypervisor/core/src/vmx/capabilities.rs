//! What the CPU's VMX can do, from its capability MSRs.
//!
//! Source: Intel SDM volume 3, appendix "VMX Capability Reporting Facility". [`Capabilities`] is plain data, read once
//! (the hardware layer hands in RDMSR); [`super::controls`] and [`super::refusal`] decide upon it.

use crate::ept::EptFeatures;

/// The 32 controls of one VMX control field, and the settings that the CPU allows: bits 31:0 of the capability MSR are
/// the "allowed 0-settings" (a bit that is 1 must be 1), bits 63:32 the "allowed 1-settings" (a bit that is 0 must be 0).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct AllowedSettings(pub u64);

impl AllowedSettings {
    /// The controls that cannot be 0.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
    pub const fn must_be_one(self) -> u32 {
        self.0 as u32
    }

    /// The controls that can be 1.
    #[must_use]
    pub const fn may_be_one(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// The values of the VMX capability MSRs. A MSR that the CPU does not have counts as 0.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Capabilities {
    /// `IA32_VMX_BASIC`.
    pub basic: u64,
    /// `IA32_VMX_TRUE_PINBASED_CTLS`, or `IA32_VMX_PINBASED_CTLS` on a CPU without the "true" MSRs.
    pub pin_based: AllowedSettings,
    /// `IA32_VMX_TRUE_PROCBASED_CTLS`, or `IA32_VMX_PROCBASED_CTLS`.
    pub primary_proc_based: AllowedSettings,
    /// `IA32_VMX_PROCBASED_CTLS2`.
    pub secondary_proc_based: AllowedSettings,
    /// `IA32_VMX_PROCBASED_CTLS3`: all 64 bits are allowed 1-settings.
    pub tertiary_proc_based: u64,
    /// `IA32_VMX_TRUE_EXIT_CTLS`, or `IA32_VMX_EXIT_CTLS`.
    pub exit: AllowedSettings,
    /// `IA32_VMX_TRUE_ENTRY_CTLS`, or `IA32_VMX_ENTRY_CTLS`.
    pub entry: AllowedSettings,
    /// `IA32_VMX_MISC`.
    pub misc: u64,
    /// `IA32_VMX_CR0_FIXED0`: bits that must be 1 in VMX operation.
    pub cr0_fixed0: u64,
    /// `IA32_VMX_CR0_FIXED1`: bits that may be 1.
    pub cr0_fixed1: u64,
    /// `IA32_VMX_CR4_FIXED0`: bits that must be 1.
    pub cr4_fixed0: u64,
    /// `IA32_VMX_CR4_FIXED1`: bits that may be 1.
    pub cr4_fixed1: u64,
    /// `IA32_VMX_EPT_VPID_CAP`.
    pub ept_vpid: u64,
    /// `IA32_VMX_VMFUNC`.
    pub vmfunc: u64,
}

/// `CR0.PE` and `CR0.PG`, which an unrestricted guest may clear.
const CR0_PE_PG: u64 = 1 | 1 << 31;
/// `CR0.NW` and `CR0.CD`, which VM entry never checks: they are not fixed, whatever the MSRs say.
const CR0_NW_CD: u64 = 1 << 29 | 1 << 30;

const IA32_VMX_BASIC: u32 = 0x480;
const IA32_VMX_PINBASED_CTLS: u32 = 0x481;
const IA32_VMX_MISC: u32 = 0x485;
const IA32_VMX_CR0_FIXED0: u32 = 0x486;
const IA32_VMX_CR0_FIXED1: u32 = 0x487;
const IA32_VMX_CR4_FIXED0: u32 = 0x488;
const IA32_VMX_CR4_FIXED1: u32 = 0x489;
const IA32_VMX_PROCBASED_CTLS2: u32 = 0x48b;
const IA32_VMX_EPT_VPID_CAP: u32 = 0x48c;
const IA32_VMX_TRUE_PINBASED_CTLS: u32 = 0x48d;
const IA32_VMX_VMFUNC: u32 = 0x491;
const IA32_VMX_PROCBASED_CTLS3: u32 = 0x492;

impl Capabilities {
    /// Reads the capabilities of a CPU that has VMX, and no MSR that does not exist on it. `rdmsr` reads an MSR.
    pub fn read(mut rdmsr: impl FnMut(u32) -> u64) -> Self {
        let basic = rdmsr(IA32_VMX_BASIC);
        // Four MSRs in a row, in both places: pin-based, processor-based, exit, entry.
        let first = if basic & 1 << 55 != 0 { IA32_VMX_TRUE_PINBASED_CTLS } else { IA32_VMX_PINBASED_CTLS };
        let mut capabilities = Self {
            basic,
            pin_based: AllowedSettings(rdmsr(first)),
            primary_proc_based: AllowedSettings(rdmsr(first + 1)),
            exit: AllowedSettings(rdmsr(first + 2)),
            entry: AllowedSettings(rdmsr(first + 3)),
            misc: rdmsr(IA32_VMX_MISC),
            cr0_fixed0: rdmsr(IA32_VMX_CR0_FIXED0),
            cr0_fixed1: rdmsr(IA32_VMX_CR0_FIXED1),
            cr4_fixed0: rdmsr(IA32_VMX_CR4_FIXED0),
            cr4_fixed1: rdmsr(IA32_VMX_CR4_FIXED1),
            ..Self::default()
        };
        let primary = capabilities.primary_proc_based.may_be_one();
        if primary & 1 << 31 != 0 {
            capabilities.secondary_proc_based = AllowedSettings(rdmsr(IA32_VMX_PROCBASED_CTLS2));
        }
        if primary & 1 << 17 != 0 {
            capabilities.tertiary_proc_based = rdmsr(IA32_VMX_PROCBASED_CTLS3);
        }
        let secondary = capabilities.secondary_proc_based.may_be_one();
        if secondary & (1 << 1 | 1 << 5) != 0 {
            capabilities.ept_vpid = rdmsr(IA32_VMX_EPT_VPID_CAP);
        }
        if secondary & 1 << 13 != 0 {
            capabilities.vmfunc = rdmsr(IA32_VMX_VMFUNC);
        }
        capabilities
    }

    /// In what this CPU's VMX differs from `other`'s so that a VMCS made for one would not do on the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let pairs = [
            ("IA32_VMX_BASIC", self.basic, other.basic),
            ("the pin-based VM-execution controls", self.pin_based.0, other.pin_based.0),
            ("the primary VM-execution controls", self.primary_proc_based.0, other.primary_proc_based.0),
            ("the secondary VM-execution controls", self.secondary_proc_based.0, other.secondary_proc_based.0),
            ("the VM-exit controls", self.exit.0, other.exit.0),
            ("the VM-entry controls", self.entry.0, other.entry.0),
            ("IA32_VMX_MISC", self.misc, other.misc),
            ("IA32_VMX_CR0_FIXED0", self.cr0_fixed0, other.cr0_fixed0),
            ("IA32_VMX_CR0_FIXED1", self.cr0_fixed1, other.cr0_fixed1),
            ("IA32_VMX_CR4_FIXED0", self.cr4_fixed0, other.cr4_fixed0),
            ("IA32_VMX_CR4_FIXED1", self.cr4_fixed1, other.cr4_fixed1),
            ("IA32_VMX_EPT_VPID_CAP", self.ept_vpid, other.ept_vpid),
        ];
        pairs.into_iter().find(|(_, mine, others)| mine != others).map(|(name, ..)| name)
    }

    /// The VMCS revision identifier, which goes into the first 4 bytes of a VMXON region and a VMCS.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bits 30:0 are what is wanted")]
    pub const fn revision_id(&self) -> u32 {
        self.basic as u32 & 0x7fff_ffff
    }

    /// How many bytes to allocate for a VMXON region and a VMCS: at most 4096.
    #[must_use]
    pub const fn vmcs_len_bytes(&self) -> u64 {
        self.basic >> 32 & 0x1fff
    }

    /// The memory type to access a VMCS with, numbered as in the PAT: 6 (WB) on every CPU there is.
    #[must_use]
    pub const fn vmcs_memory_type(&self) -> u64 {
        self.basic >> 50 & 0xf
    }

    /// Whether the CPU has the "true" control MSRs (and so can clear every control we want clear).
    #[must_use]
    pub const fn has_true_controls(&self) -> bool {
        self.basic & 1 << 55 != 0
    }

    /// The VMX-preemption timer counts down by 1 each time bit X of the TSC changes: this is X.
    #[must_use]
    pub const fn preemption_timer_rate(&self) -> u32 {
        (self.misc & 0x1f) as u32
    }

    /// The count that makes the VMX-preemption timer run for at least `tsc_ticks`, as near as it can.
    #[must_use]
    pub fn preemption_timer_count(&self, tsc_ticks: u64) -> u32 {
        let rate = self.preemption_timer_rate();
        let rounded_up = (tsc_ticks >> rate).saturating_add(u64::from(tsc_ticks & ((1 << rate) - 1) != 0));
        u32::try_from(rounded_up).unwrap_or(u32::MAX)
    }

    /// Whether a VM entry can enter the HLT activity state.
    #[must_use]
    pub const fn has_hlt_activity(&self) -> bool {
        self.misc & 1 << 6 != 0
    }

    /// Whether a VM entry can enter the shutdown activity state.
    #[must_use]
    pub const fn has_shutdown_activity(&self) -> bool {
        self.misc & 1 << 7 != 0
    }

    /// Whether a VM entry can enter the wait-for-SIPI activity state. Nested KVM offers none.
    #[must_use]
    pub const fn has_wait_for_sipi_activity(&self) -> bool {
        self.misc & 1 << 8 != 0
    }

    /// Which CR0 to run the hypervisor with, for this CR0 wanted.
    #[must_use]
    pub const fn fix_cr0(&self, wanted: u64) -> u64 {
        (wanted | self.cr0_fixed0) & self.cr0_fixed1
    }

    /// Which CR4 to run with, for this CR4 wanted. `CR4.VMXE` is among the fixed bits, in a guest too.
    #[must_use]
    pub const fn fix_cr4(&self, wanted: u64) -> u64 {
        (wanted | self.cr4_fixed0) & self.cr4_fixed1
    }

    /// The CR0 bits that must be 1 in an unrestricted guest: `CR0.NE`, on every CPU there is.
    #[must_use]
    pub const fn guest_cr0_ones(&self) -> u64 {
        self.cr0_fixed0 & !CR0_PE_PG & !CR0_NW_CD
    }

    /// The CR0 bits that must be 0 in a guest.
    #[must_use]
    pub const fn guest_cr0_zeros(&self) -> u64 {
        !self.cr0_fixed1 & !CR0_NW_CD
    }

    /// What the EPT can do.
    #[must_use]
    pub const fn ept_features(&self) -> EptFeatures {
        EptFeatures {
            pages_2m: self.ept_vpid & 1 << 16 != 0,
            pages_1g: self.ept_vpid & 1 << 17 != 0,
            accessed_dirty: self.ept_vpid & 1 << 21 != 0,
        }
    }

    /// Whether the EPT can have four levels.
    #[must_use]
    pub const fn ept_walk_length_4(&self) -> bool {
        self.ept_vpid & 1 << 6 != 0
    }

    /// Whether EPT paging structures can be in WB memory.
    #[must_use]
    pub const fn ept_write_back(&self) -> bool {
        self.ept_vpid & 1 << 14 != 0
    }

    /// Whether INVEPT is there, with the single-context type.
    #[must_use]
    pub const fn invept_single_context(&self) -> bool {
        let bits = 1 << 20 | 1 << 25;
        self.ept_vpid & bits == bits
    }

    /// Whether INVEPT is there, with the all-context type.
    #[must_use]
    pub const fn invept_all_context(&self) -> bool {
        let bits = 1 << 20 | 1 << 26;
        self.ept_vpid & bits == bits
    }

    /// Whether INVVPID is there, with the individual-address type.
    #[must_use]
    pub const fn invvpid_individual_address(&self) -> bool {
        let bits = 1 << 32 | 1 << 40;
        self.ept_vpid & bits == bits
    }

    /// Whether INVVPID is there, with the single-context type.
    #[must_use]
    pub const fn invvpid_single_context(&self) -> bool {
        let bits = 1 << 32 | 1 << 41;
        self.ept_vpid & bits == bits
    }

    /// Whether INVVPID is there, with the all-context type.
    #[must_use]
    pub const fn invvpid_all_context(&self) -> bool {
        let bits = 1 << 32 | 1 << 42;
        self.ept_vpid & bits == bits
    }
}

/// A CPU with all that Lamina can use, and no more: pin-based, secondary and EPT capabilities as Bochs 2.7 reports them for
/// `corei7_skylake_x`. For tests of whatever takes [`Capabilities`].
#[cfg(test)]
pub(crate) const BOCHS_SKYLAKE_X: Capabilities = Capabilities {
    basic: 0x00d8_1000_0000_002b,
    pin_based: AllowedSettings(0x0000_007f_0000_0016),
    primary_proc_based: AllowedSettings(0xf7f9_fffe_0400_6172),
    secondary_proc_based: AllowedSettings(0x0217_7fff_0000_0000),
    tertiary_proc_based: 0,
    exit: AllowedSettings(0x007f_ffff_0003_6dfb),
    entry: AllowedSettings(0x0000_ffff_0000_11fb),
    misc: 0x0000_0000_2004_01e0,
    cr0_fixed0: 0x8000_0021,
    cr0_fixed1: 0xffff_ffff,
    cr4_fixed0: 0x2000,
    cr4_fixed1: 0x0037_27ff,
    ept_vpid: 0x0000_0f01_0633_4141,
    vmfunc: 1,
};

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn msrs_that_do_not_exist_are_not_read() {
        let mut read = Vec::new();
        let old = Capabilities::read(|msr| {
            read.push(msr);
            0
        });
        assert_eq!(old, Capabilities::default());
        assert!(read.iter().all(|msr| (0x480..=0x489).contains(msr)), "{read:x?}");

        let mut read = Vec::new();
        let new = Capabilities::read(|msr| {
            read.push(msr);
            u64::MAX
        });
        assert_eq!(new.vmfunc, u64::MAX);
        for msr in [0x48b, 0x48c, 0x48d, 0x48e, 0x48f, 0x490, 0x491, 0x492] {
            assert!(read.contains(&msr), "{msr:#x}");
        }
        assert!(!read.contains(&0x481), "the true MSR takes the place of the old one");
    }

    #[test]
    fn a_cpu_that_differs_is_found_by_what_differs() {
        let mut other = BOCHS_SKYLAKE_X;
        assert_eq!(BOCHS_SKYLAKE_X.difference(&other), None);
        other.vmfunc ^= 1;
        assert_eq!(BOCHS_SKYLAKE_X.difference(&other), None, "VM functions are not used");
        other.ept_vpid ^= 1 << 20;
        assert_eq!(BOCHS_SKYLAKE_X.difference(&other), Some("IA32_VMX_EPT_VPID_CAP"));
        other.basic ^= 1;
        assert_eq!(BOCHS_SKYLAKE_X.difference(&other), Some("IA32_VMX_BASIC"));
    }

    #[test]
    fn fields_are_where_the_manual_puts_them() {
        let capabilities = BOCHS_SKYLAKE_X;
        assert_eq!(capabilities.revision_id(), 0x2b);
        assert_eq!(capabilities.vmcs_len_bytes(), 4096);
        assert_eq!(capabilities.vmcs_memory_type(), 6);
        assert!(capabilities.has_true_controls());
        assert_eq!(capabilities.ept_features(), EptFeatures { pages_2m: true, pages_1g: true, accessed_dirty: true });
        assert!(capabilities.invvpid_single_context() && capabilities.invept_single_context());
        assert_eq!(capabilities.guest_cr0_ones(), 0x20, "CR0.NE alone");
        assert_eq!(capabilities.guest_cr0_zeros(), 0xffff_ffff_0000_0000);
        assert_eq!(capabilities.fix_cr4(0x20), 0x2020);
    }

    #[test]
    fn the_preemption_timer_never_runs_short() {
        let with_rate = |rate| Capabilities { misc: rate, ..Capabilities::default() };
        assert_eq!(with_rate(0).preemption_timer_count(1000), 1000);
        assert_eq!(with_rate(5).preemption_timer_count(64), 2);
        assert_eq!(with_rate(5).preemption_timer_count(65), 3);
        assert_eq!(with_rate(31).preemption_timer_count(1), 1);
        assert_eq!(with_rate(0).preemption_timer_count(u64::MAX), u32::MAX);
    }
}
