//! PVH: an ELF kernel entered in 32-bit protected mode with EBX at a `struct hvm_start_info`.
//!
//! Sources: Xen, "x86/HVM direct boot ABI" (the PVH boot protocol), `xen/include/public/arch-x86/hvm/start_info.h`
//! and `xen/include/public/elfnote.h`.

use super::elf::{ElfError, ElfImage};
use super::space::{FOUR_GIB, GuestSpace};
use super::{EntryState, KERNEL, LoadError, LoadRequest, Module, tables};
use crate::memory::{GuestPhysAddr, PAGE_SIZE};
use alloc::vec::Vec;
use zerocopy::{Immutable, IntoBytes};

/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PHYS32_ENTRY: u64 = 18;
/// `XEN_HVM_START_MAGIC_VALUE`.
const START_MAGIC: u32 = 0x336e_c578;
/// The version of [`StartInfo`] with a memory map.
const START_VERSION: u32 = 1;

/// `struct hvm_start_info`, version 1.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules_gpa: u64,
    cmdline_gpa: u64,
    rsdp_gpa: u64,
    memory_map_gpa: u64,
    memory_map_entries: u32,
    reserved: u32,
}

/// `struct hvm_modlist_entry`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ModuleEntry {
    gpa: u64,
    len_bytes: u64,
    cmdline_gpa: u64,
    reserved: u64,
}

/// `struct hvm_memmap_table_entry`; its types are those of the e820 map.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct MemoryMapEntry {
    gpa: u64,
    len_bytes: u64,
    kind: u32,
    reserved: u32,
}

/// Whether `image` is an ELF file with a PVH entry.
pub(super) fn has_note(image: &[u8]) -> bool {
    ElfImage::parse(image).is_ok_and(|elf| elf.note("Xen", PHYS32_ENTRY).is_some())
}

pub(super) fn load(
    request: &LoadRequest<'_>,
    rsdp_gpa: u64,
    space: &mut GuestSpace<'_>,
) -> Result<EntryState, LoadError> {
    let elf = ElfImage::parse(request.image)?;
    let note = elf.note("Xen", PHYS32_ENTRY).ok_or(ElfError::NoPvhNote)?;
    let entry = entry_of(note).ok_or(ElfError::NoPvhNote)?;
    elf.load_segments(space)?;
    if !space.is_within(KERNEL, entry) {
        return Err(ElfError::Entry { entry }.into());
    }
    let entry = u32::try_from(entry).map_err(|_| ElfError::Entry { entry })?;

    let (module_count, modules_gpa) = place_modules(request, space)?;
    let memory_map = space.ram().e820();
    let entries: Vec<_> = memory_map
        .iter()
        .map(|e| MemoryMapEntry { gpa: e.start, len_bytes: e.len_bytes, kind: e.kind as u32, reserved: 0 })
        .collect();
    let info = StartInfo {
        magic: START_MAGIC,
        version: START_VERSION,
        flags: 0,
        module_count,
        modules_gpa,
        cmdline_gpa: space.place_text("command line", request.cmdline)?,
        rsdp_gpa,
        memory_map_gpa: space.place_low("PVH memory map", entries.as_bytes(), 8)?,
        memory_map_entries: u32::try_from(entries.len()).unwrap_or(0),
        reserved: 0,
    };
    let info_gpa = space.place_low("PVH start info", info.as_bytes(), 8)?;
    let mut state = EntryState::protected_mode(entry, tables::place_gdt(space, false)?);
    state.gprs.rbx = info_gpa;
    Ok(state)
}

/// The entry that the note's descriptor holds: 4 bytes, or 8 in what a 64-bit assembler made.
fn entry_of(descriptor: &[u8]) -> Option<u64> {
    match descriptor.len() {
        4 => descriptor.try_into().ok().map(|bytes| u64::from(u32::from_le_bytes(bytes))),
        8 => descriptor.try_into().ok().map(u64::from_le_bytes),
        _ => None,
    }
}

/// Places the initrd and the modules below 4 GiB and gives their number and the address of their list.
fn place_modules(request: &LoadRequest<'_>, space: &mut GuestSpace<'_>) -> Result<(u32, u64), LoadError> {
    let initrd = request.initrd.map(|bytes| Module { name: "initrd", cmdline: "", bytes });
    let mut list = Vec::new();
    for module in initrd.iter().chain(request.modules) {
        let (what, len_bytes) = ("module", module.bytes.len() as u64);
        let gpa = space.find_down(len_bytes, PAGE_SIZE, FOUR_GIB).ok_or(LoadError::NoRoom {
            what,
            len_bytes,
            below: GuestPhysAddr(FOUR_GIB),
        })?;
        space.write(what, gpa, module.bytes)?;
        let cmdline_gpa =
            if module.cmdline.is_empty() { 0 } else { space.place_text("module command line", module.cmdline)? };
        list.push(ModuleEntry { gpa, len_bytes, cmdline_gpa, reserved: 0 });
    }
    if list.is_empty() {
        return Ok((0, 0));
    }
    let list_gpa = space.place_low("PVH module list", list.as_bytes(), 8)?;
    Ok((u32::try_from(list.len()).unwrap_or(u32::MAX), list_gpa))
}
