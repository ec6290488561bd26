//! Comes to grief in the way that it is told, and says before where: the address that RIP will have. No verdict: the host must
//! end it, or do what its policy says, and leave the others alone.
//!
//! Command line: `kind=NAME`, one of
//!
//! - `triple-fault` (default): UD2 with an empty IDT, so that #UD, #GP and #DF find no gate and the CPU shuts down;
//! - `outside-fetch`, `outside-stack`, `outside-table`: code, the stack of an exception, or page tables where no memory is;
//! - `access-loop`: reads memory that is not there, for ever;
//! - `probe`: reads it `row=N` (999) times in a row, ten rows with something else in between, and passes: that is no loop;
//! - `task-switch`: a far jump to a TSS, in 32-bit protected mode;
//! - `unsupported`: loads the FPU from a device register;
//! - `reset`: resets itself through the reset control register.
//!
//! `after_ms=N` is how long it computes before; `cpus=N` has the other processors spin meanwhile. It fails where its memory does not start out as zero: a restart must not show it
//! what an earlier life has left there.
#![no_std]
#![no_main]

use core::arch::global_asm;
use guest::{boot_info, check, cpu, fail, guest_main, pass, port, println, smp, timer};

guest_main!(main);

/// Where no memory is, in every VM of less than 3 GiB.
const NOWHERE: u64 = 0xC000_0000;
/// A page of RAM that neither the loader nor this kernel uses.
const SCRATCH: *mut u64 = 0x30_0000 as *mut u64;

// Each does what its name says, and `_at` is where RIP is then.
global_asm!(
    ".pushsection .text.fault,\"ax\",@progbits",
    "fault_triple:",
    "    xor ebp, ebp", // one frame, the outermost
    "    push rbp",
    "    mov rbp, rsp",
    "    lidt [rip + fault_no_table]",
    "fault_triple_at:",
    "    ud2",
    "fault_stack:",
    "    mov esp, 0xC0000000",
    "fault_stack_at:",
    "    ud2",
    "fault_table:",
    "    mov eax, 0x70000000",
    "    mov cr3, rax",
    "fault_table_at:",
    "    nop",
    "fault_fetch:",
    "    mov eax, 0xC0000000",
    "    jmp rax",
    "fault_loop:",
    "    mov eax, 0xC0000000",
    "2:",
    "    mov ecx, dword ptr [rax]",
    "fault_loop_at:",
    "    jmp 2b",
    "fault_unsupported:",
    "    mov eax, 0xFEC00000",
    "fault_unsupported_at:",
    "    fld qword ptr [rax]",
    "fault_reset:",
    "    mov edx, 0xCF9",
    "    mov al, 6",
    "    out dx, al",
    "fault_reset_at:",
    "    hlt",
    // To 32-bit code of a GDT of its own, out of long mode, and to the TSS.
    "fault_task:",
    "    lgdt [rip + fault_gdt_pointer]",
    "    push 0x08",
    "    lea rax, [rip + 3f]",
    "    push rax",
    "    retfq",
    ".code32",
    "3:",
    "    mov eax, cr0",
    "    and eax, 0x7FFFFFFF",
    "    mov cr0, eax",
    "fault_task_at:",
    "    .byte 0xEA", // JMP ptr16:32
    "    .long 0",
    "    .word 0x18",
    ".code64",
    ".popsection",
    ".pushsection .data.fault,\"aw\",@progbits",
    ".balign 8",
    "fault_no_table:",
    "    .word 0",
    "    .quad 0",
    ".balign 8",
    "fault_gdt:",
    "    .quad 0",
    "    .quad 0x00CF9B000000FFFF", // 0x08: 32-bit code
    "    .quad 0x00CF93000000FFFF", // 0x10: data
    "    .quad 0x0000890000000067", // 0x18: available 32-bit TSS at address 0
    "fault_gdt_pointer:",
    "    .word 31",
    "    .quad fault_gdt",
    ".popsection",
);

unsafe extern "C" {
    fn fault_triple();
    fn fault_stack();
    fn fault_table();
    fn fault_fetch();
    fn fault_loop();
    fn fault_unsupported();
    fn fault_reset();
    fn fault_task();
    static fault_triple_at: u8;
    static fault_stack_at: u8;
    static fault_table_at: u8;
    static fault_loop_at: u8;
    static fault_unsupported_at: u8;
    static fault_reset_at: u8;
    static fault_task_at: u8;
}

fn main() {
    cpu::disable_interrupts();
    check_scrubbed();
    let cpus = boot_info::option("cpus").unwrap_or(1) as usize;
    if cpus > 1 {
        check!(cpus <= smp::find(), "cpus={cpus}: there are fewer");
        (1..cpus).for_each(|index| smp::start(index, |_| spin()));
    }
    let ms = boot_info::option("after_ms").unwrap_or(0);
    let begin = cpu::read_tsc();
    while cpu::read_tsc() - begin < timer::ticks(ms * 1000) {}
    let mut words = boot_info::command_line().split_ascii_whitespace();
    let kind = words.find_map(|word| word.strip_prefix("kind=")).unwrap_or("triple-fault");
    let (what, at): (unsafe extern "C" fn(), u64) = match kind {
        "triple-fault" => (fault_triple, &raw const fault_triple_at as u64),
        "outside-fetch" => (fault_fetch, NOWHERE),
        "outside-stack" => (fault_stack, &raw const fault_stack_at as u64),
        "outside-table" => (fault_table, &raw const fault_table_at as u64),
        "access-loop" => (fault_loop, &raw const fault_loop_at as u64),
        "unsupported" => (fault_unsupported, &raw const fault_unsupported_at as u64),
        "task-switch" => (fault_task, &raw const fault_task_at as u64),
        "reset" => (fault_reset, &raw const fault_reset_at as u64),
        "probe" => return probe(),
        other => fail!("no such kind: {other}"),
    };
    println!("fault: {kind} at {at:#x}");
    guest::serial::wait_until_empty();
    // SAFETY: what follows is the purpose of this kernel.
    unsafe { what() };
    fail!("went on after {kind}");
}

fn spin() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// The host gives zeroed memory at each start; what is written here must not be seen by the next life.
fn check_scrubbed() {
    const WORDS: usize = 512;
    for index in 0..WORDS {
        // SAFETY: RAM that nobody uses, identity mapped.
        let word = unsafe { SCRATCH.add(index).read_volatile() };
        check!(word == 0, "memory was not scrubbed: {word:#x} at word {index}");
        // SAFETY: as above.
        unsafe { SCRATCH.add(index).write_volatile(0x0BAD_CAFE_0BAD_CAFE) };
    }
}

fn probe() {
    let row = boot_info::option("row").unwrap_or(999);
    for _ in 0..10 {
        for _ in 0..row {
            // SAFETY: nothing is there, and reads as all-ones.
            let word = unsafe { (NOWHERE as *const u32).read_volatile() };
            check!(word == u32::MAX, "where nothing is, {word:#x} was read");
        }
        // Any exit of another kind ends the row.
        let _ = port::read_u8(0x80);
    }
    pass!("10 rows of {row} accesses to nothing");
}
