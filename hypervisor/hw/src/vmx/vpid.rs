//! Virtual-processor identifiers: the tags of a CPU's cached linear translations, one per vCPU.
//!
//! A [`Vpid`] is a number that no other vCPU has while it lives; dropping it gives the number back. A CPU may remember
//! translations under it from its last holder: [`super::VmxRoot::load`] invalidates them when a vCPU comes to a CPU.

use spin::Mutex;

/// "VPID 0000H" is the hypervisor's own (SDM volume 3, "Virtual-Processor Identifiers (VPIDs)").
const FIRST: u16 = 1;
const WORDS: usize = 1024;

static TAKEN: Mutex<Taken> = Mutex::new(Taken { bits: [0; WORDS], count: 0 });

struct Taken {
    bits: [u64; WORDS],
    count: usize,
}

/// A VPID, given back when dropped.
#[derive(Debug)]
pub(super) struct Vpid(u16);

impl Vpid {
    /// The lowest free one, or `None` when all 65,535 are taken.
    pub(super) fn take() -> Option<Self> {
        let mut taken = TAKEN.lock();
        taken.bits[0] |= (1 << FIRST) - 1;
        let word = taken.bits.iter().position(|bits| *bits != u64::MAX)?;
        let bit = (!taken.bits[word]).trailing_zeros();
        taken.bits[word] |= 1 << bit;
        taken.count += 1;
        u16::try_from(word * 64 + bit as usize).ok().map(Self)
    }

    /// The number.
    pub(super) const fn number(&self) -> u16 {
        self.0
    }
}

impl Drop for Vpid {
    fn drop(&mut self) {
        let mut taken = TAKEN.lock();
        taken.bits[usize::from(self.0 / 64)] &= !(1 << (self.0 % 64));
        taken.count -= 1;
    }
}

/// How many VPIDs are taken.
#[must_use]
pub fn vpids_in_use() -> usize {
    TAKEN.lock().count
}
