//! The power button: the ACPI mode, the SCI through the IOAPIC, and the way to the soft-off state by `\_S5`.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::acpi::{self, FixedHardware};
use crate::{apic, check, fail, port, serial, smp, trap};

const SCI_VECTOR: u8 = 0x41;
/// PM1 status and enable: the power button.
const POWER_BUTTON: u16 = 1 << 8;
/// PM1 control: the ACPI mode is on.
const SCI_EN: u16 = 1 << 0;
/// PM1 control: go to the sleeping state in SLP_TYP.
const SLP_EN: u16 = 1 << 13;
const SLP_TYP_SHIFT: u32 = 10;

/// The port of the PM1 status register, for the handler.
static STATUS_PORT: AtomicU32 = AtomicU32::new(0);
static PRESSED: AtomicU32 = AtomicU32::new(0);

/// The power button, listened to.
#[derive(Debug)]
pub struct PowerButton(FixedHardware);

impl PowerButton {
    /// Goes to the ACPI mode and enables the power button's event. The local APIC must be on.
    #[must_use]
    pub fn listen() -> Self {
        let hardware = acpi::fixed_hardware();
        let (smi_port, acpi_enable) = hardware.smi_command;
        if smi_port != 0 && port::read_u16(hardware.pm1a_control) & SCI_EN == 0 {
            port::write_u8(smi_port, acpi_enable);
        }
        check!(port::read_u16(hardware.pm1a_control) & SCI_EN != 0, "SCI_EN is 0: no ACPI mode");
        STATUS_PORT.store(u32::from(hardware.pm1a_status), Relaxed);
        trap::on(SCI_VECTOR, on_sci);
        let (pin, how) = acpi::isa_interrupt(hardware.sci);
        apic::ioapic_write(0x10 + 2 * pin + 1, apic::own_id() << 24);
        apic::ioapic_write(0x10 + 2 * pin, how | u32::from(SCI_VECTOR));
        port::write_u16(hardware.pm1a_enable, POWER_BUTTON);
        let enabled = port::read_u16(hardware.pm1a_enable);
        check!(enabled == POWER_BUTTON, "PM1 enable is {enabled:#x} with the power button's bit set");
        Self(hardware)
    }

    /// How often it was pressed.
    #[must_use]
    pub fn presses(&self) -> u32 {
        PRESSED.load(Relaxed)
    }

    /// Switches the machine off.
    pub fn switch_off(&self) -> ! {
        serial::wait_until_empty();
        port::write_u16(self.0.pm1a_control, self.0.s5_type << SLP_TYP_SHIFT | SLP_EN);
        smp::wait_us(1_000_000);
        fail!("still running a second after SLP_EN was set");
    }
}

/// The line is level-triggered: the status is cleared, by writing ones, before the interrupt ends.
fn on_sci(_: &mut trap::TrapFrame) {
    let status = STATUS_PORT.load(Relaxed) as u16;
    let events = port::read_u16(status);
    port::write_u16(status, events);
    if events & POWER_BUTTON != 0 {
        PRESSED.fetch_add(1, Relaxed);
    }
    apic::end_of_interrupt();
}
