//! The guest's ACPI tables: RSDP, RSDT, XSDT, FADT, FACS, MADT, the DSDT of `dsdt.rs`
//! and the WDAT of `wdat.rs`.
//!
//! Source: "Advanced Configuration and Power Interface (ACPI) Specification", revision 6.5. They describe the
//! devices of `device/` at their fixed addresses; the ACPI mode is always on (no SMI command port).

mod dsdt;
mod wdat;

use super::layout::ACPI_START;
use super::space::GuestSpace;
use super::{LoadError, MAX_VCPUS};
use crate::device::board::spec::{IOAPIC_BASE, ioapic_id};
use crate::device::pm::spec::{PM_TIMER, PM1A_CONTROL, PM1A_EVENT};
use crate::device::reset::spec::{RESET_CONTROL, RESET_CPU, SYSTEM_RESET};
use crate::device::rtc::spec::CENTURY;
use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{self, AccessSize, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use alloc::vec;
use alloc::vec::Vec;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

const OEM_ID: [u8; 6] = *b"LAMINA";
const OEM_TABLE_ID: [u8; 8] = *b"LAMINAVM";
const OEM_REVISION: u32 = 1;

/// Where the local APICs are seen.
const LOCAL_APIC_GPA: u32 = 0xfee0_0000;
/// The interrupt of the PM1a event block: a level-triggered, active-high ISA interrupt.
const SCI: u8 = 9;
/// What the reset register is to be written with.
const RESET_VALUE: u8 = SYSTEM_RESET | RESET_CPU;
/// IA-PC boot architecture flags: legacy devices are there (the serial port, the RTC), VGA is not; no 8042 as a
/// keyboard controller, so that nobody waits for it.
const BOOT_ARCHITECTURE: u16 = (1 << 0) | (1 << 2);
/// C-state latencies above which the state "is not supported" (P_LVL2_LAT > 100, P_LVL3_LAT > 1000).
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

/// Places the tables for `vcpus` vCPUs at [`ACPI_START`], with a memory balloon or without, and gives the address of
/// the RSDP, which is the first.
pub(super) fn place(space: &mut GuestSpace<'_>, vcpus: u32, balloon: bool) -> Result<u64, LoadError> {
    let vcpus = u8::try_from(vcpus.min(MAX_VCPUS)).unwrap_or(u8::MAX);
    space.write("ACPI tables", ACPI_START, &tables(ACPI_START, vcpus, balloon))?;
    Ok(ACPI_START)
}

/// The tables one behind the other as they are at `base`, each on a multiple of 64 (which the FACS asks for).
fn tables(base: u64, vcpus: u8, balloon: bool) -> Vec<u8> {
    // The RSDP's place is kept; it is written last, when its pointers are known.
    let mut area = Area { base, bytes: vec![0; Rsdp::len()] };
    let facs = area.push(&FACS::new());
    let dsdt = area.push(&dsdt::table(balloon));
    let fadt = area.push(&fadt(facs, dsdt));
    let madt = area.push(&madt(vcpus));
    let wdat = area.push(&wdat::table());
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(u64::from(fadt));
    xsdt.add_entry(u64::from(madt));
    xsdt.add_entry(u64::from(wdat));
    let xsdt = area.push(&xsdt);
    let mut rsdt = Sdt::new(*b"RSDT", 36, 1, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    rsdt.append_slice(&fadt.to_le_bytes());
    rsdt.append_slice(&madt.to_le_bytes());
    rsdt.append_slice(&wdat.to_le_bytes());
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
/// that the sleep button is not. Without `FixRtc` the RTC's alarm is there too.
fn fadt(facs: u32, dsdt: u32) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    fadt.firmware_ctrl = facs.into();
    fadt.dsdt = dsdt.into();
    fadt.x_dsdt = u64::from(dsdt).into();
    fadt.sci_int = u16::from(SCI).into();
    fadt.pm1a_evt_blk = u32::from(PM1A_EVENT).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(PM1A_CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_blk = u32::from(PM_TIMER).into();
    fadt.pm_tmr_len = 4;
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = CENTURY;
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.reset_reg = port(8, AccessSize::ByteAccess, RESET_CONTROL);
    fadt.reset_value = RESET_VALUE;
    fadt.x_pm1a_evt_blk = port(32, AccessSize::WordAccess, PM1A_EVENT);
    fadt.x_pm1a_cnt_blk = port(16, AccessSize::WordAccess, PM1A_CONTROL);
    fadt.x_pm_tmr_blk = port(32, AccessSize::DwordAccess, PM_TIMER);
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
    // The global system interrupts from 0 on.
    let io_apic = IoApic::new(ioapic_id(vcpus.into()), u32::try_from(IOAPIC_BASE).unwrap_or(0), 0);
    madt.append_slice(io_apic.as_bytes());
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

#[cfg(test)]
mod tests;
