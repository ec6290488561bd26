//! Linux bzImage: the Linux/x86 boot protocol 2.06 to 2.15, entered at its 64-bit or 32-bit entry.
//!
//! Source: the kernel's "The Linux/x86 Boot Protocol" (Documentation/arch/x86/boot.rst) and "Zero Page". The real-mode
//! code in the file is never run: the loader makes the zero page in its place. `header.rs` reads and checks the header.

mod header;

pub(super) use header::is_bzimage;

use super::space::{FOUR_GIB, GuestSpace};
use super::{EntryState, LoadError, LoadRequest, tables};
use crate::memory::{GuestPhysAddr, PAGE_SIZE};
use header::{Kernel, field};
use thiserror::Error;

/// "Otherwise, enter 0xFF here": a boot loader without an assigned id.
const UNDEFINED_LOADER: u8 = 0xff;
/// The 64-bit entry point, from the start of the protected-mode code.
const ENTRY_64: u64 = 0x200;

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
