//! [`Capture`]: a vCPU as it was when it faulted.
//!
//! What a guest's registers and page tables say is not believed: every loop has its bound, every read may fail, and one that does
//! is told as such. Nothing of the guest is changed.

use super::{ExitMark, ExitTrail};
use crate::insn::CodeMode;
use crate::memory::{GuestLinearAddr, GuestMemory, GuestPhysAddr, MemoryError, PAGE_SIZE};
use crate::vmx::GuestField;
use crate::x86::control::{cr0, cr4};
use crate::x86::msr::spec::efer;
use crate::x86::paging::{AccessKind, LinearAccess, Paging, WalkFault};
use crate::x86::{DescriptorTable, Gprs, SegmentState, VcpuState};
use alloc::vec::Vec;
use core::cell::RefCell;

/// Bytes shown at RIP: one instruction and the beginning of the next.
const CODE_BYTES: u64 = 16;
/// Words shown of the stack.
const STACK_WORDS: u64 = 16;
/// Frames followed.
const FRAMES: usize = 16;

/// What a capture is made of.
pub struct Subject<'a> {
    /// Which vCPU.
    pub vcpu: u16,
    /// Its VMCS.
    pub state: &'a dyn VcpuState,
    /// Its general-purpose registers.
    pub gprs: &'a Gprs,
    /// Its CR2.
    pub cr2: u64,
    /// Its MAXPHYADDR.
    pub physical_bits: u8,
    /// The VM's memory.
    pub memory: &'a dyn GuestMemory,
    /// Its last exits.
    pub trail: &'a ExitTrail,
    /// The guest's clock, in ticks.
    pub tick: u64,
}

/// A vCPU at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capture {
    /// Which vCPU.
    pub vcpu: u16,
    /// The guest's clock, in ticks.
    pub tick: u64,
    /// Its registers.
    pub registers: Registers,
    /// The width of its code: 16, 32 or 64 bits.
    pub code_bits: u32,
    /// The linear address of RIP, and the bytes there as far as they can be read.
    pub code: (u64, Vec<u8>),
    /// The way from there through the guest's page tables.
    pub rip_walk: PageWalk,
    /// The same for RSP.
    pub rsp_walk: PageWalk,
    /// The words on the stack by linear address, from RSP on, as far as they can be read.
    pub stack: Vec<(u64, u64)>,
    /// Frame pointers, and the return addresses beside them, the innermost first. Right for code that keeps frame pointers.
    pub frames: Vec<(u64, u64)>,
    /// Its last exits, the oldest first.
    pub exits: Vec<ExitMark>,
}

/// A vCPU's registers.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are the manual's register names")]
pub struct Registers {
    pub gprs: Gprs,
    pub rip: u64,
    pub rsp: u64,
    pub rflags: u64,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    /// CS, SS, DS, ES, FS, GS, LDTR, TR, by name.
    pub segments: [(&'static str, SegmentState); 8],
    pub gdtr: DescriptorTable,
    pub idtr: DescriptorTable,
}

/// The way of a linear address through the guest's page tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageWalk {
    /// The address.
    pub linear: u64,
    /// The entries on the way; none with paging off.
    pub steps: Vec<WalkStep>,
    /// Where it leads.
    pub end: Result<GuestPhysAddr, WalkFault>,
}

/// An entry of a paging structure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalkStep {
    /// What it is, in the manual's words: `PML4E`, `PDPTE`, `PDE` or `PTE`.
    pub level: &'static str,
    /// Where it is.
    pub gpa: GuestPhysAddr,
    /// What it says; `None` where there is no memory.
    pub entry: Option<u64>,
}

impl Capture {
    /// Looks at a vCPU.
    #[must_use]
    pub fn of(subject: &Subject<'_>) -> Self {
        let registers = Registers::of(subject);
        let mode = CodeMode::of(subject.state);
        let space = Space { memory: subject.memory, paging: Paging::of(subject.state, subject.physical_bits.into()) };
        let (code, stack) = (code_address(mode, &registers), stack_address(mode, &registers));
        Self {
            vcpu: subject.vcpu,
            tick: subject.tick,
            code_bits: mode.bits(),
            code: (code, space.code(code)),
            rip_walk: space.walk(code, AccessKind::Fetch),
            rsp_walk: space.walk(stack, AccessKind::Read),
            stack: space.stack(stack, word_bytes(mode)),
            frames: space.frames(registers.gprs.rbp, stack, word_bytes(mode)),
            exits: subject.trail.exits(),
            registers,
        }
    }
}

impl Registers {
    fn of(subject: &Subject<'_>) -> Self {
        use GuestField as F;
        let read = |field| subject.state.read(field);
        let segment = |name, selector, base, limit, rights| {
            let half = |field| u32::try_from(read(field) & 0xffff_ffff).unwrap_or(0);
            let selector = u16::try_from(read(selector) & 0xffff).unwrap_or(0);
            (name, SegmentState { selector, base: read(base), limit: half(limit), access_rights: half(rights) })
        };
        let table =
            |base, limit| DescriptorTable { base: read(base), limit: u16::try_from(read(limit) & 0xffff).unwrap_or(0) };
        Self {
            gprs: *subject.gprs,
            rip: read(F::Rip),
            rsp: read(F::Rsp),
            rflags: read(F::Rflags),
            cr0: subject.state.cr0(),
            cr2: subject.cr2,
            cr3: read(F::Cr3),
            cr4: subject.state.cr4(),
            efer: read(F::Ia32Efer),
            segments: [
                segment("CS", F::CsSelector, F::CsBase, F::CsLimit, F::CsAccessRights),
                segment("SS", F::SsSelector, F::SsBase, F::SsLimit, F::SsAccessRights),
                segment("DS", F::DsSelector, F::DsBase, F::DsLimit, F::DsAccessRights),
                segment("ES", F::EsSelector, F::EsBase, F::EsLimit, F::EsAccessRights),
                segment("FS", F::FsSelector, F::FsBase, F::FsLimit, F::FsAccessRights),
                segment("GS", F::GsSelector, F::GsBase, F::GsLimit, F::GsAccessRights),
                segment("LDTR", F::LdtrSelector, F::LdtrBase, F::LdtrLimit, F::LdtrAccessRights),
                segment("TR", F::TrSelector, F::TrBase, F::TrLimit, F::TrAccessRights),
            ],
            gdtr: table(F::GdtrBase, F::GdtrLimit),
            idtr: table(F::IdtrBase, F::IdtrLimit),
        }
    }

    fn segment(&self, name: &str) -> SegmentState {
        let found = self.segments.iter().find(|(own, _)| *own == name);
        found.map_or(SegmentState::unusable(), |(_, segment)| *segment)
    }
}

const fn word_bytes(mode: CodeMode) -> usize {
    match mode {
        CodeMode::Bits16 => 2,
        CodeMode::Bits32 => 4,
        CodeMode::Bits64 => 8,
    }
}

/// The linear address of RIP.
fn code_address(mode: CodeMode, registers: &Registers) -> u64 {
    match mode {
        CodeMode::Bits64 => registers.rip,
        _ => registers.segment("CS").base.wrapping_add(registers.rip) & 0xffff_ffff,
    }
}

/// The linear address of RSP, ESP or SP: which one, says the B flag of SS.
fn stack_address(mode: CodeMode, registers: &Registers) -> u64 {
    const BIG: u32 = 1 << 14;
    let ss = registers.segment("SS");
    let offset = if ss.access_rights & BIG != 0 { registers.rsp & 0xffff_ffff } else { registers.rsp & 0xffff };
    match mode {
        CodeMode::Bits64 => registers.rsp,
        _ => ss.base.wrapping_add(offset) & 0xffff_ffff,
    }
}

/// The guest's linear addresses, looked at from outside.
struct Space<'a> {
    memory: &'a dyn GuestMemory,
    paging: Paging,
}

impl Space<'_> {
    fn walk(&self, linear: u64, kind: AccessKind) -> PageWalk {
        let recording = Recording { memory: self.memory, reads: RefCell::default() };
        let end = self.paging.walk(&recording, GuestLinearAddr(linear), LinearAccess::supervisor(kind));
        let reads = recording.reads.into_inner();
        let step = |(&level, (gpa, entry))| WalkStep { level, gpa, entry };
        PageWalk { linear, steps: self.levels().iter().zip(reads).map(step).collect(), end }
    }

    /// What the entries are called, in the order in which they are read.
    const fn levels(&self) -> &'static [&'static str] {
        const CR4_LA57: u64 = 1 << 12;
        let Paging { cr0, cr4, efer, .. } = self.paging;
        if cr0 & cr0::PG == 0 {
            &[]
        } else if efer & efer::LMA != 0 && cr4 & CR4_LA57 != 0 {
            &["PML5E", "PML4E", "PDPTE", "PDE", "PTE"]
        } else if efer & efer::LMA != 0 {
            &["PML4E", "PDPTE", "PDE", "PTE"]
        } else if cr4 & cr4::PAE != 0 {
            &["PDPTE", "PDE", "PTE"]
        } else {
            &["PDE", "PTE"]
        }
    }

    /// Reads bytes that may lie in two pages; whether all of them could be read.
    fn read(&self, linear: u64, bytes: &mut [u8]) -> bool {
        let in_page = usize::try_from(PAGE_SIZE - linear % PAGE_SIZE).unwrap_or(bytes.len()).min(bytes.len());
        let (first, second) = bytes.split_at_mut(in_page);
        let read = |linear: u64, bytes: &mut [u8]| {
            let access = LinearAccess::supervisor(AccessKind::Read);
            let gpa = self.paging.walk(self.memory, GuestLinearAddr(linear), access);
            gpa.is_ok_and(|gpa| self.memory.read(gpa, bytes).is_ok())
        };
        let behind = linear.wrapping_add(first.len() as u64);
        read(linear, first) && (second.is_empty() || read(behind, second))
    }

    fn word(&self, linear: u64, word_bytes: usize) -> Option<u64> {
        let mut bytes = [0; 8];
        let read = bytes.get_mut(..word_bytes).is_some_and(|bytes| self.read(linear, bytes));
        read.then(|| u64::from_le_bytes(bytes))
    }

    fn code(&self, linear: u64) -> Vec<u8> {
        let byte = |offset| {
            let mut byte = [0];
            self.read(linear.wrapping_add(offset), &mut byte).then_some(byte)
        };
        (0..CODE_BYTES).map_while(byte).flatten().collect()
    }

    fn stack(&self, linear: u64, word_bytes: usize) -> Vec<(u64, u64)> {
        let addresses = (0..STACK_WORDS).map(|index| linear.wrapping_add(index * word_bytes as u64));
        addresses.map_while(|address| Some((address, self.word(address, word_bytes)?))).collect()
    }

    /// A frame pointer points to the caller's, which lies higher on the stack, and beside it is the return address. What points
    /// below the `stack` is none.
    fn frames(&self, mut pointer: u64, stack: u64, word_bytes: usize) -> Vec<(u64, u64)> {
        let mut frames = Vec::new();
        while frames.len() < FRAMES && pointer >= stack {
            let behind = pointer.wrapping_add(word_bytes as u64);
            let words = self.word(pointer, word_bytes).zip(self.word(behind, word_bytes));
            let Some((callers, return_address)) = words else { break };
            frames.push((pointer, return_address));
            if callers <= pointer {
                break;
            }
            pointer = callers;
        }
        frames
    }
}

/// Memory that remembers what a walk reads of it: the entries, one after the other.
struct Recording<'a> {
    memory: &'a dyn GuestMemory,
    reads: RefCell<Vec<(GuestPhysAddr, Option<u64>)>>,
}

impl GuestMemory for Recording<'_> {
    fn read(&self, gpa: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let read = self.memory.read(gpa, bytes);
        let entry = bytes.iter().rev().fold(0, |entry, &byte| entry << 8 | u64::from(byte));
        if let Ok(mut reads) = self.reads.try_borrow_mut() {
            reads.push((gpa, read.is_ok().then_some(entry)));
        }
        read
    }

    /// A walk writes nothing.
    fn write(&mut self, gpa: GuestPhysAddr, bytes: &[u8]) -> Result<(), MemoryError> {
        Err(MemoryError::OutsideRam { gpa, len_bytes: bytes.len() as u64 })
    }
}
