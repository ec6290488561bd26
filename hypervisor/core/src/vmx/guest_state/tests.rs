use super::*;
use crate::vmx::capabilities::BOCHS_SKYLAKE_X;
use crate::x86::{SegmentState, Segments};
use alloc::collections::BTreeMap;
use alloc::string::ToString;
use proptest::prelude::*;

const ENTRY: EntryControls =
    EntryControls::LOAD_DEBUG_CONTROLS.union(EntryControls::LOAD_PAT).union(EntryControls::LOAD_EFER);

#[derive(Clone)]
struct Guest {
    fields: BTreeMap<GuestField, u64>,
    context: EntryContext,
}

impl Guest {
    fn new(cr0: u64, cr4: u64, entry: EntryControls, segments: &Segments) -> Self {
        let context = EntryContext {
            entry,
            unrestricted_guest: true,
            ept: true,
            virtual_nmis: true,
            interruption_info: 0,
            capabilities: BOCHS_SKYLAKE_X,
            physical_address_bits: 40,
        };
        let mut guest = Self { fields: BTreeMap::new(), context };
        let efer = if entry.contains(EntryControls::IA32E_MODE_GUEST) { 0xd01 } else { 0 };
        for (field, value) in [
            (GuestField::Cr0, cr0 | 0x20),
            (GuestField::Cr4, cr4 | 0x2000),
            (GuestField::Ia32Efer, efer),
            (GuestField::Ia32Pat, 0x0007_0406_0007_0406),
            (GuestField::Dr7, 0x400),
            (GuestField::Rflags, 2),
            (GuestField::VmcsLinkPointer, u64::MAX),
            (GuestField::GdtrLimit, 0xffff),
            (GuestField::IdtrLimit, 0xffff),
        ] {
            guest.fields.insert(field, value);
        }
        let Segments { es, cs, ss, ds, fs, gs, ldtr, tr } = *segments;
        // The fields of each group are in the same order: ES, CS, SS, DS, FS, GS, LDTR, TR; 2 apart.
        for (index, segment) in (0u32..).zip([es, cs, ss, ds, fs, gs, ldtr, tr]) {
            let SegmentState { selector, base, limit, access_rights } = segment;
            guest.set_encoded(0x800 + 2 * index, u64::from(selector));
            guest.set_encoded(0x4800 + 2 * index, u64::from(limit));
            guest.set_encoded(0x4814 + 2 * index, u64::from(access_rights));
            guest.set_encoded(0x6806 + 2 * index, base);
        }
        guest
    }

    fn real_mode() -> Self {
        let mut guest = Self::new(0, 0, ENTRY, &Segments::after_reset());
        guest.fields.insert(GuestField::Rip, 0xfff0);
        guest
    }

    fn protected_mode() -> Self {
        let tss = SegmentState::tss(0x28, 0x1000);
        let segments = Segments::new(SegmentState::code32(0x10), SegmentState::data32(0x18), tss);
        Self::new(1, 0, ENTRY, &segments)
    }

    fn long_mode() -> Self {
        let tss = SegmentState::tss(0x28, 0xffff_8000_0000_1000);
        let segments = Segments::new(SegmentState::code64(0x10), SegmentState::data32(0x18), tss);
        let mut guest = Self::new(0x8000_0001, 0x20, ENTRY | EntryControls::IA32E_MODE_GUEST, &segments);
        guest.fields.insert(GuestField::Rip, 0xffff_ffff_8100_0000);
        guest
    }

    fn virtual_8086() -> Self {
        let segment = |selector: u16| SegmentState {
            selector,
            base: u64::from(selector) << 4,
            limit: 0xffff,
            access_rights: 0xf3,
        };
        let tss = SegmentState::tss(0x28, 0x1000);
        let mut guest = Self::new(1, 0, ENTRY, &Segments::new(segment(0x7c0), segment(0x9000), tss));
        guest.fields.insert(GuestField::Rflags, 0x2_0002);
        guest
    }

    fn set_encoded(&mut self, encoding: u32, value: u64) {
        let field = GuestField::ALL.iter().find(|field| field.encoding() == encoding).unwrap();
        self.fields.insert(*field, value);
    }

    fn with(mut self, field: GuestField, value: u64) -> Self {
        self.fields.insert(field, value);
        self
    }

    fn injecting(mut self, kind: u32, vector: u32) -> Self {
        self.context.interruption_info = 1 << 31 | kind << 8 | vector;
        self
    }

    fn restricted(mut self) -> Self {
        self.context.unrestricted_guest = false;
        self
    }

    fn check(&self) -> Vec<BrokenRule> {
        check(&|field| self.fields.get(&field).copied().unwrap_or(0), &self.context)
    }

    /// Asserts that exactly one rule is broken: of this field, with these words in it.
    fn breaks(&self, field: GuestField, words: &str) {
        let broken = self.check();
        assert!(
            matches!(broken.as_slice(), [rule] if rule.field == field && rule.rule.contains(words)),
            "expected {field:?} \"{words}\", got {broken:#?}"
        );
    }
}

#[test]
fn good_states_break_nothing() {
    for (name, guest) in [
        ("real mode", Guest::real_mode()),
        ("protected mode", Guest::protected_mode()),
        ("64-bit mode", Guest::long_mode()),
        ("virtual-8086", Guest::virtual_8086()),
        ("HLT", Guest::protected_mode().with(GuestField::ActivityState, 1)),
        ("interrupt", Guest::protected_mode().with(GuestField::Rflags, 0x202).injecting(0, 0x20)),
        (
            "a sleeper woken",
            Guest::long_mode().with(GuestField::ActivityState, 1).with(GuestField::Rflags, 0x202).injecting(0, 0x20),
        ),
        ("RIP just past the canonical addresses", Guest::long_mode().with(GuestField::Rip, 0x8000_0000_0000)),
        (
            "single-stepping behind STI",
            Guest::protected_mode()
                .with(GuestField::Rflags, 0x302)
                .with(GuestField::InterruptibilityState, 1)
                .with(GuestField::PendingDebugExceptions, 1 << 14),
        ),
    ] {
        assert_eq!(guest.check(), [], "{name}");
    }
}

#[test]
fn a_rule_is_told_with_field_and_value() {
    let broken = Guest::real_mode().with(GuestField::Dr7, 1 << 40 | 0x400).check();
    assert_eq!(broken.len(), 1);
    assert_eq!(broken[0].to_string(), "Dr7 = 0x10000000400: bits 63:32 must be 0");
}

#[test]
fn control_registers_and_msrs() {
    let long = Guest::long_mode;
    let real = Guest::real_mode;
    real().with(GuestField::Cr0, 0).breaks(GuestField::Cr0, "IA32_VMX_CR0_FIXED0");
    real().with(GuestField::Cr0, 1 << 40 | 0x20).breaks(GuestField::Cr0, "IA32_VMX_CR0_FIXED1");
    real().with(GuestField::Cr0, 0x8000_0020).breaks(GuestField::Cr0, "bit 0 (PE) must be 1");
    real().with(GuestField::Cr4, 0).breaks(GuestField::Cr4, "IA32_VMX_CR4_FIXED0");
    real().with(GuestField::Cr4, 0x2000 | 1 << 30).breaks(GuestField::Cr4, "IA32_VMX_CR4_FIXED1");
    real().with(GuestField::Cr4, 0x2000 | 1 << 17).breaks(GuestField::Cr4, "PCIDE");
    long().with(GuestField::Cr4, 0x2000).breaks(GuestField::Cr4, "bit 5 (PAE)");
    long().with(GuestField::Cr0, 0x21).breaks(GuestField::Cr0, "bit 31 (PG)");
    long().with(GuestField::Cr3, 1 << 40).breaks(GuestField::Cr3, "physical-address width");
    long().with(GuestField::Ia32Efer, 0xd03).breaks(GuestField::Ia32Efer, "reserved");
    long().with(GuestField::Ia32Efer, 0xc01).breaks(GuestField::Ia32Efer, "LME");
    Guest::protected_mode().with(GuestField::Ia32Efer, 0x500).breaks(GuestField::Ia32Efer, "LMA");
    real().with(GuestField::Ia32Pat, 0x0007_0406_0007_0402).breaks(GuestField::Ia32Pat, "each byte");
    real().with(GuestField::Ia32Debugctl, 1 << 3).breaks(GuestField::Ia32Debugctl, "reserved");
    real().with(GuestField::Ia32SysenterEip, 1 << 47).breaks(GuestField::Ia32SysenterEip, "canonical");
}

#[test]
fn a_restricted_guest_has_more_rules() {
    let real = Guest::real_mode().restricted().check();
    assert!(real.iter().any(|rule| rule.field == GuestField::Cr0 && rule.rule.contains("FIXED0")), "{real:?}");
    let mut segments_of_ring_3 = Guest::protected_mode().restricted().with(GuestField::Cr0, 0x8000_0021);
    segments_of_ring_3.breaks_nothing();
    segments_of_ring_3 = segments_of_ring_3.with(GuestField::DsSelector, 0x1b);
    segments_of_ring_3.breaks(GuestField::DsAccessRights, "less than the RPL");
    Guest::protected_mode().with(GuestField::DsSelector, 0x1b).breaks_nothing();
}

impl Guest {
    fn breaks_nothing(&self) {
        assert_eq!(self.check(), []);
    }
}

#[test]
fn segment_registers() {
    let flat = Guest::protected_mode;
    let long = Guest::long_mode;
    flat().with(GuestField::CsAccessRights, 0xc09a).breaks(GuestField::CsAccessRights, "type");
    flat().with(GuestField::CsAccessRights, 0xc0fb).breaks(GuestField::CsAccessRights, "equal the DPL of SS");
    flat().with(GuestField::CsAccessRights, 0xc0ff).breaks(GuestField::CsAccessRights, "not be greater");
    flat().with(GuestField::CsAccessRights, 0xc0f3).breaks(GuestField::CsAccessRights, "CS of type 3");
    flat().with(GuestField::CsAccessRights, 0xc08b).breaks(GuestField::CsAccessRights, "bit 4 (S)");
    flat().with(GuestField::CsAccessRights, 0xc01b).breaks(GuestField::CsAccessRights, "bit 7 (P)");
    flat().with(GuestField::CsAccessRights, 0xc19b).breaks(GuestField::CsAccessRights, "bits 31:17 and 11:8");
    flat().with(GuestField::CsAccessRights, 0x409b).breaks(GuestField::CsAccessRights, "bit 15 (G) must be 1");
    flat().with(GuestField::DsLimit, 0xfffe).breaks(GuestField::DsAccessRights, "bit 15 (G) must be 0");
    long().with(GuestField::CsAccessRights, 0xe09b).breaks(GuestField::CsAccessRights, "bit 14 (D/B)");
    flat().with(GuestField::SsAccessRights, 0xc09b).breaks(GuestField::SsAccessRights, "3 or 7");
    Guest::real_mode().with(GuestField::SsAccessRights, 0xf3).breaks_both_cs_and_ss();
    flat().with(GuestField::EsAccessRights, 0xc092).breaks(GuestField::EsAccessRights, "accessed");
    flat().with(GuestField::FsAccessRights, 0xc099).breaks(GuestField::FsAccessRights, "readable");
    flat().with(GuestField::FsAccessRights, 1 << 16).breaks_nothing();
    flat().with(GuestField::DsBase, 1 << 32).breaks(GuestField::DsBase, "63:32");
    long().with(GuestField::GsBase, 1 << 63).breaks(GuestField::GsBase, "canonical");
    flat().with(GuestField::TrSelector, 0x2c).breaks(GuestField::TrSelector, "TI");
    flat().with(GuestField::TrAccessRights, 0x89).breaks(GuestField::TrAccessRights, "busy TSS");
    long().with(GuestField::TrAccessRights, 0x83).breaks(GuestField::TrAccessRights, "64-bit busy TSS");
    flat().with(GuestField::TrAccessRights, 0x9b).breaks(GuestField::TrAccessRights, "bit 4 (S)");
    flat().with(GuestField::TrAccessRights, 0x1_008b).breaks(GuestField::TrAccessRights, "unusable");
    flat().with(GuestField::LdtrAccessRights, 0x83).breaks(GuestField::LdtrAccessRights, "2 (LDT)");
    flat().with(GuestField::LdtrAccessRights, 0x82).breaks_nothing();
    flat().with(GuestField::GdtrLimit, 0x1_0000).breaks(GuestField::GdtrLimit, "31:16");
    long().with(GuestField::IdtrBase, 1 << 50).breaks(GuestField::IdtrBase, "canonical");
    Guest::virtual_8086().with(GuestField::DsAccessRights, 0x93).breaks(GuestField::DsAccessRights, "000000F3H");
    Guest::virtual_8086().with(GuestField::CsBase, 0).breaks(GuestField::CsBase, "selector times 16");
    Guest::virtual_8086().with(GuestField::SsLimit, u64::from(u32::MAX)).breaks(GuestField::SsLimit, "0000FFFFH");
}

impl Guest {
    /// In real mode SS of DPL 3 is wrong by itself, and no longer goes with CS.
    fn breaks_both_cs_and_ss(&self) {
        let fields: Vec<_> = self.check().iter().map(|rule| rule.field).collect();
        assert_eq!(fields, [GuestField::CsAccessRights, GuestField::SsAccessRights]);
    }
}

#[test]
fn rip_rflags_and_non_register_state() {
    let flat = Guest::protected_mode;
    flat().with(GuestField::Rip, 1 << 32).breaks(GuestField::Rip, "63:32");
    Guest::long_mode().with(GuestField::Rip, 1 << 48).breaks(GuestField::Rip, "identical");
    flat().with(GuestField::Rflags, 0).breaks(GuestField::Rflags, "bit 1 must be 1");
    flat().with(GuestField::Rflags, 2 | 1 << 15).breaks(GuestField::Rflags, "15, 5 and 3");
    flat().injecting(0, 0x20).breaks(GuestField::Rflags, "IF");
    flat().with(GuestField::ActivityState, 4).breaks(GuestField::ActivityState, "IA32_VMX_MISC");
    let mut nested = flat().with(GuestField::ActivityState, 3);
    nested.breaks_nothing();
    nested.context.capabilities.misc &= !(1 << 8);
    nested.breaks(GuestField::ActivityState, "IA32_VMX_MISC");
    flat().with(GuestField::ActivityState, 2).injecting(3, 14).breaks(GuestField::ActivityState, "blocked");
    flat().with(GuestField::ActivityState, 1).injecting(3, 14).breaks(GuestField::ActivityState, "blocked");
    let interrupts_on = || flat().with(GuestField::Rflags, 0x202);
    interrupts_on().with(GuestField::InterruptibilityState, 3).breaks(GuestField::InterruptibilityState, "not both");
    flat().with(GuestField::InterruptibilityState, 1).breaks(GuestField::InterruptibilityState, "RFLAGS.IF is 0");
    flat().with(GuestField::InterruptibilityState, 4).breaks(GuestField::InterruptibilityState, "SMI");
    flat().with(GuestField::InterruptibilityState, 32).breaks(GuestField::InterruptibilityState, "31:4");
    interrupts_on()
        .with(GuestField::InterruptibilityState, 2)
        .injecting(0, 0x20)
        .breaks(GuestField::InterruptibilityState, "external interrupt");
    flat().with(GuestField::InterruptibilityState, 8).injecting(2, 2).breaks(GuestField::InterruptibilityState, "NMI");
    interrupts_on()
        .with(GuestField::InterruptibilityState, 1)
        .with(GuestField::ActivityState, 1)
        .breaks(GuestField::ActivityState, "blocking");
    flat().with(GuestField::PendingDebugExceptions, 1 << 5).breaks(GuestField::PendingDebugExceptions, "11:4");
    flat()
        .with(GuestField::InterruptibilityState, 2)
        .with(GuestField::PendingDebugExceptions, 1 << 14)
        .breaks(GuestField::PendingDebugExceptions, "BS");
    flat().with(GuestField::PendingDebugExceptions, 1 << 16).breaks(GuestField::PendingDebugExceptions, "RTM");
    flat().with(GuestField::VmcsLinkPointer, 0x123).breaks(GuestField::VmcsLinkPointer, "FFFFFFFF");
}

#[test]
fn pdptes_count_with_pae_paging_only() {
    let reserved = 0x1003;
    let pae = Guest::protected_mode().with(GuestField::Cr0, 0x8000_0021).with(GuestField::Cr4, 0x2020);
    pae.clone().with(GuestField::Pdpte2, reserved).breaks(GuestField::Pdpte2, "PDPTE");
    pae.clone().with(GuestField::Pdpte2, reserved & !1).breaks_nothing();
    pae.with(GuestField::Cr4, 0x2000).with(GuestField::Pdpte2, reserved).breaks_nothing();
    Guest::long_mode().with(GuestField::Pdpte2, reserved).breaks_nothing();
}

proptest! {
    /// Whatever is in the fields, the check ends with a list.
    #[test]
    fn junk_is_checked(values in prop::collection::vec(any::<u64>(), GuestField::ALL.len()), entry in any::<u32>(), info in any::<u32>()) {
        let mut guest = Guest::real_mode();
        for (field, value) in GuestField::ALL.iter().zip(values) {
            guest.fields.insert(*field, value);
        }
        guest.context.entry = EntryControls::from_bits_retain(entry);
        guest.context.interruption_info = info;
        for rule in guest.check() {
            prop_assert_eq!(rule.value, guest.fields[&rule.field]);
        }
    }
}
