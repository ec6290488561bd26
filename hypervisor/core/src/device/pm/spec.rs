//! The ACPI fixed hardware registers ("ACPI Hardware Specification", "PM1 Event Grouping", "PM1 Control Grouping" and "Power
//! Management Timer" of the ACPI specification), at the ports that the FADT names.

use bitflags::bitflags;

/// PM1a event block: status, then enable, a word each.
pub const PM1A_EVENT: u16 = 0x600;
/// PM1a control block: a word.
pub const PM1A_CONTROL: u16 = 0x604;
/// Power management timer: a dword, 32 bits wide (the FADT sets TMR_VAL_EXT).
pub const PM_TIMER: u16 = 0x608;
/// The first port behind the registers.
pub const PM_END: u16 = 0x60c;

/// The power management timer's clock.
pub const PM_TIMER_HZ: u64 = 3_579_545;
/// TMR_STS "is set any time the most significant bit of a 24/32-bit counter changes from set to clear or clear to set".
pub const PM_TIMER_HALF: u64 = 1 << 31;

bitflags! {
    /// PM1 status and PM1 enable registers: the events, at the same bits in both.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Pm1Events: u16 {
        /// TMR_STS, TMR_EN.
        const TIMER = 1 << 0;
        /// GBL_STS, GBL_EN.
        const GLOBAL = 1 << 5;
        /// PWRBTN_STS, PWRBTN_EN.
        const POWER_BUTTON = 1 << 8;
        /// RTC_STS, RTC_EN.
        const RTC = 1 << 10;
    }
}

/// PM1 control: SCI_EN. Without an SMI command port the machine is always in ACPI mode, so it reads 1.
pub const SCI_EN: u16 = 1 << 0;
/// PM1 control: BM_RLD.
pub const BM_RLD: u16 = 1 << 1;
/// PM1 control: SLP_TYP.
pub const SLP_TYP: u16 = 7 << 10;
/// Lowest bit of [`SLP_TYP`].
pub const SLP_TYP_SHIFT: u16 = 10;
/// PM1 control: SLP_EN, write only.
pub const SLP_EN: u16 = 1 << 13;
/// The SLP_TYP that the DSDT's \_S5 object names: soft off.
pub const SLP_TYP_S5: u16 = 5;
