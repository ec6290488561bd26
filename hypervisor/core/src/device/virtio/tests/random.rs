//! Drivers that write anything anywhere: nothing panics, and no access costs more than its bound.

use super::{RAM_LEN, Ram};
use crate::bus::Width;
use crate::device::virtio::VirtioDevice;
use crate::device::virtio::balloon::Balloon;
use crate::device::virtio::mmio::VirtioMmio;
use proptest::prelude::*;
use std::vec::Vec;

#[derive(Clone, Debug)]
enum Step {
    Write(u32, Width, u64),
    Read(u32, Width),
    /// A queue set up in RAM, rightly, over whatever is there.
    SetUp(u32, u32, u64),
    Notify(u32),
    /// Descriptors, heads and a number of new buffers that could be right, in the rings of a page.
    Offer(u64, Vec<(u64, u32, u16, u16)>, Vec<u16>, u16),
    /// Anything in RAM.
    Fill(u64, Vec<u16>),
    Target(u32),
    RequestStats,
    Restart,
    Starve(Option<u64>),
}

fn offer(page: impl Strategy<Value = u64>) -> impl Strategy<Value = Step> {
    let index = || prop_oneof![40 => 0u16..4, 1 => any::<u16>()];
    let gpa = prop_oneof![40 => 0..RAM_LEN as u64 - 5000, 1 => any::<u64>()];
    let len = prop_oneof![40 => 0u32..600, 4 => 600u32..5000, 1 => any::<u32>()];
    let flags = prop_oneof![20 => Just(0u16), 10 => Just(1), 3 => Just(3), 1 => any::<u16>()];
    let descriptors = prop::collection::vec((gpa, len, flags, index()), 16);
    let count = prop_oneof![20 => 0u16..3, 2 => 3u16..17, 1 => any::<u16>()];
    (page, descriptors, prop::collection::vec(index(), 16), count)
        .prop_map(|(page, descriptors, heads, count)| Step::Offer(page, descriptors, heads, count))
}

fn step() -> impl Strategy<Value = Step> {
    let width = || prop_oneof![4 => Just(Width::Dword), 1 => Just(Width::Byte), 1 => Just(Width::Word), 1 => Just(Width::Qword)];
    // Rings and what they point to share a few pages.
    let page = || (0u64..4).prop_map(|page| page << 12);
    prop_oneof![
        2 => (0u32..0x110, width(), any::<u64>()).prop_map(|(offset, width, value)| Step::Write(offset, width, value)),
        2 => (0u32..0x44).prop_flat_map(move |register| (Just(register * 4), width(), 0u64..32))
            .prop_map(|(offset, width, value)| Step::Write(offset, width, value)),
        1 => (0u32..0x1000, width()).prop_map(|(offset, width)| Step::Read(offset, width)),
        4 => (0u32..4, 0u32..6, page()).prop_map(|(index, size, base)| Step::SetUp(index, 1 << size, base)),
        8 => (0u32..4).prop_map(Step::Notify),
        16 => offer(page()),
        1 => (page(), 0u64..0x800, prop::collection::vec(any::<u16>(), 1..200))
            .prop_map(|(page, offset, words)| Step::Fill(page + offset * 2, words)),
        1 => prop_oneof![any::<u32>().prop_map(Step::Target), Just(Step::RequestStats)],
        1 => Just(Step::Restart),
        1 => prop::option::of(page()).prop_map(Step::Starve),
    ]
}

struct World {
    mmio: VirtioMmio<Balloon>,
    ram: Ram,
}

impl World {
    fn set(&mut self, offset: u32, value: u32) {
        let _ = self.mmio.write(offset, Width::Dword, value.into(), &mut self.ram);
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Write(offset, width, value) => {
                let _ = self.mmio.write(offset, width, value, &mut self.ram);
            }
            Step::Read(offset, width) => assert!(self.mmio.read(offset, width) <= width.mask()),
            Step::SetUp(index, size, base) => {
                let low = u32::try_from(base).unwrap();
                let areas = [(0x80, low), (0x84, 0), (0x90, low + 0x400), (0x94, 0), (0xa0, low + 0x800), (0xa4, 0)];
                self.set(0x30, index);
                self.set(0x44, 0);
                self.set(0x38, size);
                areas.into_iter().for_each(|(offset, value)| self.set(offset, value));
                self.set(0x44, 1);
            }
            Step::Notify(index) => self.set(0x50, index),
            Step::Offer(base, descriptors, heads, count) => {
                for (at, (gpa, len, flags, next)) in (base..).step_by(16).zip(descriptors) {
                    self.ram.put(at, &gpa.to_le_bytes());
                    self.ram.put(at + 8, &len.to_le_bytes());
                    self.ram.put(at + 12, &flags.to_le_bytes());
                    self.ram.put(at + 14, &next.to_le_bytes());
                }
                for (at, head) in (base + 0x404..).step_by(2).zip(heads) {
                    self.ram.put(at, &head.to_le_bytes());
                }
                let used = self.ram.u16_at(base + 0x802);
                self.ram.put(base + 0x402, &used.wrapping_add(count).to_le_bytes());
            }
            Step::Fill(gpa, words) => {
                for (word, at) in words.into_iter().zip((gpa..RAM_LEN as u64 - 2).step_by(2)) {
                    self.ram.put(at, &word.to_le_bytes());
                }
            }
            Step::Target(pages) => self.mmio.change_config(|balloon| balloon.set_target_pages(pages)),
            Step::RequestStats => {
                let _ = self.mmio.with_queue(2, &mut self.ram, Balloon::request_stats);
            }
            Step::Restart => {
                for (offset, value) in [(0x70, 0), (0x70, 3), (0x24, 0), (0x20, 7), (0x24, 1), (0x20, 1), (0x70, 15)] {
                    self.set(offset, value);
                }
            }
            Step::Starve(page) => self.ram.unbacked = page,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_driver_breaks_the_balloon(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World { mmio: VirtioMmio::new(Balloon::new()), ram: Ram::new() };
        world.run(Step::Restart);
        // One queue's entries, each a page of page numbers; and, at DRIVER_OK, that of all queues.
        let most = usize::from(Balloon::QUEUE_SIZES[0]) * 1024;
        for step in steps {
            let before = world.ram.discarded.len();
            world.run(step);
            prop_assert!(world.ram.discarded.len() - before <= most);
            prop_assert_eq!(world.ram.flushed, world.ram.discarded.len());
            prop_assert_eq!(world.mmio.fault().is_some(), world.mmio.read(0x70, Width::Dword) & 64 != 0);
            if world.mmio.fault().is_some() {
                world.run(Step::Restart);
            }
        }
    }
}

/// The generator of the test above reaches what it is about: rings that are followed, and rings that break.
#[test]
fn random_drivers_get_far_enough() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut inflated, mut faults, mut stats) = (0, 0, 0);
    for _ in 0..200 {
        let steps = prop::collection::vec(step(), 100).new_tree(&mut runner).unwrap().current();
        let mut world = World { mmio: VirtioMmio::new(Balloon::new()), ram: Ram::new() };
        world.run(Step::Restart);
        for step in steps {
            world.run(step);
            inflated += usize::from(world.mmio.device().inflated() > 0);
            stats += usize::from(world.mmio.device().stats().1 > 0);
            if world.mmio.fault().is_some() {
                faults += 1;
                world.run(Step::Restart);
            }
        }
    }
    assert!(inflated > 20 && faults > 20 && stats > 20, "{inflated} {faults} {stats}");
}
