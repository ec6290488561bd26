//! Device registers in memory: what is behind a guest-physical address, and the instruction that reaches for it.

use super::apic::pass_eoi_on;
use super::{Context, Event, ExitCounters, Outcome, crash};
use crate::bus::Width;
use crate::device::board::Board;
use crate::device::lapic::{ApicMode, LocalApic};
use crate::fault::FaultKind;
use crate::insn::{self, AddressSpace, Bus, Completion, Fault, Machine};
use crate::loader::RamLayout;
use crate::memory::{GuestMemory, GuestPhysAddr, MemoryError, PAGE_SIZE};
use crate::vmx::GuestField;
use alloc::format;

/// The local APIC's page, at the only base it can have.
pub(super) const APIC_PAGE: GuestPhysAddr = GuestPhysAddr(0xfee0_0000);

/// RAM, the local APIC, and the devices of the board, by guest-physical address.
struct DeviceBus<'a> {
    memory: &'a mut dyn GuestMemory,
    ram: &'a RamLayout,
    board: &'a mut Board,
    apic: &'a mut LocalApic,
    counters: &'a mut ExitCounters,
    now: u64,
    /// Something that is not there was accessed.
    missed: bool,
}

impl DeviceBus<'_> {
    /// The offset in the local APIC's page, if `gpa` is in it and it is there.
    fn apic_offset(&self, gpa: GuestPhysAddr) -> Option<u16> {
        let offset = gpa.0.checked_sub(APIC_PAGE.0).filter(|&offset| offset < PAGE_SIZE)?;
        if self.apic.mode() == ApicMode::XApic { u16::try_from(offset).ok() } else { None }
    }

    fn count_unknown(&mut self, gpa: GuestPhysAddr) {
        self.missed = true;
        self.counters.unknown_pages.count(gpa.page_base().0);
    }
}

impl Bus for DeviceBus<'_> {
    fn memory(&self) -> &dyn GuestMemory {
        self.memory
    }

    fn read(&mut self, gpa: GuestPhysAddr, width: Width) -> u64 {
        if let Some(offset) = self.apic_offset(gpa) {
            return read_apic(self.apic, offset, width, self.now);
        }
        if self.ram.contains(gpa, width.bytes()) {
            return read_ram(self.memory, gpa, width);
        }
        if let Some(value) = self.board.mmio_read(gpa, width, self.now) {
            return value & width.mask();
        }
        self.count_unknown(gpa);
        width.mask()
    }

    fn write(&mut self, gpa: GuestPhysAddr, width: Width, value: u64) -> Result<(), MemoryError> {
        if let Some(offset) = self.apic_offset(gpa) {
            write_apic(self.apic, offset, width, value, self.now);
            pass_eoi_on(self.apic, self.board);
        } else if self.ram.contains(gpa, width.bytes()) {
            let bytes = value.to_le_bytes();
            let len = usize::try_from(width.bytes()).unwrap_or(bytes.len());
            self.memory.write(gpa, bytes.get(..len).unwrap_or(&bytes))?;
        } else {
            match self.board.mmio_write(gpa, width, value, self.now, self.memory) {
                Some(done) => return done,
                None => self.count_unknown(gpa),
            }
        }
        Ok(())
    }
}

fn read_ram(memory: &dyn GuestMemory, gpa: GuestPhysAddr, width: Width) -> u64 {
    let mut bytes = [0; 8];
    let len = usize::try_from(width.bytes()).unwrap_or(bytes.len());
    match bytes.get_mut(..len).map(|bytes| memory.read(gpa, bytes)) {
        Some(Ok(())) => u64::from_le_bytes(bytes),
        _ => width.mask(),
    }
}

/// "All 32-bit registers should be accessed using 128-bit aligned 32-bit loads or stores. Some processors may support
/// loads and stores of less than 32 bits to some of the APIC registers. This is model specific behavior": bytes and
/// words read here as parts of the register.
fn read_apic(apic: &mut LocalApic, offset: u16, width: Width, now: u64) -> u64 {
    let shift = 8 * u32::from(offset & 0b11);
    let value = apic.mmio_read(offset & !0b11, now);
    u64::from(value.checked_shr(shift).unwrap_or(0)) & width.mask()
}

/// Only a 32-bit store writes a register; the low half of a longer one is such a store.
fn write_apic(apic: &mut LocalApic, offset: u16, width: Width, value: u64, now: u64) {
    if width >= Width::Dword {
        apic.mmio_write(offset, super::cpuid::low_half(value), now);
    }
}

/// What the CPU said about the access that exited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reported {
    /// The linear address, in a page that translates to `gpa`'s.
    pub(super) linear: u64,
    /// The guest-physical address.
    pub(super) gpa: GuestPhysAddr,
    /// The access was a write, so the page is writable.
    pub(super) write: bool,
}

/// Carries out the instruction at RIP, whose access to `gpa` exited.
pub(super) fn emulate(ctx: &mut Context<'_>, gpa: GuestPhysAddr, reported: Option<Reported>) -> Outcome {
    let mut space = AddressSpace::of(ctx.state, ctx.cpu.cpuid.physical_bits());
    if let Some(Reported { linear, gpa, write }) = reported {
        space.remember(linear, gpa, write);
    }
    let mut bus = DeviceBus {
        memory: &mut *ctx.memory,
        ram: ctx.ram,
        board: &mut *ctx.board,
        apic: &mut *ctx.apic,
        counters: &mut *ctx.counters,
        now: ctx.now,
        missed: false,
    };
    let done = insn::emulate(&mut Machine { state: &mut *ctx.state, gprs: &mut *ctx.gprs, bus: &mut bus, space });
    let missed = bus.missed;
    match done {
        Ok(_) if missed && ctx.counters.missed.another() => access_loop(ctx, gpa),
        // RIP was moved with the instruction, whose length only the decoder knows.
        Ok(Completion::Done | Completion::Again) => {
            if !missed {
                ctx.counters.missed.progress();
            }
            Outcome::Resume
        }
        Err(fault) => outcome_of(fault, ctx, gpa),
    }
}

#[cold]
fn access_loop(ctx: &mut Context<'_>, gpa: GuestPhysAddr) -> Outcome {
    // Where the VM is resumed, it has its patience again.
    ctx.counters.missed.progress();
    let detail = format!(
        "{} accesses in a row to memory that is not there, the last one at guest-physical address {gpa}; RIP {:#x}",
        ctx.counters.missed.limit,
        ctx.state.read(GuestField::Rip)
    );
    crash(FaultKind::AccessLoop, detail)
}

/// What follows from an instruction that was not carried out at `gpa`.
pub(super) fn outcome_of(fault: Fault, ctx: &mut Context<'_>, gpa: GuestPhysAddr) -> Outcome {
    match fault {
        Fault::Exception(event) => Outcome::Inject(event),
        Fault::PageFault { linear, error_code } => {
            *ctx.cr2 = linear;
            Outcome::Inject(Event::exception_with_code(14, error_code))
        }
        Fault::NoPageTable(gla) => {
            let rip = ctx.state.read(GuestField::Rip);
            let detail = format!("the guest has a page table for linear address {gla} outside its RAM; RIP {rip:#x}");
            crash(FaultKind::OutsideMemory, detail)
        }
        Fault::Unbacked(page) => Outcome::Populate(page),
        Fault::Unsupported(bytes) => {
            let rip = ctx.state.read(GuestField::Rip);
            let detail =
                format!("MMIO instruction not supported: bytes {bytes} at RIP {rip:#x}, guest-physical address {gpa}");
            crash(FaultKind::UnsupportedInstruction, detail)
        }
    }
}
