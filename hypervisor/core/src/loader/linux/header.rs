//! [`Kernel`]: what the loader needs of a bzImage's setup header, checked; and where the kernel goes by it.

use super::LinuxError;
use crate::loader::layout::HIGH_MEMORY;
use crate::loader::space::{FOUR_GIB, GuestSpace};
use crate::loader::{KERNEL, LoadError};
use crate::memory::GuestPhysAddr;

/// Offsets of the setup header's fields, the same in the file and in the zero page; and of zero-page fields.
pub(super) mod field {
    pub(in crate::loader) const ACPI_RSDP_ADDR: usize = 0x070;
    pub(in crate::loader) const E820_ENTRIES: usize = 0x1e8;
    pub(in crate::loader) const SETUP_HEADER: usize = 0x1f1;
    pub(in crate::loader) const SETUP_SECTS: usize = 0x1f1;
    pub(in crate::loader) const SYSSIZE: usize = 0x1f4;
    pub(in crate::loader) const BOOT_FLAG: usize = 0x1fe;
    /// The second byte of the short jump over the header: the header ends at 0x202 plus this.
    pub(in crate::loader) const JUMP_LEN: usize = 0x201;
    pub(in crate::loader) const MAGIC: usize = 0x202;
    pub(in crate::loader) const VERSION: usize = 0x206;
    pub(in crate::loader) const TYPE_OF_LOADER: usize = 0x210;
    pub(in crate::loader) const LOADFLAGS: usize = 0x211;
    pub(in crate::loader) const CODE32_START: usize = 0x214;
    pub(in crate::loader) const RAMDISK_IMAGE: usize = 0x218;
    pub(in crate::loader) const RAMDISK_SIZE: usize = 0x21c;
    pub(in crate::loader) const CMD_LINE_PTR: usize = 0x228;
    pub(in crate::loader) const INITRD_ADDR_MAX: usize = 0x22c;
    pub(in crate::loader) const KERNEL_ALIGNMENT: usize = 0x230;
    pub(in crate::loader) const RELOCATABLE_KERNEL: usize = 0x234;
    pub(in crate::loader) const XLOADFLAGS: usize = 0x236;
    pub(in crate::loader) const CMDLINE_SIZE: usize = 0x238;
    pub(in crate::loader) const PREF_ADDRESS: usize = 0x258;
    pub(in crate::loader) const INIT_SIZE: usize = 0x260;
    /// The end of the room for the setup header in the zero page.
    pub(in crate::loader) const SETUP_HEADER_LIMIT: usize = 0x290;
    pub(in crate::loader) const E820_TABLE: usize = 0x2d0;
}

/// "HdrS".
const HEADER_MAGIC: u32 = 0x5372_6448;
/// Before 2.06 the command line's limit is not told; those kernels are older than 2.6.22.
const OLDEST_PROTOCOL: u16 = 0x0206;
/// Since 2.10 the header has `pref_address` and `init_size`.
const PROTOCOL_WITH_INIT_SIZE: u16 = 0x020a;
/// Since 2.12 the header has `xloadflags`.
const PROTOCOL_WITH_XLOADFLAGS: u16 = 0x020c;
/// `loadflags`: the protected-mode code belongs at 1 MiB, not at 0x10000.
const LOADED_HIGH: u8 = 1 << 0;
/// `xloadflags`: the kernel has the 64-bit entry point at 0x200.
const XLF_KERNEL_64: u16 = 1 << 0;
/// Bytes of a setup sector.
const SECTOR: u64 = 512;

/// Whether `image` has Linux's setup header.
pub(in crate::loader) fn is_bzimage(image: &[u8]) -> bool {
    Header { image }.u32(field::MAGIC) == Some(HEADER_MAGIC) && Header { image }.u16(field::BOOT_FLAG) == Some(0xaa55)
}

/// The setup header in the file, read field by field.
#[derive(Clone, Copy)]
struct Header<'a> {
    image: &'a [u8],
}

impl Header<'_> {
    fn bytes<const N: usize>(self, offset: usize) -> Option<[u8; N]> {
        self.image.get(offset..)?.first_chunk().copied()
    }

    fn u8(self, offset: usize) -> Option<u8> {
        self.image.get(offset).copied()
    }

    fn u16(self, offset: usize) -> Option<u16> {
        self.bytes(offset).map(u16::from_le_bytes)
    }

    fn u32(self, offset: usize) -> Option<u32> {
        self.bytes(offset).map(u32::from_le_bytes)
    }

    fn u64(self, offset: usize) -> Option<u64> {
        self.bytes(offset).map(u64::from_le_bytes)
    }
}

/// What the loader needs of a setup header, checked.
pub(super) struct Kernel<'a> {
    /// The setup header's bytes, from [`field::SETUP_HEADER`] on.
    pub(super) header: &'a [u8],
    /// The protected-mode code.
    code: &'a [u8],
    pub(super) entry_64: bool,
    relocatable: bool,
    alignment: u64,
    /// Where the kernel runs, at the lowest.
    run_address: u64,
    /// What it needs there.
    run_len_bytes: u64,
    /// The last byte an initrd may occupy.
    pub(super) initrd_addr_max: u32,
    pub(super) cmdline_max: u32,
}

impl<'a> Kernel<'a> {
    pub(super) fn parse(image: &'a [u8]) -> Result<Self, LoadError> {
        let raw = Header { image };
        if !is_bzimage(image) {
            return Err(LinuxError::NoHeader.into());
        }
        let version = raw.u16(field::VERSION).ok_or(LinuxError::NoHeader)?;
        if version < OLDEST_PROTOCOL {
            return Err(LinuxError::Protocol { version }.into());
        }
        // The header ends where the jump over it lands; a field past that end reads as zero.
        let end = field::MAGIC.saturating_add(usize::from(raw.u8(field::JUMP_LEN).unwrap_or(0)));
        let end = end.min(field::SETUP_HEADER_LIMIT);
        let truncated = |what, needed| LoadError::Truncated { what, needed, len: image.len() as u64 };
        let header = image.get(field::SETUP_HEADER..end).ok_or(truncated("the Linux setup header", end as u64))?;
        let known = Header { image: image.get(..end).unwrap_or(image) };
        if known.u8(field::LOADFLAGS).unwrap_or(0) & LOADED_HIGH == 0 {
            return Err(LinuxError::ZImage.into());
        }
        let code = protected_mode_code(image, known)?;

        let alignment = u64::from(known.u32(field::KERNEL_ALIGNMENT).unwrap_or(0)).max(1);
        if !alignment.is_power_of_two() {
            let (field, allowed) = ("kernel_alignment", "a power of two is allowed");
            return Err(LinuxError::Header { field, value: alignment, allowed }.into());
        }
        let relocatable = known.u8(field::RELOCATABLE_KERNEL).unwrap_or(0) != 0;
        let (run_address, run_len_bytes) = if version >= PROTOCOL_WITH_INIT_SIZE {
            let init_size = known.u32(field::INIT_SIZE).unwrap_or(0);
            (known.u64(field::PREF_ADDRESS).unwrap_or(0).max(HIGH_MEMORY), u64::from(init_size).max(code.len() as u64))
        } else {
            // Not told: the unpacked kernel is taken to need eight times its packed size.
            (HIGH_MEMORY, (code.len() as u64).saturating_mul(8))
        };
        let xloadflags = if version >= PROTOCOL_WITH_XLOADFLAGS { known.u16(field::XLOADFLAGS) } else { None };
        Ok(Self {
            header,
            code,
            entry_64: xloadflags.unwrap_or(0) & XLF_KERNEL_64 != 0,
            relocatable,
            alignment,
            run_address,
            run_len_bytes,
            initrd_addr_max: known.u32(field::INITRD_ADDR_MAX).unwrap_or(0),
            cmdline_max: known.u32(field::CMDLINE_SIZE).unwrap_or(0),
        })
    }

    /// Places the code and claims what the kernel needs to run. Gives the address of the code.
    ///
    /// A relocatable kernel is loaded where it will run. Below `pref_address` it would move itself up to it, over
    /// whatever is there; so it goes there or above, never below. One that is not relocatable is loaded at 1 MiB and
    /// moves itself to `pref_address`.
    pub(super) fn place(&self, space: &mut GuestSpace<'_>) -> Result<u64, LoadError> {
        let Self { run_address: min, run_len_bytes: len_bytes, alignment, .. } = *self;
        let align = if self.relocatable { alignment } else { 1 };
        let run_at = space.find_up(len_bytes, align, min, FOUR_GIB).filter(|&at| self.relocatable || at == min);
        let run_at = run_at.ok_or(LinuxError::NoRoom { len_bytes, min: GuestPhysAddr(min), align })?;
        space.claim(KERNEL, run_at, len_bytes)?;
        let load_at = if self.relocatable { run_at } else { HIGH_MEMORY };
        space.write(KERNEL, load_at, self.code)?;
        Ok(load_at)
    }
}

/// The protected-mode code: behind the boot sector and `setup_sects` sectors ("if this field contains 0, the real
/// value is 4"), `syssize` paragraphs of 16 bytes. What follows (a signature) is no part of it.
fn protected_mode_code<'a>(image: &'a [u8], header: Header<'_>) -> Result<&'a [u8], LoadError> {
    let setup_sects = match header.u8(field::SETUP_SECTS).unwrap_or(0) {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let start = (setup_sects + 1) * SECTOR;
    let len = u64::from(header.u32(field::SYSSIZE).unwrap_or(0)) * 16;
    // The size is rounded up to a paragraph; the file need not be.
    let needed = start + len.saturating_sub(15).max(1);
    if (image.len() as u64) < needed {
        return Err(LoadError::Truncated { what: "the Linux kernel", needed, len: image.len() as u64 });
    }
    let end = start.saturating_add(len).min(image.len() as u64);
    let range = usize::try_from(start).unwrap_or(usize::MAX)..usize::try_from(end).unwrap_or(usize::MAX);
    image.get(range).filter(|code| !code.is_empty()).ok_or(LoadError::Linux(LinuxError::Header {
        field: "syssize",
        value: len,
        allowed: "the size of the protected-mode code is needed",
    }))
}
