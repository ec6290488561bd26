//! The code that a CPU begins with: from real mode to long mode.
//!
//! A start-up interrupt names a frame below 1 MiB, where the CPU begins in real mode. This code is copied there, and needs its
//! frame at the same linear and physical address when paging goes on. That is so in page tables of its own, with the
//! hypervisor's mappings besides; the hypervisor's own tables never show it. In order:
//! 1. real mode, CS = DS = the frame: load the GDT in the parameters, set CR0.PE, jump to 32-bit code;
//! 2. protected mode, DS still as it was: CR4.PAE, CR3 = the start-up tables, IA32_EFER, CR0 with paging; jump to 64-bit code;
//! 3. long mode: jump to [`arrive`] in the hypervisor;
//! 4. there: CR3 = the hypervisor's tables. Take the ticket of the arrival; without one halt. Take its stack, call Rust.

use super::StartError;
use super::arrival::{self, Arrival};
use crate::cpu::msr;
use crate::mem::{self, HostFrame, MapError, Owner};
use core::arch::{global_asm, naked_asm};
use core::mem::offset_of;
use core::ops::Range;
use core::sync::atomic::{Ordering, fence};
use lamina_core::memory::{Frame, PAGE_SIZE};
use spin::Once;
use x86_64::registers::control::{Cr0, Cr3, Cr4Flags};

/// Frames below 1 MiB that are needed: the code, and the level-4 table, since CR3 has 32 bits when it is loaded.
pub(crate) const START_UP_FRAMES: u64 = 2;

static FRAMES: Once<Range<Frame>> = Once::new();

/// Says which frames below 1 MiB are free for this. To be called by `boot` alone, which knows the memory map.
pub(crate) fn set_start_up_frames(frames: Range<Frame>) {
    FRAMES.call_once(|| frames);
}

/// What the code reads, in its own frame. The code knows the offsets.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Parameters {
    /// Null, 32-bit code, 64-bit code.
    gdt: [u64; 3],
    /// Limit and linear address of the GDT.
    gdtr: [u16; 3],
    /// Offset and selector of the 32-bit code.
    protected_mode: [u16; 3],
    /// Offset and selector of the 64-bit code.
    long_mode: [u16; 3],
    _padding: [u16; 3],
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    /// The level-4 table of the hypervisor.
    hypervisor_cr3: u64,
    /// Linear address of [`arrive`].
    arrive: u64,
    /// The arrival: its argument.
    arrival: u64,
}

/// Flat code segments, present, accessed (so that the CPU does not write to the table): 32-bit, and 64-bit.
const GDT: [u64; 3] = [0, 0x00cf_9b00_0000_ffff, 0x00af_9b00_0000_ffff];
const CODE_32: u16 = 8;
const CODE_64: u16 = 16;

global_asm!(
    ".pushsection .rodata.lamina_start_up, \"a\", @progbits",
    ".balign 16",
    ".globl lamina_start_up",
    "lamina_start_up:",
    ".code16",
    "cli",
    "cld",
    "movw %cs, %ax",
    "movw %ax, %ds",
    "lgdtl lamina_start_up_parameters - lamina_start_up + {gdtr}",
    "movl %cr0, %eax",
    "orl $1, %eax",
    "movl %eax, %cr0",
    "ljmpl *lamina_start_up_parameters - lamina_start_up + {protected_mode}",
    ".code32",
    ".globl lamina_start_up_32",
    "lamina_start_up_32:",
    "movl lamina_start_up_parameters - lamina_start_up + {cr4}, %eax",
    "movl %eax, %cr4",
    "movl lamina_start_up_parameters - lamina_start_up + {cr3}, %eax",
    "movl %eax, %cr3",
    "movl ${efer_msr}, %ecx",
    "movl lamina_start_up_parameters - lamina_start_up + {efer}, %eax",
    "movl lamina_start_up_parameters - lamina_start_up + {efer} + 4, %edx",
    "wrmsr",
    "movl lamina_start_up_parameters - lamina_start_up + {cr0}, %eax",
    "movl %eax, %cr0",
    "ljmpl *lamina_start_up_parameters - lamina_start_up + {long_mode}",
    ".code64",
    ".globl lamina_start_up_64",
    "lamina_start_up_64:",
    "movq lamina_start_up_parameters + {arrival}(%rip), %rdi",
    "movq lamina_start_up_parameters + {hypervisor_cr3}(%rip), %rcx",
    "movq lamina_start_up_parameters + {arrive}(%rip), %rax",
    "jmpq *%rax",
    ".balign 8",
    ".globl lamina_start_up_parameters",
    "lamina_start_up_parameters:",
    ".popsection",
    gdtr = const offset_of!(Parameters, gdtr),
    protected_mode = const offset_of!(Parameters, protected_mode),
    long_mode = const offset_of!(Parameters, long_mode),
    cr0 = const offset_of!(Parameters, cr0),
    cr3 = const offset_of!(Parameters, cr3),
    cr4 = const offset_of!(Parameters, cr4),
    efer = const offset_of!(Parameters, efer),
    hypervisor_cr3 = const offset_of!(Parameters, hypervisor_cr3),
    arrive = const offset_of!(Parameters, arrive),
    arrival = const offset_of!(Parameters, arrival),
    efer_msr = const msr::EFER,
    options(att_syntax),
);

unsafe extern "C" {
    static lamina_start_up: u8;
    static lamina_start_up_32: u8;
    static lamina_start_up_64: u8;
    static lamina_start_up_parameters: u8;
}

/// The code, up to its parameters, and the offsets in it of its 32-bit and 64-bit parts.
fn code() -> (&'static [u8], u32, u32) {
    let start = &raw const lamina_start_up;
    let offset = |label: *const u8| label as usize - start as usize;
    let len = offset(&raw const lamina_start_up_parameters);
    // SAFETY: the four labels stand in this order in one section of constants, which the assembly above fills.
    let code = unsafe { core::slice::from_raw_parts(start, len) };
    (code, offset(&raw const lamina_start_up_32) as u32, offset(&raw const lamina_start_up_64) as u32)
}

/// The start-up code in its place, with its page tables.
#[derive(Debug)]
pub(super) struct StartUp {
    code_frame: Frame,
    parameters: Parameters,
}

impl StartUp {
    /// Copies the code and builds the tables. They stay for good: a CPU that answers late must find them.
    ///
    /// # Errors
    /// [`StartError`]: no memory below 1 MiB, or none for a table.
    pub(super) fn new() -> Result<Self, StartError> {
        let frames = FRAMES.get().ok_or(StartError::NoLowMemory)?;
        let (code_frame, root_frame) = (frames.start, Frame(frames.start.0 + 1));
        build_tables(code_frame, root_frame)?;
        let (code, offset_32, offset_64) = code();
        let page = low_page(code_frame)?;
        // SAFETY: the frame is ours by `set_start_up_frames` and in the window; the code is shorter than a page.
        unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), page, code.len()) };
        let base = code_frame.base().0 as u32;
        let far = |offset: u32, selector: u16| [(base + offset) as u16, ((base + offset) >> 16) as u16, selector];
        let gdt = base + code.len() as u32 + offset_of!(Parameters, gdt) as u32;
        const EFER_LMA: u64 = 1 << 10;
        let parameters = Parameters {
            gdt: GDT,
            gdtr: [size_of_val(&GDT) as u16 - 1, gdt as u16, (gdt >> 16) as u16],
            protected_mode: far(offset_32, CODE_32),
            long_mode: far(offset_64, CODE_64),
            _padding: [0; 3],
            cr0: Cr0::read_raw(),
            cr3: root_frame.base().0,
            cr4: Cr4Flags::PHYSICAL_ADDRESS_EXTENSION.bits(),
            efer: msr::read(msr::EFER) & !EFER_LMA,
            hypervisor_cr3: Cr3::read().0.start_address().as_u64(),
            arrive: arrive as *const () as u64,
            arrival: 0,
        };
        Ok(Self { code_frame, parameters })
    }

    /// Has the next CPU that starts find this arrival.
    pub(super) fn prepare(&mut self, arrival: &'static Arrival) {
        self.parameters.arrival = core::ptr::from_ref(arrival) as u64;
        if let Ok(page) = low_page(self.code_frame) {
            // SAFETY: behind the code, in the same frame of ours; the code ends at a multiple of 8.
            unsafe { page.add(code().0.len()).cast::<Parameters>().write_volatile(self.parameters) };
        }
        fence(Ordering::SeqCst);
    }

    /// The frame that a start-up interrupt names.
    pub(super) const fn frame(&self) -> u8 {
        self.code_frame.0 as u8
    }
}

fn low_page(frame: Frame) -> Result<*mut u8, StartError> {
    mem::ptr_to(frame.base(), PAGE_SIZE).ok_or(StartError::NoLowMemory)
}

/// Page tables that show the code's frame at its own address, executable and read-only, and all that the hypervisor maps.
fn build_tables(code_frame: Frame, root_frame: Frame) -> Result<(), StartError> {
    const PRESENT: u64 = 1;
    let mut target = code_frame;
    let mut index = code_frame.0 as usize;
    // Level 1, 2, 3: below 1 MiB, only the lowest has another index than 0.
    for _ in 0..3 {
        let mut table = HostFrame::new(Owner::HOST).map_err(MapError::OutOfFrames)?;
        let entry = (target.base().0 | PRESENT).to_le_bytes();
        table.bytes_mut()[index * 8..index * 8 + 8].copy_from_slice(&entry);
        target = Frame::containing(table.address());
        index = 0;
        core::mem::forget(table);
    }
    let root = low_page(root_frame)?.cast::<u64>();
    let entries = mem::root_entries();
    for (index, entry) in entries.into_iter().enumerate() {
        let entry = if index == 0 { target.base().0 | PRESENT } else { entry };
        // SAFETY: the frame is ours by `set_start_up_frames` and in the window; there are 512 entries.
        unsafe { root.add(index).write_volatile(entry) };
    }
    Ok(())
}

/// Where the start-up code ends: on the hypervisor's own page tables, with the arrival in RDI and their address in RCX.
#[unsafe(naked)]
extern "C" fn arrive() {
    naked_asm!(
        "mov cr3, rcx",
        "xor eax, eax",
        "xchg [rdi + {ticket}], eax",
        "test eax, eax",
        "jz 2f",
        "mov rsp, [rdi + {stack_top}]",
        "xor ebp, ebp",
        "call {main}",
        "2:",
        "cli",
        "hlt",
        "jmp 2b",
        ticket = const offset_of!(Arrival, ticket),
        stack_top = const offset_of!(Arrival, stack_top),
        main = sym arrival::main,
    )
}
