//! A walk through the guest's own page tables: from a linear to a guest-physical address.
//!
//! Source: Intel SDM volume 3, chapter "Paging". The CPU does this for the guest by itself; we need it to fetch an
//! instruction that is to be emulated, for its operands, and for crash reports. The walk reads and never writes: accessed
//! and dirty flags stay as they are (the access itself is the guest's, and sets them when it is made). Protection keys
//! are not looked at: the CPUID policy offers none.

#[cfg(test)]
mod tests;

use super::VcpuState;
use super::control::{cr0, cr4};
use super::msr::spec::efer;
use crate::memory::{GuestLinearAddr, GuestMemory, GuestPhysAddr, MemoryError};
use crate::vmx::GuestField;
use thiserror::Error;

/// CR4.LA57: 5-level paging.
const CR4_LA57: u64 = 1 << 12;

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessKind {
    /// Reads data.
    Read,
    /// Writes data.
    Write,
    /// Fetches an instruction.
    Fetch,
}

/// An access to a linear address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinearAccess {
    /// What it does.
    pub kind: AccessKind,
    /// A user-mode access: made with CPL = 3, other than an implicit one to a descriptor table or TSS.
    pub user: bool,
    /// EFLAGS.AC is set, which lifts SMAP for explicit supervisor-mode data accesses.
    pub alignment_check: bool,
}

impl LinearAccess {
    /// A supervisor-mode access that SMAP does not hinder: how the hypervisor itself looks at a guest.
    #[must_use]
    pub const fn supervisor(kind: AccessKind) -> Self {
        Self { kind, user: false, alignment_check: true }
    }
}

/// Why an address was not translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum WalkFault {
    /// The CPU would raise #PF.
    #[error("page fault at {gla}, error code {error_code:#x}")]
    PageFault {
        /// The address, for CR2.
        gla: GuestLinearAddr,
        /// The error code.
        error_code: u32,
    },
    /// The address is not canonical: the CPU would raise #GP(0), or #SS(0) for an access by way of SS.
    #[error("linear address {gla} is not canonical")]
    NotCanonical {
        /// The address.
        gla: GuestLinearAddr,
    },
    /// A page table is not in the guest's memory.
    #[error("a page table of the guest cannot be read: {0}")]
    Memory(#[from] MemoryError),
}

/// Error code of #PF, bit 0 (P): a protection violation, not a page that is not present.
const FAULT_PROTECTION: u32 = 1 << 0;
/// Bit 1 (W/R).
const FAULT_WRITE: u32 = 1 << 1;
/// Bit 2 (U/S).
const FAULT_USER: u32 = 1 << 2;
/// Bit 3 (RSVD): a reserved bit is set in an entry.
const FAULT_RESERVED: u32 = 1 << 3;
/// Bit 4 (I/D).
const FAULT_FETCH: u32 = 1 << 4;

/// Bits of paging-structure entries, the same in all formats.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const PAGE_SIZE_BIT: u64 = 1 << 7;
/// 8-byte entries only.
const EXECUTE_DISABLE: u64 = 1 << 63;
/// Bits 51:12 of an 8-byte entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bits 62:52: ignored in IA-32e mode, reserved with PAE paging.
const PAE_IGNORED_IN_LONG_MODE: u64 = 0x7ff0_0000_0000_0000;
/// PAE paging: bits 2:1 and 8:5 of a PDPTE are reserved.
const PAE_PDPTE_RESERVED: u64 = 0b1_1110_0110;

/// The registers that govern a guest's paging.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are the manual's register names")]
pub struct Paging {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    /// MAXPHYADDR of the guest's CPUID: higher address bits are reserved in entries.
    pub physical_address_bits: u32,
}

/// How the entries on the way add up: "if the R/W flag is 0 in any", "U/S flag is 0 in at least one", "XD flag is 1 in any".
#[derive(Clone, Copy)]
struct Rights {
    writable: bool,
    user: bool,
    execute_disable: bool,
}

impl Rights {
    const ALL: Self = Self { writable: true, user: true, execute_disable: false };

    const fn narrowed_by(self, entry: u64) -> Self {
        Self {
            writable: self.writable && entry & WRITABLE != 0,
            user: self.user && entry & USER != 0,
            execute_disable: self.execute_disable || entry & EXECUTE_DISABLE != 0,
        }
    }
}

impl Paging {
    /// The registers of a vCPU.
    #[must_use]
    pub fn of(state: &dyn VcpuState, physical_address_bits: u32) -> Self {
        Self {
            cr0: state.cr0(),
            cr3: state.read(GuestField::Cr3),
            cr4: state.cr4(),
            efer: state.read(GuestField::Ia32Efer),
            physical_address_bits,
        }
    }

    /// Translates an address for an access, as the CPU would.
    ///
    /// # Errors
    /// [`WalkFault`].
    pub fn walk(
        &self,
        memory: &dyn GuestMemory,
        gla: GuestLinearAddr,
        access: LinearAccess,
    ) -> Result<GuestPhysAddr, WalkFault> {
        if self.cr0 & cr0::PG == 0 {
            return Ok(GuestPhysAddr(gla.0 & 0xffff_ffff));
        }
        let walk = Walk { paging: self, memory, gla, access };
        if self.efer & efer::LMA != 0 {
            let levels = if self.cr4 & CR4_LA57 != 0 { 5 } else { 4 };
            let unused_bits = 64 - (12 + 9 * levels);
            if ((gla.0 << unused_bits).cast_signed() >> unused_bits).cast_unsigned() != gla.0 {
                return Err(WalkFault::NotCanonical { gla });
            }
            walk.long(self.cr3 & ADDRESS, levels)
        } else if self.cr4 & cr4::PAE != 0 {
            Walk { gla: GuestLinearAddr(gla.0 & 0xffff_ffff), ..walk }.pae()
        } else {
            Walk { gla: GuestLinearAddr(gla.0 & 0xffff_ffff), ..walk }.legacy()
        }
    }

    /// Address bits above MAXPHYADDR, up to bit 51.
    fn reserved_address_bits(&self) -> u64 {
        u64::MAX.checked_shl(self.physical_address_bits).unwrap_or(0) & ADDRESS
    }
}

struct Walk<'a> {
    paging: &'a Paging,
    memory: &'a dyn GuestMemory,
    gla: GuestLinearAddr,
    access: LinearAccess,
}

impl Walk<'_> {
    /// 32-bit paging: two levels of 10 bits, entries of 4 bytes.
    fn legacy(&self) -> Result<GuestPhysAddr, WalkFault> {
        let pde = self.entry_32(self.paging.cr3 & 0xffff_f000, 22)?;
        let rights = Rights::ALL.narrowed_by(pde);
        if pde & PAGE_SIZE_BIT != 0 && self.paging.cr4 & cr4::PSE != 0 {
            // "PSE-36": bits 20:13 are address bits 39:32, as far as MAXPHYADDR goes; bit 21 is reserved.
            let high = (pde >> 13 & 0xff) << 32;
            if pde & 1 << 21 != 0 || high & self.paging.reserved_address_bits() != 0 {
                return Err(self.fault(FAULT_PROTECTION | FAULT_RESERVED));
            }
            return self.permit(rights, high | pde & 0xffc0_0000 | self.gla.0 & 0x3f_ffff);
        }
        let pte = self.entry_32(pde & 0xffff_f000, 12)?;
        self.permit(rights.narrowed_by(pte), pte & 0xffff_f000 | self.gla.page_offset())
    }

    /// PAE paging: four PDPTEs, then two levels as in 4-level paging. The CPU keeps the PDPTEs in registers since the last
    /// MOV to CR3; they are read from memory here, where every guest leaves them.
    fn pae(&self) -> Result<GuestPhysAddr, WalkFault> {
        let table = GuestPhysAddr(self.paging.cr3 & 0xffff_ffe0);
        let pdpte = self.memory.read_u64(GuestPhysAddr(table.0 + (self.gla.0 >> 30 & 3) * 8))?;
        if pdpte & PRESENT == 0 {
            return Err(self.fault(0));
        }
        if pdpte
            & (PAE_PDPTE_RESERVED | PAE_IGNORED_IN_LONG_MODE | EXECUTE_DISABLE | self.paging.reserved_address_bits())
            != 0
        {
            return Err(self.fault(FAULT_PROTECTION | FAULT_RESERVED));
        }
        self.long(pdpte & ADDRESS, 2)
    }

    /// The levels of 9 bits with entries of 8 bytes: 5 or 4 of them in IA-32e mode, the last 2 with PAE paging.
    fn long(&self, mut table: u64, levels: u32) -> Result<GuestPhysAddr, WalkFault> {
        let mut reserved = self.paging.reserved_address_bits();
        if self.paging.efer & efer::NXE == 0 {
            reserved |= EXECUTE_DISABLE;
        }
        if self.paging.efer & efer::LMA == 0 {
            reserved |= PAE_IGNORED_IN_LONG_MODE;
        }
        let mut rights = Rights::ALL;
        for level in (1..=levels).rev() {
            let shift = 12 + 9 * (level - 1);
            let offset_mask = (1 << shift) - 1;
            let index = self.gla.0 >> shift & 0x1ff;
            let entry = self.memory.read_u64(GuestPhysAddr(table | (index * 8)))?;
            if entry & PRESENT == 0 {
                return Err(self.fault(0));
            }
            // At level 1 bit 7 is the PAT flag. Pages are mapped at levels 2 and 3, where the address bits below the
            // page's size (from bit 13 on, bit 12 is the PAT flag) are reserved; at levels 4 and 5 bit 7 itself is.
            let maps_page = level == 1 || entry & PAGE_SIZE_BIT != 0;
            let reserved = match level {
                2 | 3 if maps_page => reserved | offset_mask & ADDRESS & !(1 << 12),
                4.. => reserved | PAGE_SIZE_BIT,
                _ => reserved,
            };
            if entry & reserved != 0 {
                return Err(self.fault(FAULT_PROTECTION | FAULT_RESERVED));
            }
            rights = rights.narrowed_by(entry);
            if maps_page {
                return self.permit(rights, entry & ADDRESS & !offset_mask | self.gla.0 & offset_mask);
            }
            table = entry & ADDRESS;
        }
        // Level 1 always maps a page.
        Err(self.fault(0))
    }

    /// The entry of a table of 32-bit paging, if it is present.
    fn entry_32(&self, table: u64, shift: u32) -> Result<u64, WalkFault> {
        let index = self.gla.0 >> shift & 0x3ff;
        let entry = u64::from(self.memory.read_u32(GuestPhysAddr(table | (index * 4)))?);
        if entry & PRESENT == 0 { Err(self.fault(0)) } else { Ok(entry) }
    }

    /// "Determination of Access Rights".
    fn permit(&self, rights: Rights, gpa: u64) -> Result<GuestPhysAddr, WalkFault> {
        let Paging { cr0, cr4, .. } = *self.paging;
        let fetch = self.access.kind == AccessKind::Fetch;
        let allowed = if self.access.user {
            rights.user && (rights.writable || self.access.kind != AccessKind::Write)
        } else {
            let smep = fetch && rights.user && cr4 & cr4::SMEP != 0;
            let smap = !fetch && rights.user && cr4 & cr4::SMAP != 0 && !self.access.alignment_check;
            let write_protected = self.access.kind == AccessKind::Write && !rights.writable && cr0 & cr0::WP != 0;
            !smep && !smap && !write_protected
        };
        if allowed && !(fetch && rights.execute_disable) {
            Ok(GuestPhysAddr(gpa))
        } else {
            Err(self.fault(FAULT_PROTECTION))
        }
    }

    fn fault(&self, cause: u32) -> WalkFault {
        let Paging { cr4, efer, .. } = *self.paging;
        let mut error_code = cause;
        if self.access.kind == AccessKind::Write {
            error_code |= FAULT_WRITE;
        }
        if self.access.user {
            error_code |= FAULT_USER;
        }
        // "This flag is 1 if the access causing the page-fault exception was an instruction fetch and either CR4.SMEP = 1
        // or both CR4.PAE = 1 and IA32_EFER.NXE = 1."
        let fetch_reported = cr4 & cr4::SMEP != 0 || cr4 & cr4::PAE != 0 && efer & efer::NXE != 0;
        if self.access.kind == AccessKind::Fetch && fetch_reported {
            error_code |= FAULT_FETCH;
        }
        WalkFault::PageFault { gla: self.gla, error_code }
    }
}
