//! The IOAPICs: COM1's interrupt goes to the boot CPU, every other one nowhere.

use crate::acpi::Platform;
use crate::cpu;
use crate::mem::{self, MapError};
use crate::serial::COM1_IRQ;
use x2apic::ioapic::{IoApic, IrqFlags, IrqMode, RedirectionTableEntry};

/// Routes COM1's interrupt to the CPU that calls. Without an IOAPIC the console is polled at every clock event.
pub(super) fn route(platform: &Platform) -> Result<(), MapError> {
    let (gsi, active_low, level) = platform
        .overrides
        .iter()
        .find(|(irq, ..)| *irq == COM1_IRQ)
        .map_or((u32::from(COM1_IRQ), false, false), |&(_, gsi, active_low, level)| (gsi, active_low, level));
    let mut routed = false;
    for &(address, first_gsi) in &platform.ioapics {
        let registers = mem::map_mmio(address)?;
        // SAFETY: the address is an IOAPIC's by the MADT, mapped uncacheable for good; nobody else touches its registers.
        let mut ioapic = unsafe { IoApic::new(registers) };
        // SAFETY: as above. Every entry is masked, so that no interrupt the firmware left on comes in.
        let last_pin = unsafe { ioapic.max_table_entry() };
        for pin in 0..=last_pin {
            let mut entry = RedirectionTableEntry::default();
            entry.set_mode(IrqMode::Fixed);
            entry.set_vector(cpu::SERIAL_VECTOR);
            let mut flags = IrqFlags::MASKED;
            if gsi == first_gsi + u32::from(pin) {
                flags = IrqFlags::empty();
                flags.set(IrqFlags::LOW_ACTIVE, active_low);
                flags.set(IrqFlags::LEVEL_TRIGGERED, level);
                entry.set_dest(super::local_id() as u8);
                routed = true;
            }
            entry.set_flags(flags);
            // SAFETY: the vector has a handler; the destination is this CPU.
            unsafe { ioapic.set_table_entry(pin, entry) };
        }
    }
    if !routed {
        log::warn!("no IOAPIC takes COM1's interrupt (GSI {gsi}): console input is polled");
    }
    Ok(())
}
