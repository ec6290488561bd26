//! The Intel 8254 Programmable Interval Timer's registers (8254 datasheet, "Programming the 8254") and the PC's System Control
//! Port B, which gates channel 2 (82371AB PIIX4 datasheet, "NMISC NMI Status and Control Register").

/// The oscillator of a PC's 8254: a third of the colour carrier's 3.579545 MHz.
pub const PIT_HZ: u64 = 1_193_182;

/// Counter 0; counters 1 and 2 follow.
pub const COUNTER_0: u16 = 0x40;
/// Counter 2.
pub const COUNTER_2: u16 = 0x42;
/// Control word register, write only.
pub const CONTROL: u16 = 0x43;
/// System Control Port B.
pub const PORT_B: u16 = 0x61;

/// Control word SC1-SC0: the counter, or 3 for the read-back command.
pub const SELECT_SHIFT: u8 = 6;
/// SC = 3: read-back command.
pub const SELECT_READ_BACK: u8 = 3;
/// Control word RW1-RW0.
pub const ACCESS_SHIFT: u8 = 4;
/// Control word M2-M0.
pub const MODE_SHIFT: u8 = 1;
/// Control word BCD.
pub const BCD: u8 = 1 << 0;

/// Read-back command, active low: latch the count of the selected counters.
pub const READ_BACK_NO_COUNT: u8 = 1 << 5;
/// Read-back command, active low: latch the status of the selected counters.
pub const READ_BACK_NO_STATUS: u8 = 1 << 4;

/// Status byte: state of the OUT pin.
pub const STATUS_OUT: u8 = 1 << 7;
/// Status byte: NULL COUNT, the last written count is not in the counting element yet.
pub const STATUS_NULL_COUNT: u8 = 1 << 6;

/// Port B: GATE of channel 2.
pub const PORT_B_GATE_2: u8 = 1 << 0;
/// Port B: the bits that can be written (gate 2, speaker data, and the enables of two NMI sources that we do not have).
pub const PORT_B_WRITABLE: u8 = 0x0f;
/// Port B, read only: toggles with every refresh cycle.
pub const PORT_B_REFRESH: u8 = 1 << 4;
/// Port B, read only: OUT of channel 2.
pub const PORT_B_OUT_2: u8 = 1 << 5;
/// Oscillator cycles between two refresh cycles: a PC's channel 1 divides by 18 (15.09 us).
pub const REFRESH_CYCLES: u64 = 18;

/// RW1-RW0: how the 16 bits of a count pass the 8-bit port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Access {
    /// Least significant byte only.
    Low = 1,
    /// Most significant byte only.
    High = 2,
    /// Least significant byte first, then most significant byte.
    LowHigh = 3,
}

impl Access {
    /// From RW1-RW0; `None` is the counter latch command.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits & 3 {
            0 => None,
            1 => Some(Self::Low),
            2 => Some(Self::High),
            _ => Some(Self::LowHigh),
        }
    }
}

/// M2-M0: the counter's mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mode {
    /// Mode 0.
    InterruptOnTerminalCount = 0,
    /// Mode 1.
    HardwareRetriggerableOneShot = 1,
    /// Mode 2.
    RateGenerator = 2,
    /// Mode 3.
    SquareWave = 3,
    /// Mode 4.
    SoftwareTriggeredStrobe = 4,
    /// Mode 5.
    HardwareTriggeredStrobe = 5,
}

impl Mode {
    /// From M2-M0; in modes 2 and 3 "M2 is a don't care".
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::InterruptOnTerminalCount,
            1 => Self::HardwareRetriggerableOneShot,
            2 | 6 => Self::RateGenerator,
            3 | 7 => Self::SquareWave,
            4 => Self::SoftwareTriggeredStrobe,
            _ => Self::HardwareTriggeredStrobe,
        }
    }

    /// Whether the counter reloads itself.
    #[must_use]
    pub const fn is_periodic(self) -> bool {
        matches!(self, Self::RateGenerator | Self::SquareWave)
    }

    /// Whether only a rising GATE starts the counter.
    #[must_use]
    pub const fn needs_trigger(self) -> bool {
        matches!(self, Self::HardwareRetriggerableOneShot | Self::HardwareTriggeredStrobe)
    }
}
