//! What MOV to CR0, MOV to CR4, CLTS and LMSW do: the checks, the side effects, and the bits that must cause exits.
//!
//! Source: Intel SDM volume 3, "Control Registers", "Switching Out of / Activating IA-32e Mode" and "PDPTE Registers";
//! volume 2, "MOV—Move to/from Control Registers". CR3 is the guest's own (EPT stands behind it) and never exits.

use super::msr::spec::efer;
use super::{CpuState, VcpuState};
use crate::exit::Event;
use crate::memory::{GuestMemory, GuestPhysAddr};
use crate::vmx::GuestField;

/// Bits of CR0.
#[expect(missing_docs, reason = "the names are the manual's bit names")]
pub mod cr0 {
    pub const PE: u64 = 1 << 0;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;

    /// Every bit that is defined. The others below bit 32 "remain clear; attempts to set them have no impact".
    pub const DEFINED: u64 = PE | MP | EM | TS | ET | NE | WP | AM | NW | CD | PG;
    /// Bits that the guest changes without an exit: nothing of the host's hangs on them.
    pub const GUEST_OWNED: u64 = MP | EM | TS | AM | WP;
}

/// Bits of CR4.
#[expect(missing_docs, reason = "the names are the manual's bit names")]
pub mod cr4 {
    pub const VME: u64 = 1 << 0;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const VMXE: u64 = 1 << 13;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;

    /// What every CPU with Intel 64 has.
    pub const ALWAYS: u64 = VME | PVI | TSD | DE | PSE | PAE | MCE | PGE | PCE | OSFXSR | OSXMMEXCPT;
    /// Bits that the guest changes without an exit: of features that every CPU has, and that nothing of the host's hangs on.
    /// PGE is among them because an operating system without INVPCID toggles it to flush its TLB; the CPU flushes by itself.
    pub const GUEST_OWNED: u64 = VME | PVI | TSD | DE | PGE | PCE | OSFXSR | OSXMMEXCPT;
}

/// CR3 bits 31:5: the page-directory-pointer table with PAE paging.
const PAE_TABLE: u64 = 0xffff_ffe0;
/// A PDPTE's present bit.
const PDPTE_PRESENT: u64 = 1;
/// Bits 2:1 and 8:5 of a PDPTE are reserved.
const PDPTE_RESERVED: u64 = 0b1_1110_0110;
/// Access rights: "L", 64-bit mode active, in CS.
const CS_LONG: u64 = 1 << 13;
/// Access rights: the type field, and the type "busy TSS" (32-bit, or 64-bit in IA-32e mode).
const TYPE: u64 = 0xf;
const BUSY_TSS: u64 = 0xb;

/// CR0 bits whose change takes effect on cached translations ("Operations that Invalidate TLBs": CR0.PG; CR0.WP is
/// guest-owned, and CD and NW reload the PDPTEs).
const CR0_PAGING: u64 = cr0::PG | cr0::CD | cr0::NW;
/// The same for CR4, and what reloads the PDPTEs.
const CR4_PAGING: u64 = cr4::PGE | cr4::PAE | cr4::PSE | cr4::SMEP | cr4::PCIDE;

/// MOV to CR0 of `value`.
///
/// # Errors
/// #GP(0), with nothing changed.
pub fn write_cr0(
    state: &mut dyn VcpuState,
    memory: &dyn GuestMemory,
    cpu: &mut CpuState,
    value: u64,
) -> Result<(), Event> {
    let old = state.cr0();
    if value >> 32 != 0 || has(value, cr0::PG) && !has(value, cr0::PE) || has(value, cr0::NW) && !has(value, cr0::CD) {
        return Err(Event::GENERAL_PROTECTION);
    }
    let new = value & cr0::DEFINED | cr0::ET;
    let changed = old ^ new;
    if changed & CR0_PAGING != 0 {
        change_paging_mode(state, memory, cpu, changed, new)?;
        cpu.flush_tlb();
    }
    state.set_cr0(new);
    Ok(())
}

/// The part of MOV to CR0 that concerns paging: entering and leaving IA-32e mode, loading the PDPTEs.
fn change_paging_mode(
    state: &mut dyn VcpuState,
    memory: &dyn GuestMemory,
    cpu: &CpuState,
    changed: u64,
    new: u64,
) -> Result<(), Event> {
    let cr4 = state.cr4();
    let efer = state.read(GuestField::Ia32Efer);
    let cs_long = has(state.read(GuestField::CsAccessRights), CS_LONG);
    let long = has(efer, efer::LME);
    let paging = has(new, cr0::PG);
    if has(changed, cr0::PG) {
        let refused = if paging {
            long && (!has(cr4, cr4::PAE) || cs_long)
        } else {
            has(cr4, cr4::PCIDE) || has(efer, efer::LMA) && cs_long
        };
        if refused {
            return Err(Event::GENERAL_PROTECTION);
        }
    }
    if paging && has(cr4, cr4::PAE) && !long {
        load_pdptes(state, memory, cpu)?;
    }
    if has(changed, cr0::PG) && long {
        set_long_mode(state, efer, paging);
    }
    Ok(())
}

/// "The processor sets (clears) the LMA bit when paging is enabled (disabled) while LME = 1."
fn set_long_mode(state: &mut dyn VcpuState, efer: u64, active: bool) {
    let efer = if active { efer | efer::LMA } else { efer & !efer::LMA };
    state.write(GuestField::Ia32Efer, efer);
    state.set_long_mode(active);
    if active {
        // VM entry to IA-32e mode insists on a 64-bit busy TSS; a guest that has not loaded TR yet has what its reset
        // left there. Nobody can tell, because TR's type is visible to no instruction.
        let rights = state.read(GuestField::TrAccessRights);
        if rights & TYPE != BUSY_TSS {
            state.write(GuestField::TrAccessRights, rights & !TYPE | BUSY_TSS);
        }
    }
}

/// MOV to CR4 of `value`.
///
/// # Errors
/// #GP(0), with nothing changed.
pub fn write_cr4(
    state: &mut dyn VcpuState,
    memory: &dyn GuestMemory,
    cpu: &mut CpuState,
    value: u64,
) -> Result<(), Event> {
    if value & !cpu.cpuid.cr4_allowed() != 0 {
        return Err(Event::GENERAL_PROTECTION);
    }
    let changed = state.cr4() ^ value;
    if changed & CR4_PAGING != 0 {
        let efer = state.read(GuestField::Ia32Efer);
        let long = has(efer, efer::LMA);
        let starts_pcid = has(changed & value, cr4::PCIDE);
        if long && !has(value, cr4::PAE) || starts_pcid && (!long || state.read(GuestField::Cr3) & 0xfff != 0) {
            return Err(Event::GENERAL_PROTECTION);
        }
        if has(value, cr4::PAE) && !long && has(state.cr0(), cr0::PG) {
            load_pdptes(state, memory, cpu)?;
        }
        cpu.flush_tlb();
    }
    state.set_cr4(value);
    Ok(())
}

/// CLTS.
pub fn clear_task_switched(state: &mut dyn VcpuState) {
    let value = state.cr0() & !cr0::TS;
    state.set_cr0(value);
}

/// LMSW of `source`: loads CR0[3:0], but "cannot be used to clear the PE flag".
///
/// # Errors
/// As [`write_cr0`].
pub fn load_machine_status_word(
    state: &mut dyn VcpuState,
    memory: &dyn GuestMemory,
    cpu: &mut CpuState,
    source: u64,
) -> Result<(), Event> {
    let old = state.cr0();
    let loaded = source & (cr0::PE | cr0::MP | cr0::EM | cr0::TS);
    write_cr0(state, memory, cpu, old & !(cr0::MP | cr0::EM | cr0::TS) | loaded)
}

/// Loads the four PDPTEs from the table CR3 points to into the VMCS, as the CPU does when PAE paging comes into use.
///
/// "If any of the PDPTEs sets both the P flag (bit 0) and any reserved bit, the MOV to CR instruction causes a
/// general-protection exception (#GP(0)) and the PDPTEs are not loaded." A table outside RAM reads as all-ones.
fn load_pdptes(state: &mut dyn VcpuState, memory: &dyn GuestMemory, cpu: &CpuState) -> Result<(), Event> {
    let table = state.read(GuestField::Cr3) & PAE_TABLE;
    let reserved = PDPTE_RESERVED | u64::MAX << cpu.cpuid.physical_bits();
    let fields = [GuestField::Pdpte0, GuestField::Pdpte1, GuestField::Pdpte2, GuestField::Pdpte3];
    let mut pdptes = [0; 4];
    for (address, pdpte) in (table..).step_by(8).zip(&mut pdptes) {
        *pdpte = memory.read_u64(GuestPhysAddr(address)).unwrap_or(u64::MAX);
        if has(*pdpte, PDPTE_PRESENT) && *pdpte & reserved != 0 {
            return Err(Event::GENERAL_PROTECTION);
        }
    }
    for (field, pdpte) in fields.into_iter().zip(pdptes) {
        state.write(field, pdpte);
    }
    Ok(())
}

const fn has(value: u64, bit: u64) -> bool {
    value & bit != 0
}
