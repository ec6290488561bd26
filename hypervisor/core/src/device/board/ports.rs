//! The board's I/O ports.
//!
//! Most devices of a PC are 8 bits wide. The ISA bus splits a wider access into one cycle per byte, in ascending order, and so does
//! this: what no device claims reads all-ones, byte for byte.

use super::spec::POST_CODE;
use super::{Board, PortWrite};
use crate::bus::Width;
use crate::device::exit_port::EXIT_PORT;
use crate::device::i8042;
use crate::device::pci::spec::{CONFIG_ADDRESS, CONFIG_DATA, CONFIG_DATA_END};
use crate::device::pic::spec::{ELCR_MASTER, ELCR_SLAVE, MASTER_COMMAND, MASTER_DATA, SLAVE_COMMAND, SLAVE_DATA};
use crate::device::pit::spec::{CONTROL, COUNTER_0, PORT_B};
use crate::device::pm::spec::{PM_END, PM_TIMER, PM1A_EVENT};
use crate::device::pvpanic::{Pvpanic, spec::PVPANIC};
use crate::device::reset::spec::{PORT_92, RESET_CONTROL};
use crate::device::rtc::spec::{DATA_PORT, INDEX_PORT};
use crate::device::uart::spec::COM1;
use crate::device::watchdog::spec::{COUNT, WATCHDOG_END};

/// The last port of COM1.
const COM1_END: u16 = COM1 + 7;
/// The last port of the ACPI registers.
const PM_LAST: u16 = PM_END - 1;
/// The last port of the watchdog, all of whose registers are double words.
const WATCHDOG_LAST: u16 = WATCHDOG_END - 1;

impl Board {
    /// A read of `width` at `port`. `None`: no device, the guest gets all-ones.
    pub fn port_read(&mut self, port: u16, width: Width, now: u64) -> Option<u32> {
        self.now = now;
        match (width, port) {
            (Width::Byte, _) => self.read_byte(port).map(u32::from),
            // The host bridge's register, and the only one that must not be torn.
            (Width::Dword, CONFIG_ADDRESS) => Some(self.pci.read_address()),
            (Width::Dword, PM_TIMER) => Some(self.pm.timer(now)),
            (Width::Dword, COUNT..=WATCHDOG_LAST) => self.watchdog.read(port, now),
            (Width::Word | Width::Dword, _) => self.read_bytes(port, width),
            (Width::Qword, _) => None,
        }
    }

    /// A write of `width` at `port`; of `value`, the bytes of that width count.
    pub fn port_write(&mut self, port: u16, width: Width, value: u32, now: u64) -> PortWrite {
        self.now = now;
        let [byte, high, ..] = value.to_le_bytes();
        match (width, port) {
            (Width::Byte, EXIT_PORT) => PortWrite::Exit(u32::from(byte)),
            (Width::Byte, _) => self.write_byte(port, byte),
            (Width::Word, EXIT_PORT) => PortWrite::Exit(u32::from(u16::from_le_bytes([byte, high]))),
            (Width::Dword, EXIT_PORT) => PortWrite::Exit(value),
            (Width::Dword, CONFIG_ADDRESS) => {
                self.pci.write_address(value);
                PortWrite::Done
            }
            (Width::Dword, COUNT..=WATCHDOG_LAST) if self.watchdog.write(port, value, now) => PortWrite::Done,
            (Width::Word | Width::Dword, _) => self.write_bytes(port, width, value),
            (Width::Qword, _) => PortWrite::Unclaimed,
        }
    }

    fn read_bytes(&mut self, port: u16, width: Width) -> Option<u32> {
        let mut value = 0;
        let mut claimed = false;
        for (offset, shift) in (0..).zip((0..width.bytes() * 8).step_by(8)) {
            let byte = port.checked_add(offset).and_then(|port| self.read_byte(port));
            claimed |= byte.is_some();
            value |= u32::from(byte.unwrap_or(0xff)) << shift;
        }
        claimed.then_some(value)
    }

    /// The first byte that ends the machine ends the access.
    fn write_bytes(&mut self, port: u16, width: Width, value: u32) -> PortWrite {
        let mut result = PortWrite::Unclaimed;
        for (offset, byte) in (0..width.bytes()).zip(value.to_le_bytes()) {
            let Some(port) = u16::try_from(offset).ok().and_then(|offset| port.checked_add(offset)) else { break };
            match self.write_byte(port, byte) {
                PortWrite::Unclaimed => {}
                PortWrite::Done => result = PortWrite::Done,
                end => return end,
            }
        }
        result
    }

    /// The devices that a running guest uses all the time; the others are behind a call, so that this stays short.
    fn read_byte(&mut self, port: u16) -> Option<u8> {
        Some(match port {
            COUNTER_0..=CONTROL | PORT_B => self.pit.read(port, self.now),
            MASTER_COMMAND | MASTER_DATA | SLAVE_COMMAND | SLAVE_DATA => self.pics.read(port),
            COM1..=COM1_END => {
                let offset = port - COM1;
                let changes = self.uart.read_changes(offset);
                let value = self.uart.read(offset);
                if changes {
                    self.update_uart_line();
                }
                value
            }
            _ => return self.read_rare_byte(port),
        })
    }

    /// See [`Self::read_byte`].
    fn write_byte(&mut self, port: u16, value: u8) -> PortWrite {
        match port {
            COUNTER_0..=CONTROL | PORT_B => {
                if self.pit.write(port, value, self.now) {
                    self.update_pit_line();
                }
            }
            MASTER_COMMAND | MASTER_DATA | SLAVE_COMMAND | SLAVE_DATA => self.pics.write(port, value),
            COM1..=COM1_END => {
                self.uart.write(port - COM1, value);
                self.update_uart_line();
            }
            _ => return self.write_rare_byte(port, value),
        }
        PortWrite::Done
    }

    #[inline(never)]
    fn read_rare_byte(&mut self, port: u16) -> Option<u8> {
        let now = self.now;
        Some(match port {
            ELCR_MASTER | ELCR_SLAVE => self.pics.read(port),
            INDEX_PORT | DATA_PORT => {
                let value = self.rtc.read(port, now);
                self.update_rtc_line();
                value
            }
            i8042::DATA | i8042::COMMAND => i8042::read(port),
            POST_CODE => self.post_code,
            PORT_92 => self.reset.read_port_92(),
            PVPANIC => Pvpanic::read(),
            RESET_CONTROL => self.reset.read_reset_control(),
            CONFIG_DATA..=CONFIG_DATA_END => return self.pci.read_data(port),
            PM1A_EVENT..=PM_LAST => {
                let value = self.pm.read(port, now);
                self.update_sci();
                return value;
            }
            _ => return None,
        })
    }

    #[inline(never)]
    fn write_rare_byte(&mut self, port: u16, value: u8) -> PortWrite {
        let now = self.now;
        match port {
            ELCR_MASTER | ELCR_SLAVE => self.pics.write(port, value),
            INDEX_PORT | DATA_PORT => {
                self.rtc.write(port, value, now);
                self.update_rtc_line();
            }
            POST_CODE => self.post_code = value,
            i8042::DATA | i8042::COMMAND => return reset_if(i8042::write(port, value)),
            PORT_92 => return reset_if(self.reset.write_port_92(value)),
            RESET_CONTROL => return reset_if(self.reset.write_reset_control(value)),
            PVPANIC if self.pvpanic.write(value) => return PortWrite::Panicked,
            PVPANIC => {}
            CONFIG_DATA..=CONFIG_DATA_END => {
                if self.pci.write_data(port, value).is_none() {
                    return PortWrite::Unclaimed;
                }
            }
            PM1A_EVENT..=PM_LAST => {
                let outcome = self.pm.write(port, value, now);
                self.update_sci();
                return match outcome {
                    None => PortWrite::Unclaimed,
                    Some(false) => PortWrite::Done,
                    Some(true) => PortWrite::PowerOff,
                };
            }
            _ => return PortWrite::Unclaimed,
        }
        PortWrite::Done
    }
}

const fn reset_if(reset: bool) -> PortWrite {
    if reset { PortWrite::Reset } else { PortWrite::Done }
}
