//! The host's ACPI tables: which interrupt controllers there are, the PM timer, how to reset and power off.

use crate::mem;
use acpi::fadt::Fadt;
use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use alloc::vec::Vec;
use core::ptr::NonNull;
use lamina_core::boot::acpi_s5::{SleepTypes, find_s5};
use lamina_core::memory::HostPhysAddr;

/// What the hypervisor uses of the host's ACPI tables. Only [`read`] makes one: it names the ports that this crate writes to.
#[derive(Clone, Debug, Default)]
pub struct Platform {
    /// Local APIC IDs of the enabled CPUs, in ascending order. Those that are only "online capable" are not there yet.
    pub(crate) apic_ids: Vec<u32>,
    /// (registers' physical address, first global system interrupt) of each IOAPIC.
    pub(crate) ioapics: Vec<(HostPhysAddr, u32)>,
    /// (ISA interrupt, global system interrupt, active low, level-triggered) where they differ from identity.
    pub(crate) overrides: Vec<(u8, u32, bool, bool)>,
    /// (I/O port, 32 bits wide) of the PM timer.
    pub(crate) pm_timer: Option<(u16, bool)>,
    /// PM1a control port, PM1b control port, and the sleep types of \_S5.
    pub(crate) power_off: Option<PowerOff>,
    /// (I/O port, value) of the reset register.
    pub(crate) reset: Option<(u16, u8)>,
}

impl Platform {
    /// Whether the firmware's tables say which CPUs there are.
    #[must_use]
    pub const fn names_cpus(&self) -> bool {
        !self.apic_ids.is_empty()
    }
}

/// How to enter S5, from the FADT and \_S5.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PowerOff {
    /// PM1a control register's port.
    pub(crate) pm1a_control: u16,
    /// PM1b control register's port, if there is one.
    pub(crate) pm1b_control: Option<u16>,
    /// SLP_TYPa and SLP_TYPb of \_S5.
    pub(crate) sleep_types: SleepTypes,
}

#[derive(Clone)]
struct WindowHandler;

impl AcpiHandler for WindowHandler {
    unsafe fn map_physical_region<T>(&self, physical_address: usize, size: usize) -> PhysicalMapping<Self, T> {
        let Some(start) = mem::ptr_to(HostPhysAddr(physical_address as u64), size as u64).and_then(NonNull::new) else {
            panic!("ACPI table at {physical_address:#x} + {size:#x} is outside the mapped physical memory");
        };
        // SAFETY: the region is mapped in the window for good; the caller vouches that a `T` lies there.
        unsafe { PhysicalMapping::new(physical_address, start.cast(), size, size, Self) }
    }

    fn unmap_physical_region<T>(_region: &PhysicalMapping<Self, T>) {}
}

/// Reads the tables. What is missing or malformed is left out, with a warning; the hypervisor can do without.
#[must_use]
pub fn read(rsdp: Option<HostPhysAddr>) -> Platform {
    let mut platform = Platform::default();
    let Some(rsdp) = rsdp else {
        log::warn!("no ACPI RSDP: the firmware has no ACPI tables, or the boot loader found none");
        return platform;
    };
    // SAFETY: the boot loader took the RSDP's address from the firmware; the crate checks signature and checksum.
    let tables = match unsafe { AcpiTables::from_rsdp(WindowHandler, rsdp.0 as usize) } {
        Ok(tables) => tables,
        Err(error) => {
            log::warn!("ACPI tables are not usable: {error:?}");
            return platform;
        }
    };
    match tables.find_table::<Madt>() {
        Ok(madt) => read_madt(&madt, &mut platform),
        Err(error) => log::warn!("ACPI: no MADT: {error:?}"),
    }
    match tables.find_table::<Fadt>() {
        Ok(fadt) => read_fadt(&fadt, &tables, &mut platform),
        Err(error) => log::warn!("ACPI: no FADT: {error:?}"),
    }
    platform
}

fn read_madt(madt: &PhysicalMapping<WindowHandler, Madt>, platform: &mut Platform) {
    const ENABLED: u32 = 1;
    for entry in madt.get().entries() {
        match entry {
            MadtEntry::LocalApic(entry) if entry.flags & ENABLED != 0 => {
                platform.apic_ids.push(u32::from(entry.apic_id))
            }
            MadtEntry::LocalX2Apic(entry) if entry.flags & ENABLED != 0 => platform.apic_ids.push(entry.x2apic_id),
            MadtEntry::IoApic(entry) => platform
                .ioapics
                .push((HostPhysAddr(u64::from(entry.io_apic_address)), entry.global_system_interrupt_base)),
            MadtEntry::InterruptSourceOverride(entry) => {
                // MPS INTI flags: polarity in bits 1:0 (3 = active low), trigger mode in bits 3:2 (3 = level).
                let (active_low, level) = (entry.flags & 0b11 == 0b11, entry.flags >> 2 & 0b11 == 0b11);
                platform.overrides.push((entry.irq, entry.global_system_interrupt, active_low, level));
            }
            _ => {}
        }
    }
    platform.apic_ids.sort_unstable();
    platform.apic_ids.dedup();
}

fn read_fadt(fadt: &PhysicalMapping<WindowHandler, Fadt>, tables: &AcpiTables<WindowHandler>, platform: &mut Platform) {
    let io_port = |register: acpi::address::GenericAddress| {
        (register.address_space == acpi::address::AddressSpace::SystemIo)
            .then(|| u16::try_from(register.address).ok().filter(|&port| port != 0))
            .flatten()
    };
    if let Ok(Some(port)) = fadt.pm_timer_block().map(|register| register.and_then(io_port)) {
        let flags = { fadt.flags };
        platform.pm_timer = Some((port, flags.pm_timer_is_32_bit()));
    }
    let flags = { fadt.flags };
    if flags.supports_system_reset_via_fadt() {
        let value = fadt.reset_value;
        platform.reset = fadt.reset_register().ok().and_then(io_port).map(|port| (port, value));
    }
    let sleep_types = tables.dsdt().ok().and_then(|dsdt| {
        let start = mem::ptr_to(HostPhysAddr(dsdt.address as u64), u64::from(dsdt.length))?;
        // SAFETY: the crate checked the DSDT's checksum over this range, which lies in the window; nobody writes to it.
        find_s5(unsafe { core::slice::from_raw_parts(start, dsdt.length as usize) })
    });
    if let (Some(sleep_types), Some(pm1a_control)) = (sleep_types, fadt.pm1a_control_block().ok().and_then(io_port)) {
        let pm1b_control = fadt.pm1b_control_block().ok().flatten().and_then(io_port);
        platform.power_off = Some(PowerOff { pm1a_control, pm1b_control, sleep_types });
    }
}
