//! The mode that code runs in.

use crate::vmx::GuestField;
use crate::x86::VcpuState;
use crate::x86::msr::spec::efer;

/// CS access rights: L, 64-bit mode.
const LONG: u64 = 1 << 13;
/// CS access rights: D, 32-bit default operand size.
const DEFAULT_32: u64 = 1 << 14;

/// The width of code: what CS, and IA-32e mode, make of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodeMode {
    /// Real-address mode, virtual-8086 mode, and 16-bit protected mode.
    Bits16,
    /// 32-bit protected mode, and compatibility mode.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

impl CodeMode {
    /// The mode of the vCPU.
    #[must_use]
    pub fn of(state: &dyn VcpuState) -> Self {
        let rights = state.read(GuestField::CsAccessRights);
        if rights & LONG != 0 && state.read(GuestField::Ia32Efer) & efer::LMA != 0 {
            Self::Bits64
        } else if rights & DEFAULT_32 != 0 {
            Self::Bits32
        } else {
            Self::Bits16
        }
    }

    /// 16, 32 or 64.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Bits16 => 16,
            Self::Bits32 => 32,
            Self::Bits64 => 64,
        }
    }
}

/// The current privilege level: "the value of CPL is equal to the DPL field in the access rights of SS".
#[must_use]
pub fn privilege_level(state: &dyn VcpuState) -> u8 {
    let [low, ..] = state.read(GuestField::SsAccessRights).to_le_bytes();
    low >> 5 & 0b11
}
