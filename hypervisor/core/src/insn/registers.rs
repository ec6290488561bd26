//! Registers by the decoder's names.

use crate::vmx::GuestField;
use crate::x86::{Gprs, VcpuState};
use iced_x86::Register;

/// The number of RSP.
const RSP: u8 = 4;

/// A general-purpose register, or a part of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gpr {
    number: u8,
    len_bytes: u64,
    /// AH, CH, DH, BH.
    high_byte: bool,
}

impl Gpr {
    /// `None` if `register` is no general-purpose register.
    pub(super) fn of(register: Register) -> Option<Self> {
        if !register.is_gpr() {
            return None;
        }
        let number = u8::try_from(register.full_register().number()).ok()?;
        let high_byte = matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
        Some(Self { number, len_bytes: register.size() as u64, high_byte })
    }

    /// Its value, zero-extended.
    pub(super) fn read(self, gprs: &Gprs, state: &dyn VcpuState) -> u64 {
        let full = match self.number {
            RSP => state.read(GuestField::Rsp),
            number => gprs.by_number(number).unwrap_or(0),
        };
        if self.high_byte { full >> 8 & 0xff } else { full & mask(self.len_bytes) }
    }

    /// Writes it. "32-bit operands generate a 32-bit result, zero-extended to a 64-bit result in the destination
    /// general-purpose register. 8-bit and 16-bit operands [...] are not modified" in the upper bits.
    pub(super) fn write(self, gprs: &mut Gprs, state: &mut dyn VcpuState, value: u64) {
        let merge = |old: u64| match (self.len_bytes, self.high_byte) {
            (1, true) => old & !0xff00 | (value & 0xff) << 8,
            (1 | 2, _) => old & !mask(self.len_bytes) | value & mask(self.len_bytes),
            _ => value & mask(self.len_bytes),
        };
        match self.number {
            RSP => {
                let new = merge(state.read(GuestField::Rsp));
                state.write(GuestField::Rsp, new);
            }
            number => {
                if let Some(register) = gprs.by_number_mut(number) {
                    *register = merge(*register);
                }
            }
        }
    }
}

/// All ones in `len_bytes` bytes (8 and more: 64 bits).
pub(super) const fn mask(len_bytes: u64) -> u64 {
    match len_bytes {
        0 => 0,
        1 => 0xff,
        2 => 0xffff,
        3..=7 => 0xffff_ffff,
        _ => u64::MAX,
    }
}
