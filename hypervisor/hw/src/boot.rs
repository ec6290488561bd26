//! From the boot loader's hand-over to the hypervisor's own memory: checked once, typed from here on.

use crate::cpu;
use crate::mem::{self, Window};
use crate::{serial, smp};
use alloc::vec::Vec;
use bootloader_api::config::{BootloaderConfig, Mapping};
use bootloader_api::info::MemoryRegionKind;
pub use bootloader_api::{BootInfo, entry_point};
use core::ops::Range;
use lamina_core::boot::{MemoryRegion, RegionKind, find_place, plan};
use lamina_core::memory::{Frame, FrameAllocator, HostPhysAddr, Owner, PAGE_SIZE};
use thiserror::Error;

/// Bytes of the hypervisor's heap. What is large and comes for a while, such as an unpacked image, is in frames instead.
const HEAP_BYTES: u64 = 8 << 20;
/// Bytes of the boot CPU's stack.
const STACK_BYTES: u64 = 128 << 10;
/// Regions of the memory map that are looked at. Firmware has some dozens, UEFI a hundred or two.
const MAX_REGIONS: usize = 512;
/// The least memory that must remain for guests after the hypervisor has taken its own.
const MIN_GUEST_BYTES: u64 = 4 << 20;

/// What the hypervisor asks of the boot loader: all physical memory mapped, and the top of the address space left free.
pub static CONFIG: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.mappings.physical_memory = Some(Mapping::Dynamic);
    config.mappings.dynamic_range_end = Some(mem::RUN_TIME_BASE - 1);
    config.kernel_stack_size = STACK_BYTES;
    config
};

/// Why the hypervisor cannot take the machine over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BootError {
    /// The boot loader did not map the physical memory.
    #[error("the boot loader did not map the physical memory; boot an image that `cargo xtask image` made")]
    NoPhysicalMemoryMapping,
    /// Not enough RAM in one piece for the heap and the table of frames, or too little left for guests.
    #[error(
        "too little memory: the largest free range is {largest_bytes} bytes, the hypervisor and its guests need {needed_bytes}; \
         give the machine more memory (64 MiB is enough for a few tiny guests)"
    )]
    TooLittleMemory {
        /// The largest usable range.
        largest_bytes: u64,
        /// What must fit into it.
        needed_bytes: u64,
    },
}

/// What the boot loader handed over, checked.
#[derive(Debug)]
pub struct Handover {
    /// Physical address of the ACPI RSDP, if the firmware has one.
    pub rsdp: Option<HostPhysAddr>,
    /// The ramdisk, if the image has one.
    pub ramdisk: Option<&'static [u8]>,
    /// Bytes of RAM that the memory map calls usable.
    pub usable_bytes: u64,
    /// The firmware that started the boot loader: `BIOS` or `UEFI`.
    pub firmware: &'static str,
}

/// Takes the machine's memory over: the window, the heap, the frames. The console is up before anything can go wrong.
///
/// # Errors
/// [`BootError`].
pub fn take_over(info: &'static mut BootInfo) -> Result<Handover, BootError> {
    let info: &'static BootInfo = info;
    cpu::adopt_boot_block();
    serial::init();
    let offset = info.physical_memory_offset.into_option().ok_or(BootError::NoPhysicalMemoryMapping)?;
    let end_of_ram = info.memory_regions.iter().map(|region| region.end).max().unwrap_or(0);
    // The boot loader maps at least the first 4 GiB, since device registers lie there.
    let window = Window { offset, len_bytes: end_of_ram.max(4 << 30) };
    // SAFETY: the boot loader was asked for it by `CONFIG` and said where it is; the hypervisor never unmaps it.
    unsafe { mem::set_window(window) };

    // There is no heap yet, so the regions are gathered in an array; a map longer than it loses its tail, which is safe.
    let mut regions = [MemoryRegion { start: 0, end: 0, kind: RegionKind::Reserved }; MAX_REGIONS];
    for (slot, region) in regions.iter_mut().zip(info.memory_regions.iter()) {
        let usable = region.kind == MemoryRegionKind::Usable;
        let kind = if usable { RegionKind::Usable } else { RegionKind::Reserved };
        *slot = MemoryRegion { start: region.start, end: region.end, kind };
    }
    let usable = regions.iter().filter(|region| region.kind == RegionKind::Usable);
    let largest_bytes = usable.map(|region| region.end.saturating_sub(region.start)).max().unwrap_or(0);
    let too_little = |needed_bytes| BootError::TooLittleMemory { largest_bytes, needed_bytes };

    let heap = find_place(&regions, &[], HEAP_BYTES, PAGE_SIZE).ok_or(too_little(HEAP_BYTES))?;
    let heap = heap..HostPhysAddr(heap.0 + HEAP_BYTES);
    let pointer = |address: HostPhysAddr| (offset + address.0) as *mut u8;
    // SAFETY: the range is usable RAM that nothing else claims, mapped by the window, and taken out of what the frame
    // allocator gets below. `take_over` runs once: it consumes the only reference to the boot loader's
    // information, which the entry point was given.
    unsafe { mem::init_heap(pointer(heap.start), HEAP_BYTES as usize) };

    let frame_count = plan(&regions, &[]).frame_count;
    let table_bytes = (frame_count * 2).next_multiple_of(PAGE_SIZE);
    let table = find_place(&regions, core::slice::from_ref(&heap), table_bytes, PAGE_SIZE)
        .ok_or(too_little(HEAP_BYTES + table_bytes))?;
    let table = table..HostPhysAddr(table.0 + table_bytes);
    // SAFETY: as above; a table of u16 is valid for any bytes, and the start is page-aligned.
    let owners = unsafe {
        let start = pointer(table.start);
        core::ptr::write_bytes(start, 0, table_bytes as usize);
        core::slice::from_raw_parts_mut(start.cast::<u16>(), frame_count as usize)
    };

    let memory = plan(&regions, &[heap.clone(), table.clone()]);
    let needed = MIN_GUEST_BYTES / PAGE_SIZE;
    if memory.usable_frames() < needed {
        return Err(too_little(HEAP_BYTES + table_bytes + MIN_GUEST_BYTES));
    }
    let mut frames = FrameAllocator::new(owners);
    let usable_bytes = (memory.usable_frames() * PAGE_SIZE) + HEAP_BYTES + table_bytes;
    let frames_of = |range: &Range<HostPhysAddr>| Frame::containing(range.start)..Frame::containing(range.end);
    // The ranges are apart from each other and inside the table, as `plan` made them, so none can be refused.
    if let Some(low) = memory.start_up_frames(smp::START_UP_FRAMES) {
        smp::set_start_up_frames(low);
    }
    for range in memory.usable {
        let added = frames.add_usable(range);
        debug_assert!(added.is_ok(), "{added:?}");
    }
    for (range, owner) in [(heap, Owner::HEAP), (table, Owner::HOST)] {
        let adopted = frames.adopt(frames_of(&range), owner);
        debug_assert!(adopted.is_ok(), "{adopted:?}");
    }
    mem::init_frames(frames);
    Ok(Handover {
        rsdp: info.rsdp_addr.into_option().map(HostPhysAddr),
        ramdisk: ramdisk(info),
        usable_bytes,
        firmware: firmware(info),
    })
}

/// The boot loader keeps the firmware's own region types apart.
fn firmware(info: &BootInfo) -> &'static str {
    let uefi = info.memory_regions.iter().any(|region| matches!(region.kind, MemoryRegionKind::UnknownUefi(_)));
    if uefi { "UEFI" } else { "BIOS" }
}

fn ramdisk(info: &'static BootInfo) -> Option<&'static [u8]> {
    let address = info.ramdisk_addr.into_option()?;
    let len = usize::try_from(info.ramdisk_len).ok().filter(|&len| len > 0)?;
    // SAFETY: the boot loader mapped the ramdisk's `ramdisk_len` bytes at this address, keeps its frames out of the usable
    // regions, and nobody writes to it.
    Some(unsafe { core::slice::from_raw_parts(address as *const u8, len) })
}

/// Seals the hypervisor's own mappings: the boot loader's leftovers go, and the kernel's code and constants are read-only
/// wherever they are mapped. Answers with the pages that are writable and executable at once, of which there should be none.
///
/// # Errors
/// [`mem::MapError`] when there is no memory for page tables.
pub fn seal() -> Result<Vec<mem::MappingFault>, mem::MapError> {
    mem::drop_low_half();
    mem::protect_image()?;
    Ok(mem::audit_mappings())
}

/// Looks below the stacks of all CPUs for a page that is mapped. To be called on the boot CPU, whose stack is found by where it is.
#[must_use]
pub fn audit_stacks() -> mem::Guards {
    let here = 0_u8;
    mem::audit_stacks(core::ptr::from_ref(&here) as u64, STACK_BYTES)
}
