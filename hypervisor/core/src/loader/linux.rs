//! Linux bzImage: the Linux/x86 boot protocol 2.06 to 2.15, entered at its 64-bit or 32-bit entry.
//!
//! Source: the kernel's "The Linux/x86 Boot Protocol" (Documentation/arch/x86/boot.rst) and "Zero Page". The real-mode
//! code in the file is never run: the loader makes the zero page in its place.

use super::space::{FOUR_GIB, GuestSpace};
use super::{EntryState, KERNEL, LoadError, LoadRequest, layout::HIGH_MEMORY, tables};
use crate::memory::{GuestPhysAddr, PAGE_SIZE};
use thiserror::Error;

/// Offsets of the setup header's fields, the same in the file and in the zero page; and of zero-page fields.
mod field {
    pub(super) const ACPI_RSDP_ADDR: usize = 0x070;
    pub(super) const E820_ENTRIES: usize = 0x1e8;
    pub(super) const SETUP_HEADER: usize = 0x1f1;
    pub(super) const SETUP_SECTS: usize = 0x1f1;
    pub(super) const SYSSIZE: usize = 0x1f4;
    pub(super) const BOOT_FLAG: usize = 0x1fe;
    /// The second byte of the short jump over the header: the header ends at 0x202 plus this.
    pub(super) const JUMP_LEN: usize = 0x201;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const TYPE_OF_LOADER: usize = 0x210;
    pub(super) const LOADFLAGS: usize = 0x211;
    pub(super) const CODE32_START: usize = 0x214;
    pub(super) const RAMDISK_IMAGE: usize = 0x218;
    pub(super) const RAMDISK_SIZE: usize = 0x21c;
    pub(super) const CMD_LINE_PTR: usize = 0x228;
    pub(super) const INITRD_ADDR_MAX: usize = 0x22c;
    pub(super) const KERNEL_ALIGNMENT: usize = 0x230;
    pub(super) const RELOCATABLE_KERNEL: usize = 0x234;
    pub(super) const XLOADFLAGS: usize = 0x236;
    pub(super) const CMDLINE_SIZE: usize = 0x238;
    pub(super) const PREF_ADDRESS: usize = 0x258;
    pub(super) const INIT_SIZE: usize = 0x260;
    /// The end of the room for the setup header in the zero page.
    pub(super) const SETUP_HEADER_LIMIT: usize = 0x290;
    pub(super) const E820_TABLE: usize = 0x2d0;
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
/// "Otherwise, enter 0xFF here": a boot loader without an assigned id.
const UNDEFINED_LOADER: u8 = 0xff;
/// The 64-bit entry point, from the start of the protected-mode code.
const ENTRY_64: u64 = 0x200;
/// Bytes of a setup sector.
const SECTOR: u64 = 512;

/// Why a Linux kernel cannot be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum LinuxError {
    /// No setup header.
    #[error("the image is no Linux bzImage: it must have 0xAA55 at 0x1fe and `HdrS` at 0x202")]
    NoHeader,
    /// Too old.
    #[error(
        "the Linux kernel speaks boot protocol {}.{:02}; 2.06 (Linux 2.6.22) or later is needed: take a newer kernel",
        version >> 8, version & 0xff
    )]
    Protocol {
        /// Major and minor version.
        version: u16,
    },
    /// Loads at 0x10000.
    #[error("the Linux kernel is a zImage, which loads at 0x10000: build a bzImage")]
    ZImage,
    /// A header with impossible values.
    #[error("the Linux setup header is broken: {field} is {value:#x}, {allowed}")]
    Header {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it may be.
        allowed: &'static str,
    },
    /// Longer than the kernel takes.
    #[error("the command line has {len} bytes, this Linux kernel takes {max}: shorten it")]
    CommandLineTooLong {
        /// Its length without the terminating zero.
        len: usize,
        /// The kernel's limit.
        max: u32,
    },
    /// A kernel that does not fit.
    #[error(
        "this Linux kernel needs {len_bytes} bytes of RAM from guest-physical {min} on, aligned to {align:#x}, and they \
         are not free: give the guest at least {} MiB of memory", (min.0.saturating_add(*len_bytes)).div_ceil(1 << 20)
    )]
    NoRoom {
        /// What it needs before it can look at its memory map.
        len_bytes: u64,
        /// The lowest address it can run at.
        min: GuestPhysAddr,
        /// Its alignment.
        align: u64,
    },
}

/// Whether `image` has Linux's setup header.
pub(super) fn is_bzimage(image: &[u8]) -> bool {
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
struct Kernel<'a> {
    /// The setup header's bytes, from [`field::SETUP_HEADER`] on.
    header: &'a [u8],
    /// The protected-mode code.
    code: &'a [u8],
    entry_64: bool,
    relocatable: bool,
    alignment: u64,
    /// Where the kernel runs, at the lowest.
    run_address: u64,
    /// What it needs there.
    run_len_bytes: u64,
    /// The last byte an initrd may occupy.
    initrd_addr_max: u32,
    cmdline_max: u32,
}

impl<'a> Kernel<'a> {
    fn parse(image: &'a [u8]) -> Result<Self, LoadError> {
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
    fn place(&self, space: &mut GuestSpace<'_>) -> Result<u64, LoadError> {
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

pub(super) fn load(
    request: &LoadRequest<'_>,
    rsdp_gpa: u64,
    space: &mut GuestSpace<'_>,
) -> Result<EntryState, LoadError> {
    if !request.modules.is_empty() {
        return Err(LoadError::NotTaken { format: "linux", option: "modules (use initrd)" });
    }
    let kernel = Kernel::parse(request.image)?;
    let (len, max) = (request.cmdline.len(), kernel.cmdline_max);
    if len as u64 > u64::from(max) {
        return Err(LinuxError::CommandLineTooLong { len, max }.into());
    }
    let load_at = kernel.place(space)?;
    let (ramdisk_image, ramdisk_size) = place_initrd(request, &kernel, space)?;
    let cmdline_gpa = space.place_text("command line", request.cmdline)?;

    let mut page = ZeroPage::new(kernel.header);
    page.put(field::TYPE_OF_LOADER, &[UNDEFINED_LOADER]);
    page.put_u32(field::CODE32_START, load_at);
    page.put_u32(field::RAMDISK_IMAGE, ramdisk_image);
    page.put_u32(field::RAMDISK_SIZE, ramdisk_size);
    page.put_u32(field::CMD_LINE_PTR, cmdline_gpa);
    // Read by protocol 2.14 and later; older kernels take the field for padding.
    page.put(field::ACPI_RSDP_ADDR, &rsdp_gpa.to_le_bytes());
    page.put_memory_map(space);
    let page_gpa = space.place_low("Linux zero page", &page.bytes, PAGE_SIZE)?;

    let mut state = if kernel.entry_64 {
        let gdtr = tables::place_gdt(space, true)?;
        EntryState::long_mode(load_at + ENTRY_64, tables::place_identity_map(space)?, gdtr)
    } else {
        let entry = u32::try_from(load_at).map_err(|_| LinuxError::NoHeader)?;
        EntryState::protected_mode(entry, tables::place_gdt(space, false)?)
    };
    state.gprs.rsi = page_gpa;
    Ok(state)
}

/// Places the initrd as high as the kernel takes it; gives its address and size, or zeros.
fn place_initrd(
    request: &LoadRequest<'_>,
    kernel: &Kernel<'_>,
    space: &mut GuestSpace<'_>,
) -> Result<(u64, u64), LoadError> {
    let Some(initrd) = request.initrd.filter(|initrd| !initrd.is_empty()) else { return Ok((0, 0)) };
    let (what, len_bytes) = ("initrd", initrd.len() as u64);
    let below = u64::from(kernel.initrd_addr_max) + 1;
    let gpa = space.find_down(len_bytes, PAGE_SIZE, below).ok_or(LoadError::NoRoom {
        what,
        len_bytes,
        below: GuestPhysAddr(below.min(space.ram().low_end().0)),
    })?;
    space.write(what, gpa, initrd)?;
    Ok((gpa, len_bytes))
}

/// `struct boot_params`: zero but for the setup header and what is put in.
struct ZeroPage {
    bytes: [u8; 4096],
}

impl ZeroPage {
    fn new(setup_header: &[u8]) -> Self {
        let mut page = Self { bytes: [0; 4096] };
        page.put(field::SETUP_HEADER, setup_header);
        page
    }

    /// Writes `value` at `offset`, both within the page by the constants above.
    fn put(&mut self, offset: usize, value: &[u8]) {
        let place = offset.checked_add(value.len()).and_then(|end| self.bytes.get_mut(offset..end));
        debug_assert!(place.is_some(), "zero page field at {offset:#x}");
        if let Some(place) = place {
            place.copy_from_slice(value);
        }
    }

    /// Writes an address or size that was placed below 4 GiB.
    fn put_u32(&mut self, offset: usize, value: u64) {
        debug_assert!(value < FOUR_GIB);
        let [b0, b1, b2, b3, ..] = value.to_le_bytes();
        self.put(offset, &[b0, b1, b2, b3]);
    }

    /// The e820 table: entries of 20 bytes.
    fn put_memory_map(&mut self, space: &GuestSpace<'_>) {
        let map = space.ram().e820();
        self.put(field::E820_ENTRIES, &[u8::try_from(map.len()).unwrap_or(0)]);
        for (offset, entry) in (field::E820_TABLE..).step_by(20).zip(map) {
            self.put(offset, &entry.start.to_le_bytes());
            self.put(offset + 8, &entry.len_bytes.to_le_bytes());
            self.put(offset + 16, &(entry.kind as u32).to_le_bytes());
        }
    }
}
