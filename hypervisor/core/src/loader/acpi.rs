//! The guest's ACPI tables: RSDP, RSDT, XSDT, FADT, FACS, MADT and a DSDT with a PCI host bridge, COM1 and the RTC.
//!
//! Source: "Advanced Configuration and Power Interface (ACPI) Specification", revision 6.5. They describe the
//! devices of `device/` at their fixed addresses; the ACPI mode is always on (no SMI command port).

use super::layout::{ACPI_START, FIXED_DEVICES_START, LOW_RAM_LIMIT};
use super::space::GuestSpace;
use super::{LoadError, MAX_VCPUS};
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package, ResourceTemplate, Scope,
};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{self, AccessSize, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use alloc::vec;
use alloc::vec::Vec;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

const OEM_ID: [u8; 6] = *b"LAMINA";
const OEM_TABLE_ID: [u8; 8] = *b"LAMINAVM";
const OEM_REVISION: u32 = 1;

/// Where the local APICs are seen.
const LOCAL_APIC_GPA: u32 = 0xfee0_0000;
/// Where the IOAPIC is seen; it has ID 0 and takes the global system interrupts from 0 on.
const IO_APIC_GPA: u32 = 0xfec0_0000;
/// PM1a event block: status and enable register, 2 bytes each.
const PM1A_EVENT_PORT: u16 = 0x600;
/// PM1a control register, 2 bytes.
const PM1A_CONTROL_PORT: u16 = 0x604;
/// PM timer, 4 bytes.
const PM_TIMER_PORT: u16 = 0x608;
/// Reset control register; [`RESET_VALUE`] written to it resets the machine.
const RESET_PORT: u16 = 0xcf9;
const RESET_VALUE: u8 = 6;
/// The interrupt of the PM1a event block: a level-triggered, active-high ISA interrupt.
const SCI: u8 = 9;
/// SLP_TYP of the soft-off state S5.
const SLP_TYP_S5: u8 = 5;
/// IA-PC boot architecture flags: legacy devices are there (the serial port, the RTC), VGA is not; no 8042 as a
/// keyboard controller, so that nobody waits for it.
const BOOT_ARCHITECTURE: u16 = (1 << 0) | (1 << 2);
/// C-state latencies above which the state "is not supported" (P_LVL2_LAT > 100, P_LVL3_LAT > 1000).
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

/// Places the tables for `vcpus` vCPUs at [`ACPI_START`] and gives the address of the RSDP, which is the first.
pub(super) fn place(space: &mut GuestSpace<'_>, vcpus: u32) -> Result<u64, LoadError> {
    let vcpus = u8::try_from(vcpus.min(MAX_VCPUS)).unwrap_or(u8::MAX);
    space.write("ACPI tables", ACPI_START, &tables(ACPI_START, vcpus))?;
    Ok(ACPI_START)
}

/// The tables one behind the other as they are at `base`, each on a multiple of 64 (which the FACS asks for).
fn tables(base: u64, vcpus: u8) -> Vec<u8> {
    // The RSDP's place is kept; it is written last, when its pointers are known.
    let mut area = Area { base, bytes: vec![0; Rsdp::len()] };
    let facs = area.push(&FACS::new());
    let dsdt = area.push(&dsdt());
    let fadt = area.push(&fadt(facs, dsdt));
    let madt = area.push(&madt(vcpus));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(u64::from(fadt));
    xsdt.add_entry(u64::from(madt));
    let xsdt = area.push(&xsdt);
    let mut rsdt = Sdt::new(*b"RSDT", 36, 1, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    rsdt.append_slice(&fadt.to_le_bytes());
    rsdt.append_slice(&madt.to_le_bytes());
    let rsdt = area.push(&rsdt);
    let rsdp = rsdp(xsdt, rsdt);
    area.bytes.splice(..rsdp.len(), rsdp);
    area.bytes
}

/// Tables being laid out from a guest-physical address on.
struct Area {
    base: u64,
    bytes: Vec<u8>,
}

impl Area {
    /// Appends a table and gives its address, which is below 1 MiB.
    fn push(&mut self, table: &dyn Aml) -> u32 {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let gpa = self.base.saturating_add(self.bytes.len() as u64);
        table.to_aml_bytes(&mut self.bytes);
        u32::try_from(gpa).unwrap_or(u32::MAX)
    }
}

/// The RSDP, with a pointer to the RSDT beside the one to the XSDT: kernels started by multiboot often know only the
/// former. The table crate leaves it 0, so it is put in and both checksums are made again.
fn rsdp(xsdt: u32, rsdt: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    Rsdp::new(OEM_ID, u64::from(xsdt)).to_aml_bytes(&mut bytes);
    for (place, value) in bytes.iter_mut().skip(16).zip(rsdt.to_le_bytes()) {
        *place = value;
    }
    for (checksum, covered) in [(8, 20), (32, 36)] {
        let sum = bytes.iter().take(covered).fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        if let Some(byte) = bytes.get_mut(checksum) {
            *byte = byte.wrapping_sub(sum);
        }
    }
    bytes
}

fn port(bits: u8, access: AccessSize, port: u16) -> GAS {
    GAS::new(gas::AddressSpace::SystemIo, bits, 0, access, u64::from(port))
}

/// The FADT. No fixed power-button flag is set, so the button in the PM1a event block is there; `SlpButton` says
/// that the sleep button is not. The PM timer is declared 24 bits wide: right for a wider one too.
fn fadt(facs: u32, dsdt: u32) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    fadt.firmware_ctrl = facs.into();
    fadt.dsdt = dsdt.into();
    fadt.x_dsdt = u64::from(dsdt).into();
    fadt.sci_int = u16::from(SCI).into();
    fadt.pm1a_evt_blk = u32::from(PM1A_EVENT_PORT).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(PM1A_CONTROL_PORT).into();
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_blk = u32::from(PM_TIMER_PORT).into();
    fadt.pm_tmr_len = 4;
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.reset_reg = port(8, AccessSize::ByteAccess, RESET_PORT);
    fadt.reset_value = RESET_VALUE;
    fadt.x_pm1a_evt_blk = port(32, AccessSize::WordAccess, PM1A_EVENT_PORT);
    fadt.x_pm1a_cnt_blk = port(16, AccessSize::WordAccess, PM1A_CONTROL_PORT);
    fadt.x_pm_tmr_blk = port(32, AccessSize::DwordAccess, PM_TIMER_PORT);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"Lamina\0\0").into();
    fadt.finalize()
}

/// MADT: "Interrupt Source Override Structure".
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct InterruptSourceOverride {
    kind: u8,
    len_bytes: u8,
    bus: u8,
    source: u8,
    global_system_interrupt: U32,
    flags: U16,
}

/// MADT: "Local APIC NMI Structure".
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct LocalApicNmi {
    kind: u8,
    len_bytes: u8,
    processor_uid: u8,
    flags: [u8; 2],
    lint: u8,
}

/// MPS INTI flags: as the bus (ISA: edge, active high) has it.
const CONFORMS: u16 = 0;
/// MPS INTI flags: active high, level-triggered.
const ACTIVE_HIGH_LEVEL: u16 = 0b1101;

/// The MADT. Made from bytes, for the table crate's own has no PCAT_COMPAT flag and no overrides.
fn madt(vcpus: u8) -> Sdt {
    /// "A one indicates that the system also has a PC-AT-compatible dual-8259 setup."
    const PCAT_COMPAT: u32 = 1;
    let mut madt = Sdt::new(*b"APIC", 36, 5, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.append_slice(&LOCAL_APIC_GPA.to_le_bytes());
    madt.append_slice(&PCAT_COMPAT.to_le_bytes());
    for id in 0..vcpus {
        madt.append_slice(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled).as_bytes());
    }
    madt.append_slice(IoApic::new(0, IO_APIC_GPA, 0).as_bytes());
    // The PIT is wired to input 2 of the IOAPIC, as on every PC since input 0 was taken by the 8259.
    for (source, gsi, flags) in [(0, 2, CONFORMS), (SCI, u32::from(SCI), ACTIVE_HIGH_LEVEL)] {
        let entry = InterruptSourceOverride {
            kind: 2,
            len_bytes: 10,
            bus: 0,
            source,
            global_system_interrupt: gsi.into(),
            flags: flags.into(),
        };
        madt.append_slice(entry.as_bytes());
    }
    let all_processors = 0xff;
    let nmi = LocalApicNmi { kind: 4, len_bytes: 6, processor_uid: all_processors, flags: [0; 2], lint: 1 };
    madt.append_slice(nmi.as_bytes());
    madt
}

/// The DSDT: what cannot be found by looking. The ports of PIC, PIT and RTC are told so that nobody else takes them.
fn dsdt() -> Sdt {
    let mut aml = Vec::new();
    let s5 = SLP_TYP_S5;
    Name::new("_S5_".into(), &Package::new(vec![&s5, &s5, &0u8, &0u8])).to_aml_bytes(&mut aml);
    host_bridge(&mut aml);
    legacy_device(&mut aml, "COM1", "PNP0501", &[IO::new(0x3f8, 0x3f8, 1, 8)], Some(4));
    legacy_device(&mut aml, "RTC_", "PNP0B00", &[IO::new(0x70, 0x70, 1, 2)], Some(8));
    legacy_device(&mut aml, "TMR_", "PNP0100", &[IO::new(0x40, 0x40, 1, 4)], None);
    legacy_device(&mut aml, "PIC_", "PNP0000", &[IO::new(0x20, 0x20, 1, 2), IO::new(0xa0, 0xa0, 1, 2)], Some(2));
    // Power management and interrupt-mode ports, which no driver claims by itself.
    let motherboard = [IO::new(0x4d0, 0x4d0, 1, 2), IO::new(PM1A_EVENT_PORT, PM1A_EVENT_PORT, 1, 12)];
    legacy_device(&mut aml, "MBRD", "PNP0C02", &motherboard, None);

    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(&aml);
    table
}

/// The PCI host bridge: configuration ports, the I/O ports around them, and the memory below the fixed devices.
/// Nothing has an interrupt line yet, so `_PRT` is empty.
fn host_bridge(aml: &mut dyn AmlSink) {
    let low_u32 = |gpa: u64| u32::try_from(gpa).unwrap_or(u32::MAX);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    /// The table at guest-physical `gpa`, its signature and sum checked.
    fn table<'a>(area: &'a [u8], gpa: u32, signature: &[u8; 4]) -> &'a [u8] {
        let at = usize::try_from(u64::from(gpa) - ACPI_START).unwrap();
        let table = &area[at..at + u32_at(area, at + 4) as usize];
        assert_eq!(&table[..4], signature);
        if signature != b"FACS" {
            assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "{signature:?}");
        }
        table
    }

    #[test]
    fn every_table_is_reached_from_the_rsdp_and_sums_to_zero() {
        let area = tables(ACPI_START, 3);
        assert_eq!(&area[..8], b"RSD PTR ");
        assert_eq!(area[15], 2, "revision");
        for len in [20, 36] {
            assert_eq!(area[..len].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        }
        let rsdt = table(&area, u32_at(&area, 16), b"RSDT");
        let xsdt = table(&area, u32_at(&area, 24), b"XSDT");
        assert_eq!((u32_at(rsdt, 36), u32_at(rsdt, 40)), (u32_at(xsdt, 36), u32_at(xsdt, 44)));
        let fadt = table(&area, u32_at(xsdt, 36), b"FACP");
        table(&area, u32_at(xsdt, 44), b"APIC");
        table(&area, u32_at(fadt, 40), b"DSDT");
        let facs = u32_at(fadt, 36);
        assert_eq!(facs % 64, 0);
        table(&area, facs, b"FACS");
    }

    #[test]
    fn the_fadt_names_the_ports_of_the_devices() {
        let mut fadt_bytes = Vec::new();
        fadt(0x1000, 0x2000).to_aml_bytes(&mut fadt_bytes);
        // Offsets by the specification's table "FADT Format".
        assert_eq!(u16::from_le_bytes([fadt_bytes[46], fadt_bytes[47]]), 9, "SCI_INT");
        assert_eq!(u32_at(&fadt_bytes, 48), 0, "SMI_CMD");
        assert_eq!(u32_at(&fadt_bytes, 56), 0x600, "PM1a_EVT_BLK");
        assert_eq!(u32_at(&fadt_bytes, 64), 0x604, "PM1a_CNT_BLK");
        assert_eq!(u32_at(&fadt_bytes, 76), 0x608, "PM_TMR_BLK");
        assert_eq!(fadt_bytes[88..92], [4, 2, 0, 4], "PM1_EVT_LEN, PM1_CNT_LEN, PM2_CNT_LEN, PM_TMR_LEN");
        let flags = u32_at(&fadt_bytes, 112);
        assert_ne!(flags & 1 << 10, 0, "RESET_REG_SUP");
        assert_eq!(flags & (1 << 4), 0, "PWR_BUTTON: the fixed power button is there");
        assert_eq!(fadt_bytes[116..128], [1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0], "RESET_REG");
        assert_eq!(fadt_bytes[128], 6, "RESET_VALUE");
    }

    #[test]
    fn the_madt_has_one_local_apic_for_each_vcpu() {
        for vcpus in [1, 4, 255] {
            let madt = madt(vcpus);
            let mut entries = &madt.as_slice()[44..];
            let mut found = Vec::new();
            while let [kind, len, ..] = *entries {
                found.push((kind, entries[..usize::from(len)].to_vec()));
                entries = &entries[usize::from(len)..];
            }
            let apics: Vec<u8> = found.iter().filter(|(kind, _)| *kind == 0).map(|(_, e)| e[3]).collect();
            assert!(apics.iter().copied().eq(0..vcpus));
            let rest: Vec<_> = found.into_iter().filter(|(kind, _)| *kind != 0).map(|(_, entry)| entry).collect();
            assert_eq!(
                rest,
                [
                    vec![1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
                    vec![2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
                    vec![2, 10, 0, 9, 9, 0, 0, 0, 13, 0],
                    vec![4, 6, 0xff, 0, 0, 1],
                ]
            );
        }
    }

    #[test]
    fn the_tables_end_before_the_bios_area() {
        assert!(tables(ACPI_START, 255).len() < 0x1_0000);
    }
}
