//! The DSDT: a PCI host bridge, COM1, the RTC, the pvpanic port, the ports of what else is there, and the memory balloon of
//! a VM that has one.

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::device::board::spec::{BALLOON_BASE, BALLOON_END, BALLOON_PIN};
use crate::device::pm::spec::{PM_END, PM1A_EVENT, SLP_TYP_S5};
use crate::device::pvpanic::spec::PVPANIC;
use crate::loader::layout::{FIXED_DEVICES_START, LOW_RAM_LIMIT};
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, Device, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule,
    FieldUpdateRule, IO, Interrupt, Memory32Fixed, Method, Name, OpRegion, OpRegionSpace, Package, Path,
    ResourceTemplate, Return, Scope, Store,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};
use alloc::vec;
use alloc::vec::Vec;

/// How many ports power management has.
const PM_PORTS: u8 = (PM_END - PM1A_EVENT).to_le_bytes()[0];

/// The DSDT: what cannot be found by looking. The ports of PIC, PIT and RTC are told so that nobody else takes them.
pub(super) fn table(balloon: bool) -> Sdt {
    let mut aml = Vec::new();
    let [s5, _] = SLP_TYP_S5.to_le_bytes();
    Name::new("_S5_".into(), &Package::new(vec![&s5, &s5, &0u8, &0u8])).to_aml_bytes(&mut aml);
    host_bridge(&mut aml);
    legacy_device(&mut aml, "COM1", "PNP0501", &[IO::new(0x3f8, 0x3f8, 1, 8)], Some(4));
    legacy_device(&mut aml, "RTC_", "PNP0B00", &[IO::new(0x70, 0x70, 1, 2)], Some(8));
    legacy_device(&mut aml, "TMR_", "PNP0100", &[IO::new(0x40, 0x40, 1, 4)], None);
    legacy_device(&mut aml, "PIC_", "PNP0000", &[IO::new(0x20, 0x20, 1, 2), IO::new(0xa0, 0xa0, 1, 2)], Some(2));
    // Power management and interrupt-mode ports, which no driver claims by itself.
    let motherboard = [IO::new(0x4d0, 0x4d0, 1, 2), IO::new(PM1A_EVENT, PM1A_EVENT, 1, PM_PORTS)];
    legacy_device(&mut aml, "MBRD", "PNP0C02", &motherboard, None);
    pvpanic(&mut aml);
    if balloon {
        virtio_mmio_device(&mut aml, "VIO0", BALLOON_BASE..BALLOON_END, BALLOON_PIN);
    }

    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(&aml);
    table
}

fn low_u32(gpa: u64) -> u32 {
    u32::try_from(gpa).unwrap_or(u32::MAX)
}

/// The PCI host bridge: configuration ports, the I/O ports around them, and the memory below the fixed devices.
/// Nothing has an interrupt line yet, so `_PRT` is empty.
fn host_bridge(aml: &mut dyn AmlSink) {
    let (window_start, window_end) = (low_u32(LOW_RAM_LIMIT), low_u32(FIXED_DEVICES_START - 1));
    let buses = AddressSpace::new_bus_number(0u16, 0u16);
    let configuration = IO::new(0xcf8, 0xcf8, 1, 8);
    let ports_below = AddressSpace::new_io(0u16, 0xcf7u16, None);
    let ports_above = AddressSpace::new_io(0xd00u16, 0xffffu16, None);
    let memory = AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, window_start, window_end, None);
    let resources = ResourceTemplate::new(vec![&buses, &configuration, &ports_below, &ports_above, &memory]);
    let (hid, uid, prt) =
        (Name::new("_HID".into(), &EISAName::new("PNP0A03")), Name::new("_UID".into(), &0u8), Package::new(vec![]));
    let (crs, prt) = (Name::new("_CRS".into(), &resources), Name::new("_PRT".into(), &prt));
    let bridge = Device::new("PCI0".into(), vec![&hid, &uid, &crs, &prt]);
    Scope::new("_SB_".into(), vec![&bridge]).to_aml_bytes(aml);
}

/// A device at fixed ports, with an edge-triggered ISA interrupt if it has one.
fn legacy_device(aml: &mut dyn AmlSink, name: &str, id: &str, ports: &[IO], irq: Option<u32>) {
    let interrupt = irq.map(|irq| Interrupt::new(true, true, false, false, irq));
    let mut resources: Vec<&dyn Aml> = ports.iter().map(|io| io as &dyn Aml).collect();
    resources.extend(interrupt.iter().map(|interrupt| interrupt as &dyn Aml));
    let hid = Name::new("_HID".into(), &EISAName::new(id));
    let uid = Name::new("_UID".into(), &0u8);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(resources));
    let device = Device::new(name.into(), vec![&hid, &uid, &crs]);
    Scope::new("_SB_".into(), vec![&device]).to_aml_bytes(aml);
}

/// The pvpanic port, with the methods by which a driver without port I/O reads and writes it (QEMU's documentation, "PVPANIC
/// DEVICE", "ACPI Interface").
fn pvpanic(aml: &mut dyn AmlSink) {
    let byte = Path::new("PEPT");
    let hid = Name::new("_HID".into(), &"QEMU0001");
    let port = IO::new(PVPANIC, PVPANIC, 1, 1);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&port]));
    let region = OpRegion::new("PEOR".into(), OpRegionSpace::SystemIO, &PVPANIC, &1u8);
    let entries = vec![FieldEntry::Named(*b"PEPT", 8)];
    let lock = FieldLockRule::NoLock;
    let field = Field::new("PEOR".into(), FieldAccessType::Byte, lock, FieldUpdateRule::Preserve, entries);
    let (read, write) = (Return::new(&byte), Store::new(&byte, &Arg(0)));
    let (read, write) =
        (Method::new("RDPT".into(), 0, true, vec![&read]), Method::new("WRPT".into(), 1, true, vec![&write]));
    let device = Device::new("PEVT".into(), vec![&hid, &crs, &region, &field, &read, &write]);
    Scope::new("_SB_".into(), vec![&device]).to_aml_bytes(aml);
}

/// A virtio device behind registers in memory, with a level-triggered, active-high interrupt. `LNRO0005` is the ID
/// under which operating systems look for such devices; what it is, its registers say.
fn virtio_mmio_device(aml: &mut dyn AmlSink, name: &str, registers: core::ops::Range<u64>, gsi: u8) {
    let memory = Memory32Fixed::new(true, low_u32(registers.start), low_u32(registers.end - registers.start));
    let interrupt = Interrupt::new(true, false, false, false, gsi.into());
    let hid = Name::new("_HID".into(), &"LNRO0005");
    let uid = Name::new("_UID".into(), &0u8);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&memory, &interrupt]));
    let device = Device::new(name.into(), vec![&hid, &uid, &crs]);
    Scope::new("_SB_".into(), vec![&device]).to_aml_bytes(aml);
}
