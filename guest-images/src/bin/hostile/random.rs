//! What is made up: numbers, and numbers that mean something to a CPU.

use crate::tables::{NOTHING, SCRATCH, USER};

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The numbers of one CPU in one step.
    pub(crate) fn new(seed: u64, cpu: usize, step: u64) -> Self {
        // Each part is stirred in: sequences that began a multiple of the increment apart would be one, shifted.
        [cpu as u64, step].into_iter().fold(Self(seed), |mut random, part| Self(random.next() ^ part))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; the bias of the remainder does not matter here.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// A value for a register: an address, a bit, an edge, or anything.
    pub(crate) fn value(&mut self) -> u64 {
        const EDGES: [u64; 10] = [
            0,
            1,
            0x7FFF_FFFF,
            0x8000_0000,
            0xFFFF_FFFF,
            0x7FFF_FFFF_FFFF,
            0x8000_0000_0000,
            0xFFFF_8000_0000_0000,
            u64::MAX - 1,
            u64::MAX,
        ];
        match self.below(8) {
            0 => self.next(),
            1 => self.next() & 0xFF,
            2 => 1 << self.below(64),
            3 => self.pick(&EDGES),
            4 => self.next() & 0xFFFF_FFFF,
            5 => (self.next() & 0xFF).wrapping_neg(),
            _ => self.address(),
        }
    }

    /// An address: mostly of memory that nobody needs or of a device.
    pub(crate) fn address(&mut self) -> u64 {
        match self.below(16) {
            0..9 => SCRATCH + (self.next() & 0x7_FFFF),
            9..11 => USER + (self.next() & 0xFFFF),
            11 => self.device(),
            // The VGA window, the end of 8 MiB, a hole, behind all RAM; where a write may ruin the guest; no address at all.
            12 => self.pick(&[0xA_0000, 0x80_0000, NOTHING + 0x1000, 0x1_0000_0000]) + self.next() % 0x20 - 0x10,
            13 => self.next() & 0x7F_FFFF,
            14 => self.next() & 0xFFFF_FFFF,
            _ => self.next(),
        }
    }

    /// An address in a page of a device: local APIC, IOAPIC, memory balloon, and between them.
    pub(crate) fn device(&mut self) -> u64 {
        let page = self.pick(&[0xFEE0_0000, 0xFEE0_0000, 0xFEC0_0000, 0xFED1_0000, 0xFED0_0000, 0xFEE0_1000]);
        let offset = match self.below(4) {
            0 => self.next() & 0xFFF,
            1 => self.next() & 0xFF,
            _ => self.next() & 0xFF0,
        };
        page + offset
    }
}
