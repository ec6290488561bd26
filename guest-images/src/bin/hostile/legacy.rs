//! The modes without long mode: 32-bit protected mode, virtual-8086 mode and real mode. CPU 0 alone goes there. The story:
//! 1. `hostile_legacy` goes to 32-bit code, switches paging and long mode off, and takes the IDT for 32-bit mode;
//! 2. from there by IRET to the code, in virtual-8086 mode or not; or on to real mode, whose part is a copy below 64 KiB;
//! 3. every gate and every real-mode vector leads back: to protected mode, to long mode, to the dispatcher.

use core::arch::global_asm;

use crate::plan::{CODE_MAX, Mode};
use crate::sandbox::Registers;

/// Where real-mode and virtual-8086 code is run, its segment's first byte.
pub(crate) const CODE: u64 = 0x9000;
/// Where the real-mode part of the way is; the asm below knows it too.
const LOW: u64 = 0x7000;
/// Where it finds the flags to start with.
const LOW_FLAGS: u64 = LOW + 0xFF0;
/// RFLAGS.VM.
const VM: u64 = 1 << 17;

/// How to get to a mode.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum Way {
    Protected = 0,
    Virtual8086 = 1,
    Real = 2,
}

impl Way {
    /// `None` for the modes within long mode.
    pub(crate) const fn to(mode: Mode) -> Option<Self> {
        match mode {
            Mode::Protected => Some(Self::Protected),
            Mode::Virtual8086 => Some(Self::Virtual8086),
            Mode::Real => Some(Self::Real),
            _ => None,
        }
    }
}

const _: () = assert!(CODE + 2 * CODE_MAX as u64 <= 0xA000);

unsafe extern "C" {
    fn hostile_legacy(registers: *const Registers, way: u32);
    static hostile_real: u8;
    static hostile_real_back: u8;
    static hostile_real_end: u8;
}

/// Runs the code that lies at its place.
pub(crate) fn run(registers: &mut Registers, way: Way) {
    match way {
        Way::Protected => {}
        Way::Virtual8086 => registers.rflags |= VM,
        Way::Real => prepare_low_memory(registers.rflags),
    }
    // SAFETY: as for `hostile_run`: the way back is there as long as the code leaves it alone.
    unsafe { hostile_legacy(registers, way as u32) };
}

/// The real-mode part of the way, and the interrupt vector table, whose every vector leads to it.
fn prepare_low_memory(rflags: u64) {
    let (start, back) = (&raw const hostile_real, &raw const hostile_real_back as u64);
    let len = &raw const hostile_real_end as usize - start as usize;
    let back = back - start as u64 + LOW;
    // SAFETY: the loader leaves the first 64 KiB to the guest, and nothing else of this kernel is there.
    unsafe {
        core::ptr::copy(start, LOW as *mut u8, len);
        (LOW_FLAGS as *mut u16).write_volatile(rflags as u16);
        // Vector 0 is at address 0, which Rust takes for no address: by string instruction.
        core::arch::asm!("rep stosd", in("eax") back as u32, inout("ecx") 256 => _, inout("rdi") 0_u64 => _);
    }
}

global_asm!(
    ".pushsection .text.hostile_legacy,\"ax\",@progbits",
    ".code64",
    // rdi: Registers, esi: the way.
    "hostile_legacy:",
    "    push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15",
    "    mov %rsp, hostile_legacy_rsp(%rip)",
    "    mov %edi, %ebp",
    "    pushq $0x18",
    "    leaq 2f(%rip), %rax",
    "    pushq %rax",
    "    lretq",
    ".code32",
    "2:",
    "    movw $0x10, %ax",
    "    movw %ax, %ds",
    "    movw %ax, %es",
    "    movw %ax, %ss",
    "    movl $0x570000, %esp",
    "    movl %cr0, %eax",
    "    andl $0x7FFFFFFF, %eax", // not PG
    "    movl %eax, %cr0",
    "    movl $0xC0000080, %ecx",
    "    xorl %eax, %eax",
    "    xorl %edx, %edx",
    "    wrmsr", // EFER = 0
    "    movl %eax, %cr4",
    "    lidtl hostile_idt32_pointer",
    "    cmpl $1, %esi",
    "    je 4f",
    "    ja 5f",
    "    pushl 144(%ebp)",
    "    pushl $0x18",
    "    pushl 128(%ebp)",
    "3:",
    "    movl 0(%ebp), %eax; movl 8(%ebp), %ecx; movl 16(%ebp), %edx; movl 24(%ebp), %ebx",
    "    movl 48(%ebp), %esi; movl 56(%ebp), %edi; movl 40(%ebp), %ebp",
    "    iretl",
    "4:",
    "    movw $0x60, %ax",
    "    ltrw %ax",
    "    movl 136(%ebp), %eax", // all segments are the code's
    "    pushl %eax; pushl %eax; pushl %eax; pushl %eax; pushl %eax",
    "    pushl $0xFF0",
    "    pushl 144(%ebp)",
    "    pushl %eax",
    "    pushl $0",
    "    jmp 3b",
    "5:",
    "    movl 8(%ebp), %ecx; movl 16(%ebp), %edx; movl 24(%ebp), %ebx",
    "    movl 48(%ebp), %esi; movl 56(%ebp), %edi; movl 40(%ebp), %ebp",
    "    ljmpl $0x68, $0x7000",
    ".code16",
    "hostile_real:",
    // All of them: a segment register that is null now would be so in real mode, and no VM entry possible.
    "    movw $0x70, %ax",
    "    movw %ax, %ds",
    "    movw %ax, %es",
    "    movw %ax, %fs",
    "    movw %ax, %gs",
    "    movw %ax, %ss",
    "    movl %cr0, %eax",
    "    andb $0xFE, %al", // not PE
    "    movl %eax, %cr0",
    "    ljmpw $0, $(0x7000 + 6f - hostile_real)",
    "6:",
    "    xorw %ax, %ax",
    "    movw %ax, %ds",
    "    movw %ax, %es",
    "    movw %ax, %fs",
    "    movw %ax, %gs",
    "    movw %ax, %ss",
    "    movw $0x8FF0, %sp",
    "    lidtw 0x7000 + 7f - hostile_real",
    "    pushw 0x7FF0",
    "    pushw $0x900",
    "    pushw $0",
    "    iretw",
    "7:",
    "    .word 0x3FF",
    "    .long 0",
    "hostile_real_back:",
    "    cli",
    "    lgdtl %cs:(0x7000 + 8f - hostile_real)",
    "    movl %cr0, %eax",
    "    orb $1, %al", // PE
    "    movl %eax, %cr0",
    "    ljmpl $0x18, $hostile_legacy_back",
    "8:",
    "    .word 127",
    "    .long HOSTILE_GDT",
    "hostile_real_end:",
    ".code32",
    ".global hostile_legacy_back",
    "hostile_legacy_back:",
    "    movw $0x10, %ax",
    "    movw %ax, %ds",
    "    movw %ax, %es",
    "    movw %ax, %ss",
    "    movl $0x570000, %esp",
    "    movl %cr0, %eax",
    "    andl $0x7FFFFFFF, %eax", // not PG, where the code has set it
    "    movl %eax, %cr0",
    "    lgdtl hostile_gdt_pointer",
    "    movl $0x20, %eax", // PAE
    "    movl %eax, %cr4",
    "    movl $HOSTILE_PAGE_TABLES, %eax",
    "    movl %eax, %cr3",
    "    movl $0xC0000080, %ecx",
    "    movl $0x100, %eax", // EFER.LME
    "    xorl %edx, %edx",
    "    wrmsr",
    "    movl HOSTILE_CR0, %eax",
    "    movl %eax, %cr0",
    "    ljmpl $0x08, $9f",
    ".code64",
    "9:",
    "    leaq {blocks}(%rip), %rbx",
    "    mov hostile_legacy_rsp(%rip), %rsp",
    "    jmp hostile_restore",
    ".popsection",
    ".pushsection .data.hostile_legacy,\"aw\",@progbits",
    ".balign 8",
    "hostile_idt32_pointer:",
    "    .word 2047",
    "    .long HOSTILE_IDT32",
    ".balign 8",
    "hostile_legacy_rsp:",
    "    .quad 0",
    ".popsection",
    blocks = sym crate::tables::BLOCKS,
    options(att_syntax),
);
