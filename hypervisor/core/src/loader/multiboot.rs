//! Multiboot 1: a kernel with a header in its first 8 KiB, entered in 32-bit protected mode with EBX at an
//! information structure. Source: "Multiboot Specification version 0.6.96".
//!
//! Two leniencies. A kernel that asks for a video mode (flag 2) gets none: there is no display, and such kernels
//! look at the information's flags before they draw. The memory information and map are given whether asked for or
//! not, as GRUB does.

use super::elf::{ElfError, ElfImage};
use super::layout::{HIGH_MEMORY, RamLayout};
use super::space::{FOUR_GIB, GuestSpace};
use super::{EntryState, KERNEL, LoadError, LoadRequest, Module, tables};
use crate::memory::{GuestPhysAddr, PAGE_SIZE};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// "The magic number identifying the header".
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// What EAX holds at entry.
const BOOTLOADER_MAGIC: u32 = 0x2bad_b002;
/// "The Multiboot header must be contained completely within the first 8192 bytes of the OS image".
const SEARCH_LEN: usize = 8192;
/// Flags 0 to 15 are requirements; of them these are defined: page-aligned modules, memory information, video mode.
const KNOWN_REQUIREMENTS: u32 = 0b111;
/// Flags whose requirements a loader may not skip.
const REQUIREMENTS: u32 = 0xffff;
/// "If bit 16 in the ‘flags’ word is set, then the fields at offsets 12-28 in the Multiboot header are valid".
const HAS_ADDRESSES: u32 = 1 << 16;

/// The BIOS data area's word "base memory size in KiB", from which a kernel works out where its real-mode code may go.
const BASE_MEMORY_KIB: u64 = 0x413;

/// What [`Info`] says is there: memory sizes, command line, modules, memory map, boot loader name.
const INFO_FLAGS: u32 = (1 << 0) | (1 << 2) | (1 << 3) | (1 << 6) | (1 << 9);

/// Why a multiboot kernel cannot be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum MultibootError {
    /// No header.
    #[error(
        "no multiboot 1 header in the image's first {SEARCH_LEN} bytes: {HEADER_MAGIC:#x}, flags and a checksum that \
         makes their sum 0, 4-byte aligned"
    )]
    NoHeader,
    /// A requirement that is not known here.
    #[error("the multiboot header requires features that are not defined: flags {flags:#x}, bits 3 to 15 must be 0")]
    Requirements {
        /// The header's flags.
        flags: u32,
    },
    /// Addresses that contradict each other or the file.
    #[error("the multiboot header's address fields are wrong: {rule}")]
    Addresses {
        /// The rule they break.
        rule: &'static str,
    },
}

/// The header's first fields, and the address fields that follow where [`HAS_ADDRESSES`] is set.
#[derive(FromBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct Addresses {
    header_addr: u32,
    load_addr: u32,
    load_end_addr: u32,
    bss_end_addr: u32,
    entry_addr: u32,
}

/// The information structure up to the boot loader's name; what follows is absent by its flags.
#[derive(IntoBytes, Immutable, Default)]
#[repr(C)]
struct Info {
    flags: u32,
    mem_lower_kib: u32,
    mem_upper_kib: u32,
    boot_device: u32,
    cmdline: u32,
    mods_count: u32,
    mods_addr: u32,
    syms: [u32; 4],
    mmap_length: u32,
    mmap_addr: u32,
    drives_length: u32,
    drives_addr: u32,
    config_table: u32,
    boot_loader_name: u32,
    /// APM table, VBE and framebuffer fields.
    absent: [u32; 12],
}

/// One module of the list at `mods_addr`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ModuleEntry {
    mod_start: u32,
    mod_end: u32,
    string: u32,
    reserved: u32,
}

/// Where the header is in the file, and its flags.
fn find_header(image: &[u8]) -> Option<(usize, u32)> {
    let head = image.get(..SEARCH_LEN).unwrap_or(image);
    head.chunks_exact(4).enumerate().find_map(|(index, _)| {
        let at = index * 4;
        let ([magic, flags, checksum], _) = <[u32; 3]>::read_from_prefix(head.get(at..)?).ok()?;
        let valid = magic == HEADER_MAGIC && magic.wrapping_add(flags).wrapping_add(checksum) == 0;
        valid.then_some((at, flags))
    })
}

/// Whether `image` has a multiboot 1 header.
pub(super) fn has_header(image: &[u8]) -> bool {
    find_header(image).is_some()
}

pub(super) fn load(request: &LoadRequest<'_>, space: &mut GuestSpace<'_>) -> Result<EntryState, LoadError> {
    let (header_offset, flags) = find_header(request.image).ok_or(MultibootError::NoHeader)?;
    if flags & REQUIREMENTS & !KNOWN_REQUIREMENTS != 0 {
        return Err(MultibootError::Requirements { flags }.into());
    }
    let entry = if flags & HAS_ADDRESSES != 0 {
        load_by_addresses(request.image, header_offset, space)?
    } else {
        let elf = ElfImage::parse(request.image)?;
        elf.load_segments(space)?;
        elf.physical_entry()
    };
    if !space.is_within(KERNEL, entry) {
        return Err(ElfError::Entry { entry }.into());
    }
    let entry_point = u32::try_from(entry).map_err(|_| ElfError::Entry { entry })?;

    let (mods_count, mods_addr) = place_modules(request, space)?;
    let memory_map = memory_map(space.ram());
    let info = Info {
        flags: INFO_FLAGS,
        mem_lower_kib: lower_kib(space.ram()),
        mem_upper_kib: upper_kib(space.ram()),
        cmdline: place_words(space, "command line", request.name, request.cmdline)?,
        mods_count,
        mods_addr,
        mmap_length: u32::try_from(memory_map.len()).unwrap_or(0),
        mmap_addr: below_4g(space.place_low("multiboot memory map", &memory_map, 8)?)?,
        boot_loader_name: below_4g(space.place_text("boot loader name", "Lamina")?)?,
        ..Info::default()
    };
    describe_base_memory(space)?;
    let info_gpa = space.place_low("multiboot information", info.as_bytes(), 8)?;
    let mut state = EntryState::protected_mode(entry_point, tables::place_gdt(space, false)?);
    state.gprs.rax = u64::from(BOOTLOADER_MAGIC);
    state.gprs.rbx = info_gpa;
    Ok(state)
}

/// Loads by the header's address fields and gives the entry: "Compliant boot loaders should use these fields even
/// if the OS image is ELF".
fn load_by_addresses(image: &[u8], header_offset: usize, space: &mut GuestSpace<'_>) -> Result<u64, LoadError> {
    let wrong = |rule| MultibootError::Addresses { rule };
    let fields = header_offset.checked_add(12).and_then(|at| image.get(..SEARCH_LEN).unwrap_or(image).get(at..));
    let (fields, _) = fields
        .and_then(|bytes| Addresses::read_from_prefix(bytes).ok())
        .ok_or(wrong("the header must be complete within the image's first 8192 bytes"))?;
    let Addresses { header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr } = fields;

    let before_header = header_addr.checked_sub(load_addr).ok_or(wrong("load_addr must not be above header_addr"))?;
    let start = usize::try_from(before_header).ok().and_then(|n| header_offset.checked_sub(n));
    let start = start.ok_or(wrong("header_addr - load_addr must not exceed the header's offset in the file"))?;
    let rest = image.get(start..).unwrap_or_default();
    let bytes = match load_end_addr {
        0 => rest,
        end => {
            let len = end.checked_sub(load_addr).ok_or(wrong("load_end_addr must not be below load_addr"))?;
            let needed = (start as u64).saturating_add(u64::from(len));
            rest.get(..usize::try_from(len).unwrap_or(usize::MAX)).ok_or(LoadError::Truncated {
                what: "the multiboot load range",
                needed,
                len: image.len() as u64,
            })?
        }
    };
    let end = u64::from(load_addr).saturating_add(bytes.len() as u64);
    space.write(KERNEL, u64::from(load_addr), bytes)?;
    if bss_end_addr != 0 {
        let len =
            u64::from(bss_end_addr).checked_sub(end).ok_or(wrong("bss_end_addr must not be below the data's end"))?;
        space.zero(KERNEL, end, len)?;
    }
    Ok(u64::from(entry_addr))
}

/// "mem_lower and mem_upper indicate the amount of lower and upper memory, respectively, in kilobytes. Lower memory
/// starts at address 0, and upper memory starts at address 1 megabyte. The maximum possible value for lower memory is
/// 640 kilobytes."
fn lower_kib(ram: &RamLayout) -> u32 {
    let bytes = ram.ranges().next().map_or(0, |range| range.len_bytes());
    u32::try_from(bytes / 1024).unwrap_or(640).min(640)
}

/// Fills the one word of the BIOS data area that multiboot kernels trust (Xen takes the least of it and mem_lower),
/// unless the kernel itself is there.
fn describe_base_memory(space: &mut GuestSpace<'_>) -> Result<(), LoadError> {
    const WHAT: &str = "BIOS data area";
    let [low, high, ..] = lower_kib(space.ram()).to_le_bytes();
    if space.check(WHAT, BASE_MEMORY_KIB, 2).is_err() {
        return Ok(());
    }
    space.write(WHAT, BASE_MEMORY_KIB, &[low, high])
}

/// "The value returned for upper memory is maximally the address of the first upper memory hole minus 1 megabyte."
fn upper_kib(ram: &RamLayout) -> u32 {
    u32::try_from(ram.low_end().0.saturating_sub(HIGH_MEMORY) / 1024).unwrap_or(u32::MAX)
}

/// The memory map's entries, each preceded by its size without that field (20).
fn memory_map(ram: &RamLayout) -> Vec<u8> {
    let mut map = Vec::new();
    for entry in ram.e820() {
        map.extend_from_slice(&20u32.to_le_bytes());
        map.extend_from_slice(&entry.start.to_le_bytes());
        map.extend_from_slice(&entry.len_bytes.to_le_bytes());
        map.extend_from_slice(&(entry.kind as u32).to_le_bytes());
    }
    map
}

/// Places the initrd and the modules page-aligned behind the kernel, in order, and gives their number and the address
/// of their list. Kernels find free memory by looking past the last module, so they are not put at the end of RAM.
fn place_modules(request: &LoadRequest<'_>, space: &mut GuestSpace<'_>) -> Result<(u32, u32), LoadError> {
    let initrd = request.initrd.map(|bytes| Module { name: "initrd", cmdline: "", bytes });
    let kernel_end = space.end_of(KERNEL);
    let mut min = if kernel_end < FOUR_GIB { kernel_end.max(HIGH_MEMORY) } else { HIGH_MEMORY };
    let mut list = Vec::new();
    for module in initrd.iter().chain(request.modules) {
        let (what, len_bytes) = ("module", module.bytes.len() as u64);
        let gpa = space.find_up(len_bytes, PAGE_SIZE, min, FOUR_GIB).ok_or(LoadError::NoRoom {
            what,
            len_bytes,
            below: GuestPhysAddr(FOUR_GIB),
        })?;
        space.write(what, gpa, module.bytes)?;
        min = gpa.saturating_add(len_bytes.max(1));
        let string = place_words(space, "module string", module.name, module.cmdline)?;
        let mod_end = below_4g(gpa.saturating_add(len_bytes))?;
        list.push(ModuleEntry { mod_start: below_4g(gpa)?, mod_end, string, reserved: 0 });
    }
    let mods_addr = if list.is_empty() { 0 } else { space.place_low("multiboot module list", list.as_bytes(), 8)? };
    Ok((u32::try_from(list.len()).unwrap_or(u32::MAX), below_4g(mods_addr)?))
}

/// Places a program's name and its arguments as one string.
fn place_words(space: &mut GuestSpace<'_>, what: &'static str, name: &str, cmdline: &str) -> Result<u32, LoadError> {
    let words = if cmdline.is_empty() { String::from(name) } else { format!("{name} {cmdline}") };
    below_4g(space.place_text(what, &words)?)
}

/// An address of the information structure, which has room for 32 bits; all is placed below 4 GiB.
fn below_4g(gpa: u64) -> Result<u32, LoadError> {
    u32::try_from(gpa).map_err(|_| LoadError::NoRoom {
        what: "multiboot information",
        len_bytes: 0,
        below: GuestPhysAddr(FOUR_GIB),
    })
}
