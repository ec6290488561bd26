//! The tables, read back by the offsets of the ACPI specification.

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
    let area = tables(ACPI_START, 3, true);
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
    table(&area, u32_at(xsdt, 52), b"WDAT");
    assert_eq!((u32_at(rsdt, 44), rsdt.len(), xsdt.len()), (u32_at(xsdt, 52), 48, 60));
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
    assert_ne!(flags & (1 << 10), 0, "RESET_REG_SUP");
    assert_ne!(flags & (1 << 8), 0, "TMR_VAL_EXT: the timer has 32 bits");
    assert_eq!(fadt_bytes[108], 0x32, "CENTURY");
    assert_eq!(flags & (1 << 4), 0, "PWR_BUTTON: the fixed power button is there");
    assert_eq!(fadt_bytes[116..128], [1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0], "RESET_REG");
    assert_eq!(fadt_bytes[128], 6, "RESET_VALUE");
}

#[test]
fn the_madt_has_one_local_apic_for_each_vcpu() {
    // The I/O APIC's ID is behind those of the local APICs as long as it has bits for it.
    for (vcpus, ioapic_id) in [(1, 1), (4, 4), (15, 15), (16, 0), (64, 0), (255, 0)] {
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
                vec![1, 12, ioapic_id, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
                vec![2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
                vec![2, 10, 0, 9, 9, 0, 0, 0, 13, 0],
                vec![4, 6, 0xff, 0, 0, 1],
            ]
        );
    }
}

/// Whether the DSDT has `part` in it.
fn dsdt_holds(balloon: bool, part: &[u8]) -> bool {
    dsdt::table(balloon).as_slice().windows(part.len()).any(|window| window == part)
}

#[test]
fn the_dsdt_describes_the_balloon_where_there_is_one() {
    let resources = [
        // "32-Bit Fixed Memory Range Descriptor": read-write, base, length.
        &[0x86, 9, 0, 1, 0x00, 0x00, 0xd1, 0xfe, 0x00, 0x10, 0, 0][..],
        // "Extended Interrupt Descriptor": consumer, level, active high, exclusive; one interrupt, 16.
        &[0x89, 6, 0, 1, 1, 16, 0, 0, 0][..],
        // "End Tag".
        &[0x79, 0][..],
    ]
    .concat();
    // NameOp _HID, then a string.
    let name = b"\x08_HID\x0dLNRO0005\0";
    assert!(dsdt_holds(true, name) && dsdt_holds(true, &resources));
    assert!(!dsdt_holds(false, name) && !dsdt_holds(false, &resources));
}

#[test]
fn the_dsdt_describes_the_pvpanic_port() {
    let device = [
        // NameOp _HID, then a string.
        &b"\x08_HID\x0dQEMU0001\0"[..],
        // "I/O Port Descriptor": 16-bit decode, from 505h to 505h, alignment 1, length 1; "End Tag".
        &[0x47, 1, 0x05, 0x05, 0x05, 0x05, 1, 1, 0x79, 0][..],
    ];
    assert!(device.iter().all(|part| dsdt_holds(false, part)));
    // RDPT returns the field, WRPT stores its argument in it.
    assert!(dsdt_holds(false, b"RDPT\x08\xa4PEPT") && dsdt_holds(false, b"WRPT\x09\x70\x68PEPT"));
}

#[test]
fn no_device_lies_where_another_is_or_where_ram_is() {
    use crate::device::board::spec::{BALLOON_BASE, BALLOON_END, IOAPIC_END};
    use crate::loader::layout::FIXED_DEVICES_START;
    const { assert!(FIXED_DEVICES_START <= IOAPIC_BASE && IOAPIC_END <= BALLOON_BASE) };
    const { assert!(BALLOON_END <= LOCAL_APIC_GPA as u64) };
}

#[test]
fn the_tables_end_before_the_bios_area() {
    assert!(tables(ACPI_START, 255, true).len() < 0x1_0000);
}
