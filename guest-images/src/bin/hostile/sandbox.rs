//! Running a piece of code and coming back from it, whatever it does: [`run`]. The story of a run:
//! 1. `hostile_run` keeps the dispatcher's registers on its stack and the stack pointer in the CPU's block, loads the
//!    registers of the plan, and goes to its code by IRET;
//! 2. the code traps, faults, meets a breakpoint, or is interrupted; each gate switches to the stack in the CPU's block (IST1);
//! 3. a single-step trap returns to the code as long as the plan gives it instructions;
//! 4. all else makes the CPU what it was (`hostile_restore`) and returns to the dispatcher, by an IRET that unblocks NMIs too.
//!
//! An NMI that another CPU sends while the dispatcher itself runs is ignored; an exception there means that the guest has
//! written over itself, and ends it.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use guest::apic::{self, register};
use guest::{cpu, port};

use crate::legacy;
use crate::plan::{CODE_MAX, Mode, Plan, RAX, RCX, RDX};
use crate::tables::{self, BLOCKS, USER};
use crate::{CPUS, random::Random};

/// Words of a CPU's block.
const INSTRUCTIONS_LEFT: usize = 1;
const TASK_SELECTOR: usize = 2;

/// The vector of the timer that ends what would go on for ever with interrupts on.
const WATCHDOG_VECTOR: u32 = 0xEF;
/// Its period in ticks of the APIC timer.
const WATCHDOG_TICKS: u32 = 100_000;

/// The low half of the IOAPIC's entry for the PIT (a PC has it at input 2), and who is meant in the high one.
const IOAPIC_PIT: u8 = 0x10 + 2 * 2;
const ALL_CPUS: u32 = 0xFF << 24;

const PIT_CHANNEL_0: u16 = 0x40;
const PIT_COMMAND: u16 = 0x43;
/// Channel 0, low and high byte, mode 2.
const PIT_RATE_GENERATOR: u8 = 0x34;
/// About 2 ms at 1.193182 MHz.
const PIT_PERIOD: u16 = 2386;

/// What `hostile_run` loads: the general registers by number, then what IRET takes.
#[repr(C)]
pub(crate) struct Registers {
    pub(crate) general: [u64; 16],
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) ss: u64,
}

#[repr(C, align(4096))]
struct Code([AtomicU8; 4096]);
static CODE: [Code; CPUS] = [const { Code([const { AtomicU8::new(0) }; 4096]) }; CPUS];

/// What the restored registers hold: CR0 as this guest began with it, and CR3.
#[unsafe(no_mangle)]
static HOSTILE_CR0: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn hostile_run(registers: *const Registers, block: *const u64);
    fn hostile_enter(block: *const u64);
}

/// Makes the calling CPU one that [`run`] can be called on.
pub(crate) fn enter(index: usize) {
    HOSTILE_CR0.store(cpu::read_cr0(), Relaxed);
    tables::rebuild();
    BLOCKS[index].set(TASK_SELECTOR, tables::TSS + 16 * index as u64);
    // SAFETY: the tables are complete, and map and describe all that this kernel uses as it was before.
    unsafe { hostile_enter(BLOCKS[index].address() as *const u64) };
    calm(index);
}

/// Where the code of a CPU is, for `plan`'s mode.
pub(crate) fn code_address(index: usize, mode: Mode) -> u64 {
    match mode {
        Mode::User64 | Mode::User32 | Mode::User16 => USER + index as u64 * 4096,
        Mode::Virtual8086 | Mode::Real => legacy::CODE,
        _ => CODE[index].0.as_ptr() as u64,
    }
}

/// Runs a piece of code on this CPU.
pub(crate) fn run(index: usize, plan: &Plan) {
    let mode = match plan.mode {
        // The way there and back is one for all CPUs.
        Mode::Protected | Mode::Virtual8086 | Mode::Real if index != 0 => Mode::Kernel32,
        mode => mode,
    };
    let address = code_address(index, mode);
    for (offset, byte) in plan.bytes().iter().chain(&[0xCC; CODE_MAX]).enumerate() {
        // SAFETY: at each of these addresses is memory that is there for code alone.
        unsafe { ((address + offset as u64) as *mut u8).write_volatile(*byte) };
    }
    let (cs, ss) = match mode {
        Mode::Kernel64 => (tables::CODE64, tables::DATA),
        Mode::Kernel32 | Mode::Protected => (tables::CODE32, tables::DATA),
        Mode::Kernel16 => (tables::CODE16, tables::DATA),
        Mode::User64 => (tables::USER_CODE64, tables::USER_DATA),
        Mode::User32 => (tables::USER_CODE32, tables::USER_DATA),
        Mode::User16 => (tables::USER_CODE16, tables::USER_DATA),
        Mode::Virtual8086 | Mode::Real => (legacy::CODE >> 4, legacy::CODE >> 4),
    };
    let rip = if cs == legacy::CODE >> 4 { 0 } else { address };
    if index == 0 {
        arm_nmi();
    }
    let mut registers = Registers { general: plan.registers, rip, cs, rflags: plan.rflags, ss };
    if let Some(way) = legacy::Way::to(mode) {
        legacy::run(&mut registers, way);
        return;
    }
    BLOCKS[index].set(INSTRUCTIONS_LEFT, plan.instructions);
    // SAFETY: the way back from the code leads through this guest's tables. That the code leaves them and this kernel alone is
    // not promised: then the guest ends, which is what it is for.
    unsafe { hostile_run(&raw const registers, BLOCKS[index].address() as *const u64) };
}

/// Brings the CPU's local APIC back to where it was after reset, and has its timer end what would never end.
pub(crate) fn calm(index: usize) {
    let bootstrap = if index == 0 { apic::BASE_BSP } else { 0 };
    for mode in [0, apic::BASE_ENABLE] {
        let value = apic::XAPIC_ADDRESS | bootstrap | mode;
        let plan = Plan::new(&mut Random::new(0, index, 0)).set(RCX, apic::APIC_BASE_MSR.into()).set(RAX, value);
        run(index, &plan.set(RDX, 0).code(&[0x0F, 0x30]));
    }
    for (register, value) in [
        (register::SVR, apic::SOFTWARE_ENABLE | u32::from(apic::SPURIOUS_VECTOR)),
        (register::DIVIDE, apic::DIVIDE_BY_1),
        (register::LVT_TIMER, apic::TIMER_PERIODIC | WATCHDOG_VECTOR),
        (register::INITIAL_COUNT, WATCHDOG_TICKS),
    ] {
        let address = (apic::XAPIC_ADDRESS + u64::from(register)) as *mut u32;
        // SAFETY: the local APIC is there in xAPIC mode, and every vector has a gate.
        unsafe { address.write_volatile(value) };
    }
}

/// Has the PIT end what would never end with interrupts off, by NMIs to all CPUs.
fn arm_nmi() {
    apic::ioapic_write(IOAPIC_PIT + 1, ALL_CPUS);
    apic::ioapic_write(IOAPIC_PIT, apic::DELIVERY_NMI);
    port::write_u8(PIT_COMMAND, PIT_RATE_GENERATOR);
    for byte in PIT_PERIOD.to_le_bytes() {
        port::write_u8(PIT_CHANNEL_0, byte);
    }
}

global_asm!(
    ".pushsection .text.hostile,\"ax\",@progbits",
    // rdi: Registers, rsi: the CPU's block.
    "hostile_run:",
    "    push rbx; push rbp; push r12; push r13; push r14; push r15",
    "    mov [rsi], rsp",
    "    mov qword ptr [rsi + 24], 1", // the code runs
    "    push [rdi + 152]",
    "    push [rdi + 32]",
    "    push [rdi + 144]",
    "    push [rdi + 136]",
    "    push [rdi + 128]",
    "    mov rax, [rdi]; mov rcx, [rdi + 8]; mov rdx, [rdi + 16]; mov rbx, [rdi + 24]",
    "    mov rbp, [rdi + 40]; mov rsi, [rdi + 48]",
    "    mov r8, [rdi + 64]; mov r9, [rdi + 72]; mov r10, [rdi + 80]; mov r11, [rdi + 88]",
    "    mov r12, [rdi + 96]; mov r13, [rdi + 104]; mov r14, [rdi + 112]; mov r15, [rdi + 120]",
    "    mov rdi, [rdi + 56]",
    "    iretq",
    // rdi: the CPU's block.
    "hostile_enter:",
    "    push rbx; push rbp; push r12; push r13; push r14; push r15",
    "    mov [rdi], rsp",
    "    mov rbx, rdi",
    "    jmp hostile_restore",
    ".balign 16",
    ".global hostile_stubs",
    "hostile_stubs:",
    ".set vector, 0",
    ".rept 256",
    "    .balign 16",
    "    push vector",
    "    jmp hostile_common",
    "    .set vector, vector + 1",
    ".endr",
    ".balign 16",
    "hostile_common:",
    "    push rbx",
    "    mov rbx, rsp",
    "    and rbx, -8192",
    "    cmp qword ptr [rbx + 24], 0",
    "    je 4f",
    "    cmp qword ptr [rsp + 8], 1", // #DB: on with it, while instructions are left
    "    jne 2f",
    "    dec qword ptr [rbx + 8]",
    "    js 2f",
    "3:",
    "    pop rbx",
    "    add rsp, 8",
    "    iretq",
    "2:",
    "    mov rsp, [rbx]",
    "    mov qword ptr [rbx + 24], 0",
    "    jmp hostile_restore",
    "4:", // in the dispatcher: interrupts and NMIs do not matter
    "    cmp qword ptr [rsp + 8], 2",
    "    je 3b",
    "    cmp qword ptr [rsp + 8], 32",
    "    jae 3b",
    // This guest has ruined itself: the exit port is told where, the last 24 bits of RIP, and the vector.
    "    mov ecx, [rsp + 8]",
    "    mov eax, 0x60227D00", // the vectors with an error code
    "    bt eax, ecx",
    "    mov eax, [rsp + 16]",
    "    jnc 5f",
    "    mov eax, [rsp + 24]",
    "5:  shl eax, 8",
    "    mov al, cl",
    "    mov edx, 0xF4",
    "    out dx, eax",
    "7:  cli",
    "    hlt",
    "    jmp 7b",
    // rbx: the CPU's block; rsp: the dispatcher's registers.
    "hostile_restore:",
    "    push 2", // not NT above all, which an interrupt in real mode leaves set
    "    popfq",
    "    xor eax, eax",
    "    mov dr7, rax",
    "    lea rax, [rip + HOSTILE_PAGE_TABLES]",
    "    mov cr3, rax",
    "    mov rax, [rip + HOSTILE_CR0]",
    "    mov cr0, rax",
    "    mov eax, 0x20", // PAE
    "    mov cr4, rax",
    "    mov ecx, 0xC0000080",
    "    mov eax, 0x500", // EFER.LME, LMA
    "    xor edx, edx",
    "    wrmsr",
    "    xor eax, eax",
    "    mov cr8, rax",
    "    lgdt [rip + hostile_gdt_pointer]",
    "    lidt [rip + hostile_idt_pointer]",
    "    lldt ax",
    "    mov fs, ax",
    "    mov gs, ax",
    "    mov ax, 0x10",
    "    mov ds, ax",
    "    mov es, ax",
    "    mov ss, ax",
    "    mov eax, [rbx + 16]",
    "    lea rcx, [rip + HOSTILE_GDT]",
    "    and byte ptr [rcx + rax + 5], 0xFD", // not busy
    "    ltr ax",
    "    mov rax, rsp",
    "    push 0x10",
    "    push rax",
    "    push 2",
    "    push 0x08",
    "    lea rax, [rip + 6f]",
    "    push rax",
    "    iretq",
    "6:",
    "    pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx",
    "    ret",
    ".popsection",
    ".pushsection .data.hostile,\"aw\",@progbits",
    ".balign 8",
    ".global hostile_gdt_pointer, hostile_idt_pointer",
    "hostile_gdt_pointer:",
    "    .word 127",
    "    .quad HOSTILE_GDT",
    ".balign 8",
    "hostile_idt_pointer:",
    "    .word 4095",
    "    .quad HOSTILE_IDT",
    ".popsection",
);
