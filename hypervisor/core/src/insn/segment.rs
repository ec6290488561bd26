//! Segmentation: from a segment and an offset to a linear address, with the checks of the mode.
//!
//! Source: Intel SDM volume 3, "Protection": "Limit Checking", "Type Checking"; "Segmentation in IA-32e Mode";
//! volume 1, "Canonical Addressing".

use super::CodeMode;
use crate::exit::Event;
use crate::vmx::GuestField;
use crate::x86::VcpuState;
use iced_x86::Register;

/// Access rights: the type's bits "code segment", "expand-down" (data) or "conforming" (code), "writable" (data) or
/// "readable" (code).
const CODE: u64 = 1 << 3;
const EXPAND_DOWN: u64 = 1 << 2;
const WRITABLE_OR_READABLE: u64 = 1 << 1;
/// Access rights: D/B, which makes an expand-down segment end at 4 GiB rather than at 64 KiB.
const BIG: u64 = 1 << 14;
/// Access rights: the register holds a null selector.
const UNUSABLE: u64 = 1 << 16;

/// A segment register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are the manual's register names")]
pub enum Segment {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
}

impl Segment {
    /// The register numbered as in an instruction's encoding and in the VM-exit instruction information: 0 ES, 1 CS,
    /// 2 SS, 3 DS, 4 FS, 5 GS.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Es,
            1 => Self::Cs,
            2 => Self::Ss,
            3 => Self::Ds,
            4 => Self::Fs,
            5 => Self::Gs,
            _ => return None,
        })
    }

    pub(super) const fn of(register: Register) -> Option<Self> {
        Some(match register {
            Register::ES => Self::Es,
            Register::CS => Self::Cs,
            Register::SS => Self::Ss,
            Register::DS => Self::Ds,
            Register::FS => Self::Fs,
            Register::GS => Self::Gs,
            _ => return None,
        })
    }

    /// Its base, limit and access rights in the VMCS.
    const fn fields(self) -> [GuestField; 3] {
        use GuestField as F;
        match self {
            Self::Es => [F::EsBase, F::EsLimit, F::EsAccessRights],
            Self::Cs => [F::CsBase, F::CsLimit, F::CsAccessRights],
            Self::Ss => [F::SsBase, F::SsLimit, F::SsAccessRights],
            Self::Ds => [F::DsBase, F::DsLimit, F::DsAccessRights],
            Self::Fs => [F::FsBase, F::FsLimit, F::FsAccessRights],
            Self::Gs => [F::GsBase, F::GsLimit, F::GsAccessRights],
        }
    }

    /// What a violation of this segment raises: #SS(0) for the stack segment, #GP(0) for the others.
    const fn violation(self) -> Event {
        match self {
            Self::Ss => Event::exception_with_code(12, 0),
            _ => Event::GENERAL_PROTECTION,
        }
    }

    /// The linear address of `len_bytes` bytes at `offset` (already cut to the address size).
    ///
    /// # Errors
    /// #GP(0) or #SS(0): outside the limit, of the wrong type, or not canonical.
    pub fn linear(
        self,
        state: &dyn VcpuState,
        mode: CodeMode,
        offset: u64,
        len_bytes: u64,
        write: bool,
    ) -> Result<u64, Event> {
        let [base, limit, rights] = self.fields();
        let last = offset.wrapping_add(len_bytes.max(1) - 1);
        if mode == CodeMode::Bits64 {
            let base = if matches!(self, Self::Fs | Self::Gs) { state.read(base) } else { 0 };
            let (first, last) = (base.wrapping_add(offset), base.wrapping_add(last));
            let canonical = is_canonical(first) && is_canonical(last) && first <= last;
            return if canonical { Ok(first) } else { Err(self.violation()) };
        }
        let (limit, rights) = (state.read(limit), state.read(rights));
        if !is_within(limit, rights, offset, last) || !permits(rights, write) {
            return Err(self.violation());
        }
        Ok(state.read(base).wrapping_add(offset) & 0xffff_ffff)
    }
}

/// Whether the bytes `first` to `last` are in the segment.
const fn is_within(limit: u64, rights: u64, first: u64, last: u64) -> bool {
    let wraps = last < first || last > 0xffff_ffff;
    if rights & UNUSABLE != 0 || wraps {
        return false;
    }
    if rights & (CODE | EXPAND_DOWN) == EXPAND_DOWN {
        let end = if rights & BIG != 0 { 0xffff_ffff } else { 0xffff };
        return first > limit && last <= end;
    }
    last <= limit
}

/// "No instruction may write into a code segment [...] or a data segment if it is not writable; no instruction may read
/// an execute-only code segment".
const fn permits(rights: u64, write: bool) -> bool {
    if write {
        rights & (CODE | WRITABLE_OR_READABLE) == WRITABLE_OR_READABLE
    } else {
        rights & (CODE | WRITABLE_OR_READABLE) != CODE
    }
}

/// Whether bits 63:47 are all the same (LA57 is hidden).
const fn is_canonical(linear: u64) -> bool {
    matches!(linear >> 47, 0 | 0x1_ffff)
}
