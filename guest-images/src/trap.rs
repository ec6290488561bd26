//! The IDT: interrupts go to handlers that a kernel installs; a fault of an instruction that was run by
//! [`try_asm!`](crate::try_asm) is caught and handed back as an [`Exception`]; any other exception ends the
//! guest with a failed verdict.

use core::arch::{asm, global_asm};
use core::fmt;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// What the stubs below leave on the stack: the registers, the vector, and what the CPU pushed.
#[repr(C)]
#[derive(Debug)]
#[expect(missing_docs, reason = "the names are the registers' names")]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// A caught exception.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception {
    /// The vector, 0 to 31.
    pub vector: u8,
    /// The error code, 0 where the exception has none.
    pub error_code: u32,
}

impl Exception {
    /// Invalid opcode.
    pub const UD: u8 = 6;
    /// General protection.
    pub const GP: u8 = 13;
    /// Page fault.
    pub const PF: u8 = 14;
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 22] = [
            "#DE",
            "#DB",
            "NMI",
            "#BP",
            "#OF",
            "#BR",
            "#UD",
            "#NM",
            "#DF",
            "coprocessor segment overrun",
            "#TS",
            "#NP",
            "#SS",
            "#GP",
            "#PF",
            "reserved",
            "#MF",
            "#AC",
            "#MC",
            "#XM",
            "#VE",
            "#CP",
        ];
        let name = NAMES.get(usize::from(self.vector)).unwrap_or(&"vector");
        write!(f, "{name} ({}), error code {:#x}", self.vector, self.error_code)
    }
}

/// What a kernel installs for a vector.
pub type Handler = fn(&mut TrapFrame);

static HANDLERS: [AtomicUsize; 256] = [const { AtomicUsize::new(0) }; 256];

/// No exception was caught since the last `clear_fault`.
const NO_FAULT: u64 = u64::MAX;
static FAULT: AtomicU64 = AtomicU64::new(NO_FAULT);

#[repr(C, align(16))]
struct Idt([AtomicU64; 512]);
static IDT: Idt = Idt([const { AtomicU64::new(0) }; 512]);

/// The operand of LIDT.
#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

unsafe extern "C" {
    /// The first of 256 stubs, 16 bytes each.
    static guest_trap_stubs: u8;
    static guest_fixup_start: [u64; 2];
    static guest_fixup_end: [u64; 2];
}

/// Fills and loads the IDT: 256 interrupt gates, which all processors share.
pub(crate) fn init() {
    (0..=u8::MAX).for_each(|vector| point(vector, stub(vector)));
    load();
}

/// Where the stub of a vector is.
fn stub(vector: u8) -> u64 {
    &raw const guest_trap_stubs as u64 + u64::from(vector) * 16
}

/// Writes a vector's interrupt gate.
fn point(vector: u8, address: u64) {
    const INTERRUPT_GATE: u64 = 0x8E00 << 32;
    const CODE_SEGMENT: u64 = 0x08 << 16;
    let index = usize::from(vector) * 2;
    IDT.0[index].store(address & 0xFFFF | CODE_SEGMENT | INTERRUPT_GATE | (address & 0xFFFF_0000) << 32, Relaxed);
    IDT.0[index + 1].store(address >> 32, Relaxed);
}

/// Points a vector's gate straight at code of the kernel's own, without the cost of the stubs; `None` takes that back.
///
/// # Safety
/// The code must keep every register, take an error code off the stack where the vector has one, and end by IRETQ.
pub unsafe fn set_gate(vector: u8, entry: Option<extern "C" fn()>) {
    point(vector, entry.map_or_else(|| stub(vector), |entry| entry as usize as u64));
}

/// Loads the IDT, which [`init`] has filled, on this processor.
pub(crate) fn load() {
    // SAFETY: the table is a static, and every gate in it leads to a stub of this module.
    unsafe { load_idt(&raw const IDT as u64, 4095) };
}

/// Loads IDTR.
///
/// # Safety
/// There must be an IDT of `limit + 1` bytes at `base`, or nothing may fault or interrupt any more.
pub unsafe fn load_idt(base: u64, limit: u16) {
    let pointer = TablePointer { limit, base };
    // SAFETY: LIDT reads the ten bytes of `pointer`; the caller vouches for the table.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags)) };
}

/// Installs `handler` for `vector`.
pub fn on(vector: u8, handler: Handler) {
    HANDLERS[usize::from(vector)].store(handler as usize, Relaxed);
}

/// Takes the handler for `vector` away.
pub fn remove(vector: u8) {
    HANDLERS[usize::from(vector)].store(0, Relaxed);
}

/// Forgets an earlier fault; part of `try_asm!`.
pub fn clear_fault() {
    FAULT.store(NO_FAULT, Relaxed);
}

/// The fault since `clear_fault`; part of `try_asm!`.
pub fn take_fault() -> Result<(), Exception> {
    match FAULT.swap(NO_FAULT, Relaxed) {
        NO_FAULT => Ok(()),
        fault => Err(Exception { vector: (fault >> 32) as u8, error_code: fault as u32 }),
    }
}

/// Runs one instruction and gives `Result<(), Exception>`: `Err` where it faulted. Use within `unsafe`; the
/// operands are those of `asm!`. The record of the fault is one for all processors: only one may fault at a time.
#[macro_export]
macro_rules! try_asm {
    ($instruction:expr $(, $($operand:tt)*)?) => {{
        $crate::trap::clear_fault();
        ::core::arch::asm!(
            "772:", $instruction, "773:",
            ".pushsection .fixup,\"a\",@progbits", ".quad 772b, 773b", ".popsection"
            $(, $($operand)*)?
        );
        $crate::trap::take_fault()
    }};
}

extern "C" fn trap(frame: &mut TrapFrame) {
    let vector = frame.vector as usize & 0xFF;
    let handler = HANDLERS[vector].load(Relaxed);
    if handler != 0 {
        // SAFETY: only `on` stores into HANDLERS, and it stores a `Handler`.
        let handler = unsafe { core::mem::transmute::<usize, Handler>(handler) };
        return handler(frame);
    }
    let exception = Exception { vector: vector as u8, error_code: frame.error_code as u32 };
    if vector < 32
        && let Some(resume) = fixup(frame.rip)
    {
        FAULT.store((vector as u64) << 32 | u64::from(exception.error_code), Relaxed);
        frame.rip = resume;
        return;
    }
    crate::fail!("unexpected {exception} at rip {:#x}, cr2 {:#x}", frame.rip, crate::cpu::read_cr2());
}

/// Where to go on after a fault at `rip`, if `try_asm!` ran the instruction there.
fn fixup(rip: u64) -> Option<u64> {
    let start = &raw const guest_fixup_start;
    let len = (&raw const guest_fixup_end as usize - start as usize) / size_of::<[u64; 2]>();
    // SAFETY: the linker script puts the pairs of `try_asm!` between the two symbols, 8-byte aligned.
    let pairs = unsafe { core::slice::from_raw_parts(start, len) };
    pairs.iter().find(|pair| pair[0] == rip).map(|pair| pair[1])
}

global_asm!(
    ".pushsection .text.guest_trap,\"ax\",@progbits",
    ".balign 16",
    "guest_trap_stubs:",
    ".set vector, 0",
    ".rept 256",
    "    .balign 16",
    // These push an error code by themselves ("Error Code" in the SDM's chapter on interrupts and exceptions).
    "    .if (vector != 8) && (vector != 10) && (vector != 11) && (vector != 12) && (vector != 13) && (vector != 14) && (vector != 17) && (vector != 21) && (vector != 29) && (vector != 30)",
    "    pushq $0",
    "    .endif",
    "    pushq $vector",
    "    jmp guest_trap_common",
    "    .set vector, vector + 1",
    ".endr",
    ".balign 16",
    "guest_trap_common:",
    "    push %rax; push %rbx; push %rcx; push %rdx; push %rsi; push %rdi; push %rbp",
    "    push %r8; push %r9; push %r10; push %r11; push %r12; push %r13; push %r14; push %r15",
    "    mov %rsp, %rdi",
    "    cld",
    "    call {trap}",
    "    pop %r15; pop %r14; pop %r13; pop %r12; pop %r11; pop %r10; pop %r9; pop %r8",
    "    pop %rbp; pop %rdi; pop %rsi; pop %rdx; pop %rcx; pop %rbx; pop %rax",
    "    add $16, %rsp",
    "    iretq",
    ".popsection",
    trap = sym trap,
    options(att_syntax),
);
