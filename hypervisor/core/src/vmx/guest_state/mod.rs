//! What a VM entry checks about the guest, in software: why an entry ended with exit reason 33, in words.
//!
//! Source: Intel SDM volume 3, "Checks on the Guest State Area". The CPU says only that a rule is broken; [`check`] goes
//! through all of them and names each broken one with the field and its value. Rules about features that Lamina leaves
//! off (SMM, SGX, Intel PT, CET, perf-global control, BNDCFGS, PKRS, UINV) have nothing to check.

mod non_register;
mod segments;
#[cfg(test)]
mod tests;

use super::controls::EntryControls;
use super::{Capabilities, GuestField};
use alloc::vec::Vec;
use core::fmt;

/// What the rules depend on beside the guest-state area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryContext {
    /// The VM-entry controls.
    pub entry: EntryControls,
    /// "Unrestricted guest" is 1.
    pub unrestricted_guest: bool,
    /// "Enable EPT" is 1.
    pub ept: bool,
    /// "Virtual NMIs" is 1.
    pub virtual_nmis: bool,
    /// The VM-entry interruption-information field: the event to inject, if bit 31 is set.
    pub interruption_info: u32,
    /// What the CPU can do.
    pub capabilities: Capabilities,
    /// The CPU's physical-address width, from CPUID leaf 8000_0008H.
    pub physical_address_bits: u32,
}

/// A rule of VM entry that the guest-state area breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BrokenRule {
    /// The field that is wrong, or the one of several that the rule is about.
    pub field: GuestField,
    /// Its value.
    pub value: u64,
    /// The rule, in the manual's words.
    pub rule: &'static str,
}

impl fmt::Display for BrokenRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} = {:#x}: {}", self.field, self.value, self.rule)
    }
}

/// Checks the guest-state area that `read` reads. An empty list means that the CPU has nothing to object to, as far as is
/// checked here.
#[must_use]
pub fn check(read: &dyn Fn(GuestField) -> u64, context: &EntryContext) -> Vec<BrokenRule> {
    let mut checker = Checker { read, context, broken: Vec::new() };
    checker.control_registers();
    checker.debug_registers_and_msrs();
    checker.segments();
    checker.rip_and_rflags();
    checker.activity();
    checker.interruptibility();
    checker.pending_debug_exceptions();
    checker.link_pointer();
    checker.pdptes();
    checker.broken
}

const CR0_PE: u64 = 1 << 0;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_PCIDE: u64 = 1 << 17;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// SCE, LME, LMA and NXE; all else is reserved.
const EFER_DEFINED: u64 = 1 | EFER_LME | EFER_LMA | 1 << 11;
/// Bits 15:6 and 2:0 of IA32_DEBUGCTL.
const DEBUGCTL_DEFINED: u64 = 0xffc7;
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_VM: u64 = 1 << 17;
/// Bits 63:22, 15, 5 and 3.
const RFLAGS_RESERVED: u64 = !0x3f_ffff | 1 << 15 | 1 << 5 | 1 << 3;
const CS_LONG: u64 = 1 << 13;

/// An event to be injected: its type and vector.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Injection {
    kind: u32,
    vector: u32,
}

const EXTERNAL_INTERRUPT: u32 = 0;

struct Checker<'a> {
    read: &'a dyn Fn(GuestField) -> u64,
    context: &'a EntryContext,
    broken: Vec<BrokenRule>,
}

impl Checker<'_> {
    fn read(&self, field: GuestField) -> u64 {
        (self.read)(field)
    }

    /// Notes the rule as broken unless it holds.
    fn require(&mut self, holds: bool, field: GuestField, rule: &'static str) {
        if !holds {
            self.broken.push(BrokenRule { field, value: self.read(field), rule });
        }
    }

    fn clear(&self, field: GuestField, bits: u64) -> bool {
        self.read(field) & bits == 0
    }

    fn set(&self, field: GuestField, bits: u64) -> bool {
        self.read(field) & bits == bits
    }

    fn long_mode(&self) -> bool {
        self.context.entry.contains(EntryControls::IA32E_MODE_GUEST)
    }

    fn virtual_8086(&self) -> bool {
        self.set(GuestField::Rflags, RFLAGS_VM)
    }

    fn injection(&self) -> Option<Injection> {
        let info = self.context.interruption_info;
        (info >> 31 == 1).then_some(Injection { kind: info >> 8 & 7, vector: info & 0xff })
    }

    /// Bits that no physical address has.
    fn beyond_physical(&self) -> u64 {
        u64::MAX.checked_shl(self.context.physical_address_bits).unwrap_or(0)
    }

    /// The linear-address width is 57 where CR4.LA57 can be set, else 48.
    fn is_canonical(&self, address: u64) -> bool {
        let unused = if self.context.capabilities.cr4_fixed1 & 1 << 12 != 0 { 7 } else { 16 };
        ((address << unused).cast_signed() >> unused).cast_unsigned() == address
    }

    fn control_registers(&mut self) {
        let Capabilities { cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1, .. } = self.context.capabilities;
        // "The following bits are not checked": NW and CD never, PE and PG with an unrestricted guest.
        let unchecked = 3 << 29 | if self.context.unrestricted_guest { CR0_PE | CR0_PG } else { 0 };
        let cr0 = self.read(GuestField::Cr0);
        let cr4 = self.read(GuestField::Cr4);
        self.require(
            cr0_fixed0 & !cr0 & !unchecked == 0,
            GuestField::Cr0,
            "bits that IA32_VMX_CR0_FIXED0 fixes to 1 must be 1",
        );
        self.require(
            cr0 & !cr0_fixed1 & !unchecked == 0,
            GuestField::Cr0,
            "bits that IA32_VMX_CR0_FIXED1 fixes to 0 must be 0",
        );
        self.require(
            cr0 & CR0_PG == 0 || cr0 & CR0_PE != 0,
            GuestField::Cr0,
            "if bit 31 (PG) is 1, bit 0 (PE) must be 1",
        );
        self.require(cr4_fixed0 & !cr4 == 0, GuestField::Cr4, "bits that IA32_VMX_CR4_FIXED0 fixes to 1 must be 1");
        self.require(cr4 & !cr4_fixed1 == 0, GuestField::Cr4, "bits that IA32_VMX_CR4_FIXED1 fixes to 0 must be 0");
        if self.long_mode() {
            self.require(cr0 & CR0_PG != 0, GuestField::Cr0, "bit 31 (PG) must be 1 for an IA-32e mode guest");
            self.require(cr4 & CR4_PAE != 0, GuestField::Cr4, "bit 5 (PAE) must be 1 for an IA-32e mode guest");
        } else {
            self.require(cr4 & CR4_PCIDE == 0, GuestField::Cr4, "bit 17 (PCIDE) must be 0 unless IA-32e mode guest");
        }
        let cr3_reserved = self.beyond_physical();
        self.require(
            self.clear(GuestField::Cr3, cr3_reserved),
            GuestField::Cr3,
            "bits beyond the physical-address width must be 0",
        );
    }

    fn debug_registers_and_msrs(&mut self) {
        if self.context.entry.contains(EntryControls::LOAD_DEBUG_CONTROLS) {
            self.require(
                self.clear(GuestField::Ia32Debugctl, !DEBUGCTL_DEFINED),
                GuestField::Ia32Debugctl,
                "reserved bits must be 0",
            );
            self.require(self.clear(GuestField::Dr7, !0xffff_ffff), GuestField::Dr7, "bits 63:32 must be 0");
        }
        for field in [GuestField::Ia32SysenterEsp, GuestField::Ia32SysenterEip] {
            self.require(self.is_canonical(self.read(field)), field, "the address must be canonical");
        }
        if self.context.entry.contains(EntryControls::LOAD_PAT) {
            let types_known =
                self.read(GuestField::Ia32Pat).to_le_bytes().iter().all(|entry| matches!(entry, 0 | 1 | 4..=7));
            self.require(
                types_known,
                GuestField::Ia32Pat,
                "each byte must be 0 (UC), 1 (WC), 4 (WT), 5 (WP), 6 (WB) or 7 (UC-)",
            );
        }
        if self.context.entry.contains(EntryControls::LOAD_EFER) {
            let efer = self.read(GuestField::Ia32Efer);
            let (lme, lma) = (efer & EFER_LME != 0, efer & EFER_LMA != 0);
            self.require(efer & !EFER_DEFINED == 0, GuestField::Ia32Efer, "reserved bits must be 0");
            self.require(
                lma == self.long_mode(),
                GuestField::Ia32Efer,
                "bit 10 (LMA) must be as the VM-entry control \"IA-32e mode guest\"",
            );
            let paging = self.set(GuestField::Cr0, CR0_PG);
            self.require(
                !paging || lma == lme,
                GuestField::Ia32Efer,
                "with CR0.PG = 1, bit 8 (LME) must be as bit 10 (LMA)",
            );
        }
    }

    fn rip_and_rflags(&mut self) {
        let rip = self.read(GuestField::Rip);
        if self.long_mode() && self.set(GuestField::CsAccessRights, CS_LONG) {
            // "Bits 63:N must be identical", bit N-1 not among them: RIP may lie right behind the canonical addresses.
            let width = if self.context.capabilities.cr4_fixed1 & 1 << 12 != 0 { 57 } else { 48 };
            let high = rip >> width;
            self.require(
                high == 0 || high == u64::MAX >> width,
                GuestField::Rip,
                "the bits above the linear-address width must be identical",
            );
        } else {
            self.require(rip >> 32 == 0, GuestField::Rip, "bits 63:32 must be 0 outside 64-bit mode");
        }
        self.require(
            self.clear(GuestField::Rflags, RFLAGS_RESERVED) && self.set(GuestField::Rflags, 1 << 1),
            GuestField::Rflags,
            "bits 63:22, 15, 5 and 3 must be 0, bit 1 must be 1",
        );
        if self.long_mode() || self.clear(GuestField::Cr0, CR0_PE) {
            self.require(
                self.clear(GuestField::Rflags, RFLAGS_VM),
                GuestField::Rflags,
                "bit 17 (VM) must be 0 for an IA-32e mode guest, and with CR0.PE = 0",
            );
        }
        if self.injection().is_some_and(|event| event.kind == EXTERNAL_INTERRUPT) {
            self.require(
                self.set(GuestField::Rflags, RFLAGS_IF),
                GuestField::Rflags,
                "bit 9 (IF) must be 1 when an external interrupt is injected",
            );
        }
    }
}
