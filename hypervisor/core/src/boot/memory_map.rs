//! The machine's memory map: what firmware and boot loader say about it, and what of it can be allocated.
//!
//! A map from the firmware is not to be trusted to be sorted, free of overlaps, or page aligned. [`plan`] makes frame
//! ranges of it: usable memory aligned inward, everything else outward, and where both claim a byte, it is not usable.

use crate::memory::{Frame, HostPhysAddr, PAGE_SIZE};
use alloc::vec::Vec;
use core::ops::Range;

/// What a region of host-physical memory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionKind {
    /// RAM that nobody uses.
    Usable,
    /// RAM in use since boot: the kernel image, its page tables and stack, the ramdisk, boot information.
    InUse,
    /// The firmware's, devices, bad memory, or of unknown kind.
    Reserved,
}

/// A region of host-physical memory: bytes `start..end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRegion {
    /// The first byte.
    pub start: u64,
    /// The first byte behind it.
    pub end: u64,
    /// What it is.
    pub kind: RegionKind,
}

/// Memory below 1 MiB is kept aside: start-up code for the other CPUs must be there, and firmware is careless with it.
pub const LOW_MEMORY_END: u64 = 1 << 20;
/// Conventional memory ends at 640 KiB at the latest; video memory and ROMs follow.
const CONVENTIONAL_END: u64 = 0xa_0000;
/// Some firmware uses memory below 64 KiB that its map calls usable.
const CARELESS_END: u64 = 0x1_0000;
/// The largest host-physical address is 52 bits wide.
const ADDRESS_SPACE_END: u64 = 1 << 52;

/// The machine's memory, as frames.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct MemoryPlan {
    /// What can be allocated: sorted, apart from each other, all from 1 MiB up.
    pub usable: Vec<Range<Frame>>,
    /// Usable frames below 640 KiB, without frame 0: for the start-up code of other CPUs (a SIPI names a frame below 1 MiB).
    pub low: Vec<Range<Frame>>,
    /// One more than the highest usable frame: the length of a table with an entry per frame.
    pub frame_count: u64,
}

impl MemoryPlan {
    /// Usable memory, in frames.
    #[must_use]
    pub fn usable_frames(&self) -> u64 {
        self.usable.iter().map(|run| run.end.0 - run.start.0).sum()
    }

    /// The lowest `count` frames in a row for the start-up code of other CPUs. Below 64 KiB is passed over where it can be:
    /// firmware is known to write there without having said so.
    #[must_use]
    pub fn start_up_frames(&self, count: u64) -> Option<Range<Frame>> {
        let from = |least: u64| {
            let start = |run: &Range<Frame>| Some(run.start.0.max(least)).filter(|start| start + count <= run.end.0);
            self.low.iter().find_map(start)
        };
        let start = from(CARELESS_END / PAGE_SIZE).or_else(|| from(0))?;
        Some(Frame(start)..Frame(start + count))
    }
}

/// Sanitises a memory map. `taken` is what is in use whatever the map says: the kernel, the ramdisk, the heap.
#[must_use]
pub fn plan(regions: &[MemoryRegion], taken: &[Range<HostPhysAddr>]) -> MemoryPlan {
    let usable = regions.iter().filter(|region| region.kind == RegionKind::Usable).filter_map(frames_inside);
    let others = regions.iter().filter(|region| region.kind != RegionKind::Usable).map(frames_touched);
    let taken = taken.iter().map(|bytes| frames_around(bytes.start.0, bytes.end.0));
    let free = subtract(&merge(usable.collect()), &merge(others.chain(taken).collect()));

    let split = LOW_MEMORY_END / PAGE_SIZE;
    let high = free.iter().filter_map(|run| clip(run, split..u64::MAX));
    let low = free.iter().filter_map(|run| clip(run, 1..CONVENTIONAL_END / PAGE_SIZE));
    let usable: Vec<_> = high.map(to_frames).collect();
    let frame_count = usable.last().map_or(0, |run| run.end.0);
    MemoryPlan { usable, low: low.map(to_frames).collect(), frame_count }
}

/// A place for `len_bytes` bytes, aligned to `align_bytes` (a power of two, at least a page), in usable memory from 1 MiB
/// up that nothing else claims: the lowest there is. Allocates nothing: this is how the heap finds its place.
#[must_use]
pub fn find_place(
    regions: &[MemoryRegion],
    taken: &[Range<HostPhysAddr>],
    len_bytes: u64,
    align_bytes: u64,
) -> Option<HostPhysAddr> {
    let others = regions.iter().filter(|region| region.kind != RegionKind::Usable);
    let obstacles = || {
        let others = others.clone().map(|region| (region.start, region.end));
        others.chain(taken.iter().map(|bytes| (bytes.start.0, bytes.end.0))).filter(|(start, end)| start < end)
    };
    let len_bytes = len_bytes.checked_next_multiple_of(PAGE_SIZE)?;
    let align_bytes = align_bytes.max(PAGE_SIZE).checked_next_power_of_two()?;
    let lowest_in = |region: &MemoryRegion| {
        let mut start = region.start.max(LOW_MEMORY_END).checked_next_multiple_of(align_bytes)?;
        loop {
            let end = start.checked_add(len_bytes).filter(|&end| end <= region.end)?;
            // Each turn goes past one obstacle more, so there is an end to it.
            match obstacles().filter(|&(first, last)| first < end && start < last).map(|(_, last)| last).max() {
                None => return Some(HostPhysAddr(start)),
                Some(past) => start = past.checked_next_multiple_of(align_bytes)?,
            }
        }
    };
    regions.iter().filter(|region| region.kind == RegionKind::Usable).filter_map(lowest_in).min()
}

/// The whole frames inside a region.
fn frames_inside(region: &MemoryRegion) -> Option<Range<u64>> {
    let start = region.start.checked_next_multiple_of(PAGE_SIZE)? / PAGE_SIZE;
    let end = region.end.min(ADDRESS_SPACE_END) / PAGE_SIZE;
    (start < end).then_some(start..end)
}

/// Every frame that has a byte of a region.
fn frames_touched(region: &MemoryRegion) -> Range<u64> {
    frames_around(region.start, region.end)
}

const fn frames_around(start: u64, end: u64) -> Range<u64> {
    if start < end { start / PAGE_SIZE..end.div_ceil(PAGE_SIZE) } else { 0..0 }
}

/// Sorts ranges and joins those that overlap or touch.
fn merge(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// What is in `from` and not in `what`, both sorted and merged.
fn subtract(from: &[Range<u64>], what: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    for range in from {
        let mut start = range.start;
        for hole in what.iter().filter(|hole| hole.start < range.end && range.start < hole.end) {
            if start < hole.start {
                left.push(start..hole.start);
            }
            start = hole.end;
        }
        if start < range.end {
            left.push(start..range.end);
        }
    }
    left
}

fn clip(range: &Range<u64>, to: Range<u64>) -> Option<Range<u64>> {
    let clipped = range.start.max(to.start)..range.end.min(to.end);
    (!clipped.is_empty()).then_some(clipped)
}

const fn to_frames(range: Range<u64>) -> Range<Frame> {
    Frame(range.start)..Frame(range.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    const fn region(start: u64, end: u64, kind: RegionKind) -> MemoryRegion {
        MemoryRegion { start, end, kind }
    }

    #[test]
    fn a_pc_map_becomes_frames() {
        let map = [
            region(0x10_0000, 0x7ff_0400, RegionKind::Usable),
            region(0x0, 0x9_fc00, RegionKind::Usable),
            region(0x9_fc00, 0xa_0000, RegionKind::Reserved),
            region(0x20_0000, 0x40_0000, RegionKind::InUse),
            region(0xfffc_0000, 0x1_0000_0000, RegionKind::Reserved),
            region(0x1_0000_0000, 0x1_4000_0000, RegionKind::Usable),
        ];
        let ramdisk = HostPhysAddr(0x50_0001)..HostPhysAddr(0x50_0fff);
        let plan = plan(&map, &[ramdisk]);
        assert_eq!(
            plan.usable,
            vec![
                Frame(0x100)..Frame(0x200),
                Frame(0x400)..Frame(0x500),
                Frame(0x501)..Frame(0x7ff0),
                Frame(0x10_0000)..Frame(0x14_0000),
            ]
        );
        assert_eq!(plan.low, vec![Frame(1)..Frame(0x9f)]);
        assert_eq!(plan.frame_count, 0x14_0000);
    }

    #[test]
    fn start_up_code_goes_above_64_kib_where_it_fits() {
        let low = |runs: &[(u64, u64)]| MemoryPlan {
            low: runs.iter().map(|&(start, end)| Frame(start)..Frame(end)).collect(),
            ..MemoryPlan::default()
        };
        assert_eq!(low(&[(1, 0x9f)]).start_up_frames(2), Some(Frame(0x10)..Frame(0x12)));
        assert_eq!(low(&[(1, 4), (8, 0x11), (0x20, 0x22)]).start_up_frames(2), Some(Frame(0x20)..Frame(0x22)));
        assert_eq!(low(&[(1, 2), (8, 0x11)]).start_up_frames(2), Some(Frame(8)..Frame(10)));
        assert_eq!(low(&[(1, 2), (0x20, 0x21)]).start_up_frames(2), None);
        assert_eq!(low(&[]).start_up_frames(1), None);
    }

    #[test]
    fn absurd_maps_give_nothing() {
        let map = [
            region(u64::MAX - 10, u64::MAX, RegionKind::Usable),
            region(5 << 20, 4 << 20, RegionKind::Usable),
            region(0x10_0001, 0x10_1fff, RegionKind::Usable),
        ];
        assert_eq!(plan(&map, &[]), MemoryPlan::default());
        assert_eq!(find_place(&map, &[], PAGE_SIZE, PAGE_SIZE), None);
        assert_eq!(find_place(&map, &[], u64::MAX, u64::MAX), None);
    }

    fn regions() -> impl Strategy<Value = Vec<MemoryRegion>> {
        let kind =
            prop::sample::select(vec![RegionKind::Usable, RegionKind::Usable, RegionKind::InUse, RegionKind::Reserved]);
        // Around 1 MiB, in steps that are mostly no pages; up to 64 pages each.
        let region = (0u64..512, 0u64..64, kind)
            .prop_map(|(start, len, kind)| region(start * 0xc00, (start + len) * 0xc00, kind));
        prop::collection::vec(region, 0..12)
    }

    proptest! {
        /// Byte by byte (in steps of 1 KiB) against the definition.
        #[test]
        fn usable_is_what_no_one_else_claims(map in regions(), taken in (0u64..400, 0u64..40)) {
            let taken = [HostPhysAddr(taken.0 * 0x1400)..HostPhysAddr((taken.0 + taken.1) * 0x1400)];
            let plan = plan(&map, &taken);
            for frame in 0..512u64 {
                let all = |claimed: &dyn Fn(u64) -> bool| (0..4).all(|kib| claimed(frame * PAGE_SIZE + kib * 1024));
                let usable = all(&|byte| map.iter().any(|r| r.kind == RegionKind::Usable && (r.start..r.end).contains(&byte)));
                let other = !all(&|byte| {
                    let by_map = map.iter().any(|r| {
                        r.kind != RegionKind::Usable && r.start < byte + 1024 && byte < r.end
                    });
                    let by_taken = taken.iter().any(|t| t.start.0 < byte + 1024 && byte < t.end.0);
                    !by_map && !by_taken
                });
                let listed = plan.usable.iter().any(|run| (run.start.0..run.end.0).contains(&frame));
                // Two regions that meet inside a page do not make it whole: that is the one thing given up.
                prop_assert!(!listed || (usable && !other && frame >= 256), "frame {frame:#x}");
                let inside_one = map.iter().filter(|r| r.kind == RegionKind::Usable)
                    .any(|r| r.start <= frame * PAGE_SIZE && (frame + 1) * PAGE_SIZE <= r.end);
                prop_assert_eq!(listed, inside_one && !other && frame >= 256, "frame {:#x}", frame);
            }
            prop_assert!(plan.usable.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert!(plan.low.iter().all(|run| run.start.0 >= 1 && run.end.0 <= 0xa0));
        }

        #[test]
        fn a_place_is_free_and_found_where_there_is_one(map in regions(), frames in 1u64..32, taken in (0u64..400, 0u64..40)) {
            let taken = [HostPhysAddr(taken.0 * 0x1400)..HostPhysAddr((taken.0 + taken.1) * 0x1400)];
            let len_bytes = frames * PAGE_SIZE;
            let plan = plan(&map, &taken);
            match find_place(&map, &taken, len_bytes, 0x2000) {
                Some(place) => {
                    prop_assert_eq!(place.0 % 0x2000, 0);
                    let run = place.0 / PAGE_SIZE..(place.0 + len_bytes) / PAGE_SIZE;
                    prop_assert!(plan.usable.iter().any(|free| free.start.0 <= run.start && run.end <= free.end.0));
                }
                None => {
                    let fits = |run: &Range<u64>, within: &MemoryRegion| {
                        let start = (run.start * PAGE_SIZE).max(within.start).next_multiple_of(0x2000);
                        start + len_bytes <= (run.end * PAGE_SIZE).min(within.end)
                    };
                    for within in map.iter().filter(|region| region.kind == RegionKind::Usable) {
                        prop_assert!(!plan.usable.iter().any(|run| fits(&(run.start.0..run.end.0), within)));
                    }
                }
            }
        }
    }
}
