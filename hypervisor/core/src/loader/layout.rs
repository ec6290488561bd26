//! Where a VM's RAM is in its guest-physical address space: [`RamLayout`], and the e820 map made from it.
//!
//! The map of a PC: RAM from 0, the VGA window at 0xA0000, the ROM area (RAM here, it holds the ACPI tables) up to
//! 1 MiB, RAM up to 3 GiB at most, devices below 4 GiB, and the rest of the RAM above 4 GiB.

use crate::memory::{GuestPhysAddr, PAGE_SIZE};
use alloc::vec::Vec;

/// Start of the VGA window: no RAM from here on.
pub const VGA_START: u64 = 0xa_0000;
/// Start of the ROM area: RAM again, reserved in the e820 map up to [`HIGH_MEMORY`].
pub const ROM_START: u64 = 0xc_0000;
/// Where the ACPI tables are, RSDP first, within the range that an operating system searches for it.
pub const ACPI_START: u64 = 0xe_0000;
/// One MiB: the end of what a real-mode address reaches, and the least memory of a VM.
pub const HIGH_MEMORY: u64 = 0x10_0000;
/// RAM below 4 GiB ends here at the latest.
pub const LOW_RAM_LIMIT: u64 = 3 << 30;
/// RAM that does not fit below [`LOW_RAM_LIMIT`] begins here.
pub const ABOVE_4G: u64 = 4 << 30;
/// IOAPIC, local APIC and firmware: reserved in the e820 map, from here to 4 GiB.
pub const FIXED_DEVICES_START: u64 = 0xfec0_0000;

/// A range of guest-physical memory, page aligned, never empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RamRange {
    /// First byte.
    pub start: GuestPhysAddr,
    /// First byte after it.
    pub end: GuestPhysAddr,
}

impl RamRange {
    /// Bytes in the range.
    #[must_use]
    pub const fn len_bytes(&self) -> u64 {
        self.end.0 - self.start.0
    }
}

/// The type of an [`E820Entry`]: ACPI specification, "System Address Map Interfaces", table "Address Range Types".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum E820Type {
    /// AddressRangeMemory: RAM the operating system may use.
    Ram = 1,
    /// AddressRangeReserved: not to be used.
    Reserved = 2,
}

/// One entry of the memory map that a guest is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct E820Entry {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len_bytes: u64,
    /// What the guest may do with it.
    pub kind: E820Type,
}

/// The RAM of a VM, by guest-physical address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RamLayout {
    memory_len_bytes: u64,
}

impl RamLayout {
    /// The layout of a VM with `memory_len_bytes` of memory, rounded down to whole pages. As on a PC, the 128 KiB
    /// behind the VGA window are counted and lost.
    #[must_use]
    pub const fn new(memory_len_bytes: u64) -> Self {
        Self { memory_len_bytes: memory_len_bytes & !(PAGE_SIZE - 1) }
    }

    /// The ranges of RAM in ascending order; at most three.
    pub fn ranges(&self) -> impl Iterator<Item = RamRange> + use<> {
        let low_end = self.low_end().0;
        let above = self.memory_len_bytes.saturating_sub(LOW_RAM_LIMIT);
        [(0, low_end.min(VGA_START)), (ROM_START, low_end), (ABOVE_4G, ABOVE_4G.saturating_add(above))]
            .into_iter()
            .filter(|(start, end)| start < end)
            .map(|(start, end)| RamRange { start: GuestPhysAddr(start), end: GuestPhysAddr(end) })
    }

    /// Whether the `len_bytes` bytes from `gpa` on are all RAM. No bytes are in RAM where the byte at `gpa` is.
    #[must_use]
    pub fn contains(&self, gpa: GuestPhysAddr, len_bytes: u64) -> bool {
        let Some(end) = gpa.checked_add(len_bytes.max(1)) else { return false };
        self.ranges().any(|range| range.start <= gpa && end <= range.end)
    }

    /// Whether the byte at `gpa` is RAM.
    #[must_use]
    pub fn is_ram(&self, gpa: GuestPhysAddr) -> bool {
        self.contains(gpa, 1)
    }

    /// Bytes of RAM that the guest can reach: its memory without what lies behind the VGA window.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.ranges().map(|range| range.len_bytes()).fold(0, u64::saturating_add)
    }

    /// End of the RAM below 4 GiB.
    #[must_use]
    pub const fn low_end(&self) -> GuestPhysAddr {
        if self.memory_len_bytes < LOW_RAM_LIMIT {
            GuestPhysAddr(self.memory_len_bytes)
        } else {
            GuestPhysAddr(LOW_RAM_LIMIT)
        }
    }

    /// End of all RAM.
    #[must_use]
    pub fn end(&self) -> GuestPhysAddr {
        self.ranges().last().map_or(GuestPhysAddr(0), |range| range.end)
    }

    /// The memory map for the guest: RAM, the ROM area and the fixed devices below 4 GiB as reserved. What is not
    /// listed is no memory.
    #[must_use]
    pub fn e820(&self) -> Vec<E820Entry> {
        let entry = |start: u64, end: u64, kind| E820Entry { start, len_bytes: end.saturating_sub(start), kind };
        let mut map = Vec::new();
        for RamRange { start, end } in self.ranges() {
            if start.0 == ROM_START {
                map.push(entry(ROM_START, HIGH_MEMORY.min(end.0), E820Type::Reserved));
                map.push(entry(HIGH_MEMORY, end.0, E820Type::Ram));
            } else {
                map.push(entry(start.0, end.0, E820Type::Ram));
            }
        }
        map.push(entry(FIXED_DEVICES_START, ABOVE_4G, E820Type::Reserved));
        map.retain(|entry| entry.len_bytes > 0);
        map.sort_by_key(|entry| entry.start);
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_small_vm_has_two_ranges() {
        let ram = RamLayout::new(64 * MIB + 5);
        let ranges: Vec<_> = ram.ranges().map(|range| (range.start.0, range.end.0)).collect();
        assert_eq!(ranges, [(0, 0xa_0000), (0xc_0000, 64 * MIB)]);
        assert_eq!(ram.len_bytes(), 64 * MIB - 0x2_0000);
        assert!(!ram.contains(GuestPhysAddr(0x9_ffff), 2));
        assert!(ram.contains(GuestPhysAddr(0x9_ffff), 1));
        assert!(!ram.contains(GuestPhysAddr(u64::MAX), 2));
        assert!(!ram.is_ram(ram.end()));
    }

    #[test]
    fn what_does_not_fit_below_3_gib_is_above_4_gib() {
        let ram = RamLayout::new(5 << 30);
        assert_eq!(ram.low_end(), GuestPhysAddr(3 << 30));
        assert_eq!(ram.end(), GuestPhysAddr(6 << 30));
        assert!(!ram.is_ram(GuestPhysAddr(0xfee0_0000)));
        let map: Vec<_> = ram.e820().iter().map(|e| (e.start, e.start + e.len_bytes, e.kind)).collect();
        assert_eq!(
            map,
            [
                (0, 0xa_0000, E820Type::Ram),
                (0xc_0000, MIB, E820Type::Reserved),
                (MIB, 3 << 30, E820Type::Ram),
                (0xfec0_0000, 4 << 30, E820Type::Reserved),
                (4 << 30, 6 << 30, E820Type::Ram),
            ]
        );
    }

    proptest! {
        #[test]
        fn the_map_tells_the_truth(memory in 0u64..(16 << 30), gpa in 0u64..(20 << 30)) {
            let ram = RamLayout::new(memory);
            let map = ram.e820();
            for pair in map.windows(2) {
                prop_assert!(pair[0].start + pair[0].len_bytes <= pair[1].start);
            }
            for entry in map.iter().filter(|entry| entry.kind == E820Type::Ram) {
                prop_assert!(ram.contains(GuestPhysAddr(entry.start), entry.len_bytes));
            }
            let usable = map.iter().any(|e| e.kind == E820Type::Ram && (e.start..e.start + e.len_bytes).contains(&gpa));
            let rom = (ROM_START..HIGH_MEMORY).contains(&gpa);
            prop_assert_eq!(usable, ram.is_ram(GuestPhysAddr(gpa)) && !rom);
        }
    }

    #[test]
    fn absurd_sizes_do_not_overflow() {
        for size in [0, 1, 4096, VGA_START, ROM_START, u64::MAX] {
            let ram = RamLayout::new(size);
            assert!(ram.len_bytes() <= size);
            assert!(ram.e820().iter().all(|entry| entry.start.checked_add(entry.len_bytes).is_some()));
        }
    }
}
