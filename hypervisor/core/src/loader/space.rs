//! [`GuestSpace`]: guest RAM while it is being filled; it knows what is where, and finds room for the rest.

use super::LoadError;
use super::layout::{HIGH_MEMORY, ROM_START, RamLayout, VGA_START};
use crate::memory::{GuestMemory, GuestPhysAddr, PAGE_SIZE};
use alloc::vec::Vec;

/// A range that is spoken for.
#[derive(Clone, Copy)]
struct Claim {
    start: u64,
    end: u64,
    what: &'static str,
}

/// Guest RAM that a loader fills.
pub(super) struct GuestSpace<'m> {
    memory: &'m mut dyn GuestMemory,
    ram: RamLayout,
    claims: Vec<Claim>,
}

impl<'m> GuestSpace<'m> {
    pub(super) fn new(ram: RamLayout, memory: &'m mut dyn GuestMemory) -> Self {
        Self { memory, ram, claims: Vec::new() }
    }

    pub(super) const fn ram(&self) -> &RamLayout {
        &self.ram
    }

    /// Writes `bytes` at `gpa`. Only a thing of the same name may be there already.
    pub(super) fn write(&mut self, what: &'static str, gpa: u64, bytes: &[u8]) -> Result<(), LoadError> {
        self.claim(what, gpa, bytes.len() as u64)?;
        // Nothing may be anywhere, but the memory knows addresses of RAM only.
        if bytes.is_empty() {
            return Ok(());
        }
        Ok(self.memory.write(GuestPhysAddr(gpa), bytes)?)
    }

    /// Takes the range without writing to it: it reads as zero, as all untouched RAM does, or as what is there.
    pub(super) fn claim(&mut self, what: &'static str, gpa: u64, len_bytes: u64) -> Result<(), LoadError> {
        let end = self.check(what, gpa, len_bytes)?;
        if len_bytes > 0 {
            self.claims.push(Claim { start: gpa, end, what });
        }
        Ok(())
    }

    /// Whether the range is RAM and free for `what`; gives its end.
    pub(super) fn check(&self, what: &'static str, gpa: u64, len_bytes: u64) -> Result<u64, LoadError> {
        let end = gpa.checked_add(len_bytes).filter(|_| self.ram.contains(GuestPhysAddr(gpa), len_bytes));
        let Some(end) = end.or((len_bytes == 0).then_some(gpa)) else {
            let ram_end = self.ram.low_end();
            return Err(LoadError::OutsideRam { what, gpa: GuestPhysAddr(gpa), len_bytes, ram_end });
        };
        match self.overlapping(gpa, end).find(|claim| claim.what != what) {
            Some(&Claim { start, what: other, .. }) => {
                let (gpa, other_gpa) = (GuestPhysAddr(gpa), GuestPhysAddr(start));
                Err(LoadError::Overlap { what, gpa, len_bytes, other, other_gpa })
            }
            None => Ok(end),
        }
    }

    /// Makes the range read as zero. Untouched RAM does so by itself and stays untouched, so that a large BSS costs
    /// no host memory; only what was written before is overwritten.
    pub(super) fn zero(&mut self, what: &'static str, gpa: u64, len_bytes: u64) -> Result<(), LoadError> {
        static ZEROS: [u8; 4096] = [0; 4096];
        let end = gpa.saturating_add(len_bytes);
        let written: Vec<Claim> = self.overlapping(gpa, end).copied().collect();
        self.claim(what, gpa, len_bytes)?;
        for claim in written {
            let mut at = claim.start.max(gpa);
            let stop = claim.end.min(end);
            while at < stop {
                let chunk = usize::try_from(stop - at).unwrap_or(usize::MAX).min(ZEROS.len());
                self.memory.write(GuestPhysAddr(at), ZEROS.get(..chunk).unwrap_or(&ZEROS))?;
                at = at.saturating_add(chunk as u64);
            }
        }
        Ok(())
    }

    fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = &Claim> {
        self.claims.iter().filter(move |claim| claim.start < end && start < claim.end)
    }

    /// Whether the range is RAM that the e820 map calls usable, and nothing is there.
    fn is_free(&self, gpa: u64, len_bytes: u64) -> bool {
        let Some(end) = gpa.checked_add(len_bytes) else { return false };
        let in_rom_area = gpa < HIGH_MEMORY && ROM_START < end;
        self.ram.contains(GuestPhysAddr(gpa), len_bytes) && !in_rom_area && self.overlapping(gpa, end).next().is_none()
    }

    /// The lowest free place of `len_bytes` from `min` on that ends at or before `max`. `align` is a power of two.
    pub(super) fn find_up(&self, len_bytes: u64, align: u64, min: u64, max: u64) -> Option<u64> {
        let len_bytes = len_bytes.max(1);
        let starts = self.ram.ranges().map(|range| range.start.0).chain([min, HIGH_MEMORY]);
        starts
            .chain(self.claims.iter().map(|claim| claim.end))
            .filter_map(|start| start.max(min).checked_next_multiple_of(align))
            .filter(|start| start.checked_add(len_bytes).is_some_and(|end| end <= max))
            .filter(|&start| self.is_free(start, len_bytes))
            .min()
    }

    /// The highest free place of `len_bytes` that ends at or before `max`, above the first MiB. `align` is a power of
    /// two.
    pub(super) fn find_down(&self, len_bytes: u64, align: u64, max: u64) -> Option<u64> {
        let len_bytes = len_bytes.max(1);
        let ends = self.ram.ranges().map(|range| range.end.0).chain([max]);
        ends.chain(self.claims.iter().map(|claim| claim.start))
            .filter_map(|end| Some(end.min(max).checked_sub(len_bytes)? & !(align - 1)))
            .filter(|&start| start >= HIGH_MEMORY && self.is_free(start, len_bytes))
            .max()
    }

    /// Writes `bytes` to a free place in low memory: past the first 64 KiB, which kernels like to leave to the
    /// firmware and use for the start of other CPUs; else in them; else just above 1 MiB. Never in page 0.
    pub(super) fn place_low(&mut self, what: &'static str, bytes: &[u8], align: u64) -> Result<u64, LoadError> {
        let len_bytes = bytes.len() as u64;
        let gpa = [(0x1_0000, VGA_START), (PAGE_SIZE, 0x1_0000), (HIGH_MEMORY, FOUR_GIB)]
            .into_iter()
            .find_map(|(min, max)| self.find_up(len_bytes, align, min, max))
            .ok_or(LoadError::NoRoom { what, len_bytes, below: GuestPhysAddr(FOUR_GIB) })?;
        self.write(what, gpa, bytes)?;
        Ok(gpa)
    }

    /// Places `text` with a NUL behind it.
    pub(super) fn place_text(&mut self, what: &'static str, text: &str) -> Result<u64, LoadError> {
        let bytes: Vec<u8> = text.bytes().chain([0]).collect();
        self.place_low(what, &bytes, 1)
    }

    /// Whether the byte at `gpa` belongs to what is claimed under `what`.
    pub(super) fn is_within(&self, what: &'static str, gpa: u64) -> bool {
        gpa.checked_add(1).is_some_and(|end| self.overlapping(gpa, end).any(|claim| claim.what == what))
    }

    /// The end of what is claimed under `what`, or 0.
    pub(super) fn end_of(&self, what: &'static str) -> u64 {
        self.claims.iter().filter(|claim| claim.what == what).map(|claim| claim.end).max().unwrap_or(0)
    }
}

/// The end of what 32 bits reach.
pub(super) const FOUR_GIB: u64 = 1 << 32;
