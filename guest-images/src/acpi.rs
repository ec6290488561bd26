//! What a kernel needs of the ACPI tables: the processors of the MADT, and of the FADT and the DSDT what it takes to hear
//! the power button and to switch the machine off.
//!
//! Offsets are those of the "Advanced Configuration and Power Interface (ACPI) Specification".

use crate::boot_info;

/// The header of a system description table.
const HEADER_LEN: u64 = 36;

/// A system description table in memory, its checksum verified.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    address: u64,
    len_bytes: u64,
}

impl Table {
    fn at(address: u64) -> Self {
        let table = Self { address, len_bytes: u64::from(read_u32(address + 4)) };
        let sum = table.bytes().iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        if sum != 0 {
            crate::fail!("ACPI: the checksum of the table at {address:#x} is wrong by {sum}");
        }
        table
    }

    /// The whole table.
    #[must_use]
    pub fn bytes(&self) -> &'static [u8] {
        // SAFETY: firmware put the table there, it is never written, and memory below 4 GiB is identity mapped.
        unsafe { core::slice::from_raw_parts(self.address as *const u8, self.len_bytes as usize) }
    }

    /// The four characters of its name.
    #[must_use]
    pub fn signature(&self) -> [u8; 4] {
        read_u32(self.address).to_le_bytes()
    }

    fn u8_at(&self, offset: u64) -> u8 {
        self.bytes()[offset as usize]
    }

    fn u16_at(&self, offset: u64) -> u16 {
        u16::from_le_bytes([self.u8_at(offset), self.u8_at(offset + 1)])
    }

    fn u32_at(&self, offset: u64) -> u32 {
        u32::from(self.u16_at(offset)) | u32::from(self.u16_at(offset + 2)) << 16
    }
}

/// The table of this name, found by the RSDP that the loader names; none is a failure of the guest.
#[must_use]
pub fn table(signature: &[u8; 4]) -> Table {
    let Some(rsdp) = boot_info::rsdp_address() else {
        crate::fail!("ACPI: the loader names no RSDP");
    };
    if read_u32(rsdp).to_le_bytes() != *b"RSD " || read_u32(rsdp + 4).to_le_bytes() != *b"PTR " {
        crate::fail!("ACPI: no RSDP at {rsdp:#x}");
    }
    let revision = read_u32(rsdp + 12).to_le_bytes()[3];
    // From revision 2 on the XSDT counts, with 64-bit pointers.
    let (root, pointer_len) = if revision >= 2 {
        (u64::from(read_u32(rsdp + 24)) | u64::from(read_u32(rsdp + 28)) << 32, 8)
    } else {
        (u64::from(read_u32(rsdp + 16)), 4)
    };
    let root = Table::at(root);
    let found = (HEADER_LEN..root.len_bytes).step_by(pointer_len).map(|offset| {
        let high = if pointer_len == 8 { root.u32_at(offset + 4) } else { 0 };
        Table::at(u64::from(root.u32_at(offset)) | u64::from(high) << 32)
    });
    let name = core::str::from_utf8(signature).unwrap_or("?");
    let Some(table) = found.into_iter().find(|table| table.signature() == *signature) else {
        crate::fail!("ACPI: there is no table {name}");
    };
    table
}

/// The structures of the MADT: each its type and its bytes.
fn madt_structures() -> impl Iterator<Item = (u8, &'static [u8])> {
    let mut rest = &table(b"APIC").bytes()[HEADER_LEN as usize + 8..];
    core::iter::from_fn(move || {
        let [kind, len, ..] = *rest else { return None };
        if usize::from(len) < 2 || usize::from(len) > rest.len() {
            crate::fail!("ACPI: a structure of type {kind} and length {len} in the MADT");
        }
        let (structure, after) = rest.split_at(usize::from(len));
        rest = after;
        Some((kind, structure))
    })
}

/// The APIC IDs of the processors that may be used, in the MADT's order.
pub fn processors() -> impl Iterator<Item = u32> {
    const ENABLED: u8 = 1 << 0;
    madt_structures().filter_map(|(kind, structure)| match (kind, structure) {
        // "Processor Local APIC Structure": UID, APIC ID, flags.
        (0, &[_, _, _, id, flags, ..]) if flags & ENABLED != 0 => Some(u32::from(id)),
        // "Processor Local x2APIC Structure": two bytes reserved, x2APIC ID, flags.
        (9, &[_, _, _, _, a, b, c, d, flags, ..]) if flags & ENABLED != 0 => Some(u32::from_le_bytes([a, b, c, d])),
        _ => None,
    })
}

/// The pin of the IOAPIC that an ISA interrupt is wired to, and the polarity and trigger bits of its redirection entry.
#[must_use]
pub fn isa_interrupt(irq: u8) -> (u8, u32) {
    const ACTIVE_LOW: u32 = 1 << 13;
    const LEVEL: u32 = 1 << 15;
    let overridden = madt_structures().find_map(|(kind, structure)| match (kind, structure) {
        // "Interrupt Source Override Structure": bus, source, global system interrupt, MPS INTI flags.
        (2, &[_, _, _, source, pin, _, _, _, flags, ..]) if source == irq => Some((pin, flags)),
        _ => None,
    });
    let (pin, flags) = overridden.unwrap_or((irq, 0));
    let polarity = if flags & 0b11 == 0b11 { ACTIVE_LOW } else { 0 };
    let trigger = if flags & 0b1100 == 0b1100 { LEVEL } else { 0 };
    (pin, polarity | trigger)
}

/// The fixed hardware of power management.
#[derive(Clone, Copy, Debug)]
pub struct FixedHardware {
    /// SCI_INT: the interrupt, an ISA one.
    pub sci: u8,
    /// SMI_CMD, and what is to be written there for the ACPI mode; port 0 where the machine has no other mode.
    pub smi_command: (u16, u8),
    /// PM1a_EVT_BLK: the status register; the enable register is behind it.
    pub pm1a_status: u16,
    /// The enable register of the PM1a event block.
    pub pm1a_enable: u16,
    /// PM1a_CNT_BLK.
    pub pm1a_control: u16,
    /// The SLP_TYP of soft off, from the DSDT's `\_S5`.
    pub s5_type: u16,
}

/// Reads them from the FADT and the DSDT.
#[must_use]
pub fn fixed_hardware() -> FixedHardware {
    let fadt = table(b"FACP");
    let pm1a_status = fadt.u32_at(56) as u16;
    FixedHardware {
        sci: fadt.u16_at(46) as u8,
        smi_command: (fadt.u32_at(48) as u16, fadt.u8_at(52)),
        pm1a_status,
        pm1a_enable: pm1a_status + u16::from(fadt.u8_at(88) / 2),
        pm1a_control: fadt.u32_at(64) as u16,
        s5_type: s5_type(Table::at(u64::from(fadt.u32_at(40))).bytes()),
    }
}

/// The first element of `Name (\_S5, Package () {...})` in the byte code: "NameOp NameString PackageOp PkgLength
/// NumElements", then ZeroOp, OneOp or BytePrefix with a byte.
fn s5_type(dsdt: &[u8]) -> u16 {
    const PACKAGE_OP: u8 = 0x12;
    const BYTE_PREFIX: u8 = 0x0A;
    let at = dsdt.windows(5).position(|window| window == [b'_', b'S', b'5', b'_', PACKAGE_OP]);
    let package = at.and_then(|at| dsdt.get(at + 5..));
    match package {
        // The two high bits of the first length byte say how many follow it.
        Some(&[length, ref rest @ ..]) => match *rest.get(usize::from(length >> 6) + 1..).unwrap_or_default() {
            [BYTE_PREFIX, value, ..] | [value @ 0..=1, ..] => u16::from(value),
            _ => crate::fail!("ACPI: the DSDT's \\_S5 is no package of bytes"),
        },
        _ => crate::fail!("ACPI: the DSDT has no \\_S5"),
    }
}

fn read_u32(address: u64) -> u32 {
    // SAFETY: firmware's tables are below 4 GiB, where memory is identity mapped, and nobody writes to them.
    unsafe { (address as *const u32).read_unaligned() }
}
