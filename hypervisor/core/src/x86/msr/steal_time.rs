//! Steal time, told to the guest by KVM's paravirtual interface: [`StealTime`], one vCPU's.
//!
//! Source: Linux, Documentation/virt/kvm/x86/msr.rst, "MSR_KVM_STEAL_TIME". The guest names 64 bytes of its RAM, of which
//! these are written; the rest is padding:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | `steal`: nanoseconds that the vCPU was ready and did not run; being idle is not counted |
//! | 8 | 4 | `version`: odd while the fields are being changed, another one afterwards |
//! | 12 | 4 | `flags`: 0 |
//! | 16 | 1 | `preempted`: 1 while the vCPU is ready and does not run, else 0 |
//!
//! A guest reads `version` before and after the other fields, and reads them anew if it was odd or has changed: another vCPU
//! may read while this one's fields change. Writes to guest memory are seen in the order in which they are made.

use super::MsrFault;
use crate::memory::{GuestMemory, GuestPhysAddr, MemoryError};

/// The MSR's bit 0: the guest wants to be told.
const ENABLE: u64 = 1 << 0;
/// "Bits 5:1 are reserved and must be zero": the 64 bytes are aligned to their size.
const RESERVED: u64 = 0b11_1110;
/// Where `version` is.
const VERSION: u64 = 8;
/// Where `flags` is, and `preempted` behind it.
const FLAGS_AND_PREEMPTED: u64 = 12;
/// Where `preempted` is.
const PREEMPTED: u64 = 16;

/// MSR_KVM_STEAL_TIME of a vCPU, and what the guest was told.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct StealTime {
    msr: u64,
    version: u32,
    /// The steal time in nanoseconds that the guest's memory holds, with `preempted` clear.
    told: Option<u64>,
}

impl StealTime {
    /// The MSR: where the 64 bytes are, and whether they are wanted.
    pub(super) const fn msr(&self) -> u64 {
        self.msr
    }

    /// Sets the MSR. That the address is RAM is not asked, as by KVM: where it is none, nothing is told.
    ///
    /// # Errors
    /// [`MsrFault::Refused`] where a reserved bit is set; nothing was changed.
    pub(super) const fn set_msr(&mut self, value: u64) -> Result<(), MsrFault> {
        if value & RESERVED != 0 {
            return Err(MsrFault::Refused);
        }
        self.msr = value;
        self.told = None;
        Ok(())
    }

    /// As after power-up and, as by KVM, after INIT: off.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// The vCPU is about to run, having been kept from it for `steal_ns` nanoseconds since it began. Does nothing where the
    /// guest does not want to know, or knows.
    ///
    /// # Errors
    /// [`MemoryError`]: the guest is not told this time, and nothing else is wrong.
    pub fn tell(&mut self, memory: &mut dyn GuestMemory, steal_ns: u64) -> Result<(), MemoryError> {
        if self.told == Some(steal_ns) {
            return Ok(());
        }
        let Some(base) = self.base() else { return Ok(()) };
        // Whatever comes of it: an area that cannot be written is tried again when there is something new to tell.
        self.told = Some(steal_ns);
        let at = |offset: u64| GuestPhysAddr(base.0 | offset);
        memory.write(at(VERSION), &self.version.wrapping_add(1).to_le_bytes())?;
        memory.write(base, &steal_ns.to_le_bytes())?;
        memory.write(at(FLAGS_AND_PREEMPTED), &[0; 5])?;
        self.version = self.version.wrapping_add(2);
        memory.write(at(VERSION), &self.version.to_le_bytes())
    }

    /// The vCPU would go on but was taken off its CPU: who waits for it in the guest need not spin meanwhile.
    ///
    /// # Errors
    /// As [`StealTime::tell`].
    pub fn preempted(&mut self, memory: &mut dyn GuestMemory) -> Result<(), MemoryError> {
        let Some(base) = self.base() else { return Ok(()) };
        self.told = None;
        // One byte, for which the version need not change.
        memory.write(GuestPhysAddr(base.0 | PREEMPTED), &[1])
    }

    /// Where the 64 bytes are, if the guest wants them.
    const fn base(&self) -> Option<GuestPhysAddr> {
        if self.msr & ENABLE != 0 { Some(GuestPhysAddr(self.msr & !ENABLE)) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::FlatMemory;
    use proptest::prelude::*;
    use std::vec::Vec;

    const AREA: GuestPhysAddr = GuestPhysAddr(0x1_0040);

    /// Memory that keeps the area as it was after each write.
    struct Watched {
        memory: FlatMemory,
        seen: Vec<[u8; 64]>,
    }

    impl Watched {
        fn filled(fill: u8) -> Self {
            let mut memory = FlatMemory::new(0x2_0000);
            memory.write(GuestPhysAddr(AREA.0 - 64), &[fill; 192]).unwrap();
            Self { memory, seen: Vec::new() }
        }

        fn area(&self) -> [u8; 64] {
            let mut area = [0; 64];
            self.memory.read(AREA, &mut area).unwrap();
            area
        }
    }

    impl GuestMemory for Watched {
        fn read(&self, gpa: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), MemoryError> {
            self.memory.read(gpa, bytes)
        }

        fn write(&mut self, gpa: GuestPhysAddr, bytes: &[u8]) -> Result<(), MemoryError> {
            self.memory.write(gpa, bytes)?;
            self.seen.push(self.area());
            Ok(())
        }
    }

    /// `struct kvm_steal_time`: steal, version, flags, preempted.
    fn fields(area: &[u8; 64]) -> (u64, u32, u32, u8) {
        let word = |at: usize| u32::from_le_bytes(area[at..at + 4].try_into().unwrap());
        (u64::from_le_bytes(area[..8].try_into().unwrap()), word(8), word(12), area[16])
    }

    fn enabled() -> StealTime {
        let mut steal = StealTime::default();
        steal.set_msr(AREA.0 | 1).unwrap();
        steal
    }

    #[test]
    fn the_fields_are_where_linux_looks() {
        let (mut steal, mut memory) = (enabled(), Watched::filled(0xaa));
        steal.tell(&mut memory, 0x0102_0304_0506).unwrap();
        let area = memory.area();
        assert_eq!(fields(&area), (0x0102_0304_0506, 2, 0, 0));
        assert_eq!(area[17..], [0xaa; 47], "padding is the guest's");
        for (at, len) in [(AREA.0 - 64, 64), (AREA.0 + 64, 64)] {
            let mut around = std::vec![0; len];
            memory.read(GuestPhysAddr(at), &mut around).unwrap();
            assert!(around.iter().all(|byte| *byte == 0xaa), "{at:#x} is none of ours");
        }
    }

    #[test]
    fn nothing_is_written_unless_asked_for() {
        let (mut steal, mut memory) = (StealTime::default(), Watched::filled(0));
        steal.tell(&mut memory, 5).unwrap();
        steal.preempted(&mut memory).unwrap();
        steal.set_msr(AREA.0).unwrap();
        steal.tell(&mut memory, 6).unwrap();
        assert!(memory.seen.is_empty());
        steal.set_msr(AREA.0 | 1).unwrap();
        steal.tell(&mut memory, 6).unwrap();
        let writes = memory.seen.len();
        steal.tell(&mut memory, 6).unwrap();
        assert_eq!(memory.seen.len(), writes, "the guest knows");
        steal.set_msr(AREA.0 | 1).unwrap();
        steal.tell(&mut memory, 6).unwrap();
        assert!(memory.seen.len() > writes, "asked anew, told anew");
        let writes = memory.seen.len();
        steal.reset();
        steal.tell(&mut memory, 7).unwrap();
        assert_eq!((memory.seen.len(), steal.msr()), (writes, 0));
    }

    #[test]
    fn preempted_shows_until_it_runs() {
        let (mut steal, mut memory) = (enabled(), Watched::filled(0));
        steal.tell(&mut memory, 7).unwrap();
        steal.preempted(&mut memory).unwrap();
        assert_eq!(fields(&memory.area()), (7, 2, 0, 1));
        steal.tell(&mut memory, 7).unwrap();
        assert_eq!(fields(&memory.area()), (7, 4, 0, 0));
    }

    #[test]
    fn what_is_no_ram_is_left_alone() {
        let mut memory = Watched::filled(0);
        for msr in [0x1_ffff_f001, u64::MAX << 6 | 1] {
            let mut steal = StealTime::default();
            steal.set_msr(msr).unwrap();
            assert!(steal.tell(&mut memory, 1).is_err());
            assert!(steal.tell(&mut memory, 1).is_ok(), "not tried at every entry");
            assert!(steal.preempted(&mut memory).is_err());
            assert_eq!((steal.msr(), memory.seen.len()), (msr, 0));
        }
    }

    proptest! {
        /// Whoever reads by the protocol, at any moment, gets a steal time that was told, never a mixture.
        #[test]
        fn no_reader_is_misled(told in prop::collection::vec(any::<u64>(), 1..20), start in any::<u32>()) {
            let mut memory = Watched::filled(0);
            let mut steal = StealTime { version: start & !1, ..enabled() };
            for ns in &told {
                let before = fields(&memory.area());
                memory.seen.clear();
                steal.tell(&mut memory, *ns).unwrap();
                let after = fields(&memory.area());
                prop_assert_eq!((after.0, after.1 & 1), (*ns, 0));
                for seen in &memory.seen {
                    let seen = fields(seen);
                    prop_assert!(seen.1 & 1 == 1 || seen == before || seen == after, "{:?}", seen);
                }
            }
        }
    }
}
