//! The memory type range registers: kept and validated, and without effect. EPT gives a guest's memory its type.

use super::MsrFault;
use super::spec::*;

/// Fixed-range registers in the order of [`fixed_index`].
const FIXED_COUNT: usize = 11;
/// Variable-range registers: a base and a mask for each range.
const VARIABLE_COUNT: usize = 2 * 8;

/// The registers behind IA32_MTRRCAP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mtrrs {
    def_type: u64,
    fixed: [u64; FIXED_COUNT],
    variable: [u64; VARIABLE_COUNT],
    /// Bits of a base or mask that lie past the physical address width.
    beyond_physical: u64,
}

impl Mtrrs {
    pub(super) const fn new(physical_bits: u8) -> Self {
        let beyond_physical = if physical_bits < 64 { u64::MAX << physical_bits } else { 0 };
        Self { def_type: 0, fixed: [0; FIXED_COUNT], variable: [0; VARIABLE_COUNT], beyond_physical }
    }

    /// As the firmware of a PC leaves them: everything write-back, but the VGA window and 3 to 4 GiB.
    pub(super) fn reset(&mut self) {
        self.def_type = MTRR_ENABLED | MTRR_FIXED_ENABLED | WRITE_BACK;
        self.fixed = [WRITE_BACK * 0x0101_0101_0101_0101; FIXED_COUNT];
        self.variable = [0; VARIABLE_COUNT];
        if let Some(vga) = fixed_index(IA32_MTRR_FIX16K_A0000).and_then(|index| self.fixed.get_mut(index)) {
            *vga = 0;
        }
        let [base, mask, ..] = &mut self.variable;
        *base = 0xc000_0000;
        *mask = 0xffff_ffff_c000_0000 & !self.beyond_physical | MTRR_VALID;
    }

    pub(super) fn read(&self, msr: u32) -> Option<u64> {
        if msr == IA32_MTRR_DEF_TYPE {
            return Some(self.def_type);
        }
        let fixed = fixed_index(msr).and_then(|index| self.fixed.get(index));
        fixed.or_else(|| variable_index(msr).and_then(|index| self.variable.get(index))).copied()
    }

    pub(super) fn write(&mut self, msr: u32, value: u64) -> Result<(), MsrFault> {
        let [low_type, ..] = value.to_le_bytes();
        let (register, valid) = if msr == IA32_MTRR_DEF_TYPE {
            let reserved = !(0xff | MTRR_ENABLED | MTRR_FIXED_ENABLED);
            (&mut self.def_type, value & reserved == 0 && is_type(low_type))
        } else if let Some(register) = fixed_index(msr).and_then(|index| self.fixed.get_mut(index)) {
            (register, value.to_le_bytes().into_iter().all(is_type))
        } else if let Some(register) = variable_index(msr).and_then(|index| self.variable.get_mut(index)) {
            let is_mask = msr & 1 == 1;
            let valid = if is_mask { value & 0x7ff == 0 } else { value & 0xf00 == 0 && is_type(low_type) };
            (register, valid && value & self.beyond_physical == 0)
        } else {
            return Err(MsrFault::Unknown);
        };
        if !valid {
            return Err(MsrFault::Refused);
        }
        *register = value;
        Ok(())
    }
}

fn fixed_index(msr: u32) -> Option<usize> {
    let index = match msr {
        IA32_MTRR_FIX64K_00000 => 0,
        IA32_MTRR_FIX16K_80000 => 1,
        IA32_MTRR_FIX16K_A0000 => 2,
        IA32_MTRR_FIX4K_C0000..=IA32_MTRR_FIX4K_F8000 => msr - IA32_MTRR_FIX4K_C0000 + 3,
        _ => return None,
    };
    usize::try_from(index).ok()
}

fn variable_index(msr: u32) -> Option<usize> {
    match msr {
        IA32_MTRR_PHYSBASE0..=IA32_MTRR_PHYSMASK7 => usize::try_from(msr - IA32_MTRR_PHYSBASE0).ok(),
        _ => None,
    }
}

/// Memory types an MTRR may hold: UC, WC, WT, WP, WB.
const fn is_type(value: u8) -> bool {
    matches!(value, 0 | 1 | 4 | 5 | 6)
}
