//! Recording exits as they are handled: [`handle`] does what [`super::handle`] does, and tells what it saw and answered.

use super::replay::Record;
use super::{Context, Outcome, RawExit};
use crate::memory::{GuestMemory, GuestPhysAddr, MemoryError};
use crate::vmx::ExitReason;
use alloc::vec::Vec;
use core::cell::RefCell;

/// Guest memory that remembers what was read of it: an instruction, page tables, a string's bytes.
struct Watched<'a> {
    memory: &'a mut dyn GuestMemory,
    reads: RefCell<Vec<(u64, Vec<u8>)>>,
}

impl GuestMemory for Watched<'_> {
    fn read(&self, gpa: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read(gpa, bytes)?;
        let piece = (gpa.0, bytes.to_vec());
        let mut reads = self.reads.borrow_mut();
        if !reads.contains(&piece) {
            reads.push(piece);
        }
        Ok(())
    }

    fn write(&mut self, gpa: GuestPhysAddr, bytes: &[u8]) -> Result<(), MemoryError> {
        self.memory.write(gpa, bytes)
    }

    fn discard(&mut self, gpa: GuestPhysAddr) {
        self.memory.discard(gpa);
    }

    fn flush_discards(&mut self) {
        self.memory.flush_discards();
    }
}

/// Whether a record of such an exit says anything: the others have the same answer whatever the guest did, or depend on the
/// virtual-APIC page, which the CPU itself changes.
#[must_use]
pub fn is_worth_recording(exit: &RawExit) -> bool {
    !matches!(
        ExitReason::of(exit.reason),
        Some(
            ExitReason::ExternalInterrupt
                | ExitReason::PreemptionTimer
                | ExitReason::InterruptWindow
                | ExitReason::NmiWindow
                | ExitReason::TprBelowThreshold
                | ExitReason::Pause
                | ExitReason::ApicAccess
                | ExitReason::ApicWrite
                | ExitReason::VirtualizedEoi
        )
    )
}

/// [`super::handle`], with a record of it.
pub fn handle(exit: &RawExit, ctx: &mut Context<'_>) -> (Outcome, Record) {
    let mut record = Record::of(exit, ctx.gprs, ctx.state);
    record.now = ctx.now;
    let mut watched = Watched { memory: &mut *ctx.memory, reads: RefCell::new(Vec::new()) };
    let outcome = super::handle(
        exit,
        &mut Context {
            state: &mut *ctx.state,
            gprs: &mut *ctx.gprs,
            cr2: &mut *ctx.cr2,
            memory: &mut watched,
            ram: ctx.ram,
            board: &mut *ctx.board,
            apic: &mut *ctx.apic,
            cpu: &mut *ctx.cpu,
            now: ctx.now,
            counters: &mut *ctx.counters,
        },
    );
    record.memory = watched.reads.into_inner();
    let record = record.with_outcome(&outcome, ctx.gprs);
    (outcome, record)
}
