//! The WDAT: how to use the watchdog ([`crate::device::watchdog`]), as one access to a register for each action
//! ("Hardware Watchdog Timers Design Specification" by Microsoft, "Watchdog Action Table").
//!
//! Linux makes its device `wdat_wdt` of it where the watchdog is enabled, is no PCI device, and none of its registers is the
//! RTC's memory.

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, port};
use crate::device::watchdog::spec::{CONTROL, COUNT, COUNT_MAX, COUNT_MIN, COUNT_MS, Control, LEFT, STATUS, Status};
use acpi_tables::gas::{AccessSize, GAS};
use acpi_tables::sdt::Sdt;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

/// What an action is for.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Action {
    Reset = 1,
    QueryCurrentCountdown = 4,
    QueryCountdown = 5,
    SetCountdown = 6,
    QueryRunningState = 8,
    SetRunningState = 9,
    QueryStoppedState = 10,
    SetStoppedState = 11,
    QueryReboot = 16,
    SetReboot = 17,
    QueryShutdown = 18,
    SetShutdown = 19,
    QueryStatus = 32,
    SetStatus = 33,
}

/// How an action is done.
#[derive(Clone, Copy)]
enum Access {
    /// The answer is whether the bits under the mask have this value.
    ReadValue(u32),
    ReadCountdown,
    /// This value is written to the bits under the mask, and the others stay.
    WriteValue(u32),
    /// This value is written.
    WriteWhole(u32),
    WriteCountdown,
}

impl Access {
    /// "Instruction flags", and the value.
    const fn encode(self) -> (u8, u32) {
        const PRESERVE_REGISTER: u8 = 0x80;
        match self {
            Self::ReadValue(value) => (0, value),
            Self::ReadCountdown => (1, 0),
            Self::WriteWhole(value) => (2, value),
            Self::WriteValue(value) => (2 | PRESERVE_REGISTER, value),
            Self::WriteCountdown => (3, 0),
        }
    }
}

const RUN: u32 = Control::RUN.bits();
const SHUTDOWN: u32 = Control::SHUTDOWN.bits();
const FIRED: u32 = Status::FIRED.bits();

/// Each action: its register, its access and its mask.
const ENTRIES: [(Action, u16, Access, u32); 14] = [
    (Action::Reset, LEFT, Access::WriteWhole(1), u32::MAX),
    (Action::QueryCurrentCountdown, LEFT, Access::ReadCountdown, u32::MAX),
    (Action::QueryCountdown, COUNT, Access::ReadCountdown, u32::MAX),
    (Action::SetCountdown, COUNT, Access::WriteCountdown, u32::MAX),
    (Action::QueryRunningState, CONTROL, Access::ReadValue(RUN), RUN),
    (Action::SetRunningState, CONTROL, Access::WriteValue(RUN), RUN),
    (Action::QueryStoppedState, CONTROL, Access::ReadValue(0), RUN),
    (Action::SetStoppedState, CONTROL, Access::WriteValue(0), RUN),
    (Action::QueryReboot, CONTROL, Access::ReadValue(0), SHUTDOWN),
    (Action::SetReboot, CONTROL, Access::WriteValue(0), SHUTDOWN),
    (Action::QueryShutdown, CONTROL, Access::ReadValue(SHUTDOWN), SHUTDOWN),
    (Action::SetShutdown, CONTROL, Access::WriteValue(SHUTDOWN), SHUTDOWN),
    (Action::QueryStatus, STATUS, Access::ReadValue(FIRED), FIRED),
    // Cleared by a one.
    (Action::SetStatus, STATUS, Access::WriteWhole(FIRED), FIRED),
];

/// What comes between the table's header and its entries.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    len_bytes: U32,
    /// All-ones: the watchdog is no PCI device.
    pci_segment: U16,
    pci_bus: u8,
    pci_device: u8,
    pci_function: u8,
    reserved_0: [u8; 3],
    timer_period_ms: U32,
    max_count: U32,
    min_count: U32,
    flags: u8,
    reserved_1: [u8; 3],
    entries: U32,
}

/// One entry.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Entry {
    action: u8,
    instruction: u8,
    reserved: [u8; 2],
    register: [u8; 12],
    value: U32,
    mask: U32,
}

/// The table.
pub(super) fn table() -> Sdt {
    /// "The watchdog timer is enabled": it can be used.
    const ENABLED: u8 = 1 << 0;
    let mut wdat = Sdt::new(*b"WDAT", 36, 1, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let header = Header {
        len_bytes: 32.into(),
        pci_segment: 0xff.into(),
        pci_bus: 0xff,
        pci_device: 0xff,
        pci_function: 0xff,
        reserved_0: [0; 3],
        timer_period_ms: COUNT_MS.into(),
        max_count: COUNT_MAX.into(),
        min_count: COUNT_MIN.into(),
        flags: ENABLED,
        reserved_1: [0; 3],
        entries: u32::try_from(ENTRIES.len()).unwrap_or(0).into(),
    };
    wdat.append_slice(header.as_bytes());
    for (action, register, access, mask) in ENTRIES {
        let (instruction, value) = access.encode();
        let register: GAS = port(32, AccessSize::DwordAccess, register);
        let mut bytes = [0; 12];
        bytes.copy_from_slice(register.as_bytes());
        let entry = Entry {
            action: action as u8,
            instruction,
            reserved: [0; 2],
            register: bytes,
            value: value.into(),
            mask: mask.into(),
        };
        wdat.append_slice(entry.as_bytes());
    }
    wdat
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Width;
    use crate::device::board::{Board, BoardConfig, PortWrite};
    use crate::time::TickClock;

    const TSC_HZ: u64 = 1_000_000;
    const MS: u64 = TSC_HZ / 1_000;

    /// A driver that knows nothing but the table.
    struct Driver {
        table: std::vec::Vec<u8>,
        board: Board,
        now: u64,
    }

    impl Driver {
        fn new(watchdog_fired: bool) -> Self {
            let clock = TickClock::new(TSC_HZ);
            let config = BoardConfig {
                clock,
                ram_len_bytes: 1 << 20,
                boot_time_unix_s: 0,
                ioapic_id: 1,
                balloon: false,
                watchdog_fired,
            };
            Self { table: table().as_slice().to_vec(), board: Board::new(&config), now: 0 }
        }

        fn u32_at(&self, at: usize) -> u32 {
            u32::from_le_bytes(self.table[at..at + 4].try_into().unwrap())
        }

        fn read(&mut self, register: u16) -> u32 {
            self.board.port_read(register, Width::Dword, self.now).expect("a register is there")
        }

        /// Carries out the one entry of an action, as the specification says.
        fn run(&mut self, action: u8, count: u32) -> u32 {
            let entry = (68..self.table.len()).step_by(24).find(|at| self.table[*at] == action).expect("an entry");
            let instruction = self.table[entry + 1];
            assert_eq!(self.table[entry + 4..entry + 8], [1, 32, 0, 3], "a double word in I/O space");
            assert_eq!(self.table[entry + 10..entry + 16], [0; 6]);
            let register = u16::from_le_bytes([self.table[entry + 8], self.table[entry + 9]]);
            assert!(!(0x70..0x78).contains(&register), "the RTC's");
            let (value, mask) = (self.u32_at(entry + 16), self.u32_at(entry + 20));
            let written = match instruction & 0x7f {
                0 => return u32::from(self.read(register) & mask == value),
                1 => return self.read(register) & mask,
                2 => value & mask,
                3 => count & mask,
                other => panic!("instruction {other}"),
            };
            let kept = if instruction & 0x80 != 0 { self.read(register) & !mask } else { 0 };
            let done = self.board.port_write(register, Width::Dword, written | kept, self.now);
            assert_eq!(done, PortWrite::Done);
            0
        }
    }

    #[test]
    fn the_header_is_that_of_an_enabled_watchdog_that_is_no_pci_device() {
        let driver = Driver::new(false);
        assert_eq!((driver.u32_at(36), driver.table.len()), (32, 68 + 14 * 24));
        assert_eq!(driver.table[40..48], [0xff, 0, 0xff, 0xff, 0xff, 0, 0, 0]);
        assert_eq!((driver.u32_at(48), driver.u32_at(52), driver.u32_at(56)), (1, 3_600_000, 1));
        assert_eq!((driver.table[60], driver.u32_at(64)), (1, 14));
    }

    #[test]
    fn a_driver_that_reads_the_table_drives_the_watchdog() {
        let mut driver = Driver::new(true);
        assert_eq!(driver.run(32, 0), 1, "the boot status");
        driver.run(33, 0);
        assert_eq!((driver.run(32, 0), driver.run(8, 0), driver.run(10, 0)), (0, 0, 1), "cleared; stopped");
        driver.run(6, 30);
        assert_eq!(driver.run(5, 0), 30);
        driver.run(19, 0);
        assert_eq!((driver.run(18, 0), driver.run(16, 0)), (1, 0));
        driver.run(9, 0);
        assert_eq!((driver.run(8, 0), driver.run(10, 0), driver.run(18, 0)), (1, 0, 1), "it runs; the rest is kept");
        driver.run(17, 0);
        assert_eq!((driver.run(16, 0), driver.run(8, 0)), (1, 1));
        driver.now = 20 * MS;
        assert_eq!(driver.run(4, 0), 10);
        driver.run(1, 0);
        assert_eq!(driver.run(4, 0), 30);
        assert_eq!(driver.board.next_deadline(), Some(50 * MS));
        driver.run(11, 0);
        assert_eq!(driver.run(8, 0), 0);
        driver.run(9, 0);
        driver.board.expire(50 * MS - 1);
        assert_eq!(driver.board.watchdog_fired(), None);
        driver.board.expire(50 * MS);
        assert_eq!(driver.board.watchdog_fired(), Some(30));
    }
}
