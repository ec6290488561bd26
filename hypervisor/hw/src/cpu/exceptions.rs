//! Exceptions of the hypervisor itself, and the entry stubs of its interrupts.
//!
//! An exception in the hypervisor is our bug or broken hardware: the hook that the kernel sets prints the epitaph.
//! One stub per vector pushes the vector (and a zero where the CPU pushes no error code), the common part saves
//! the registers and calls [`trap`].

use super::gdt::{DOUBLE_FAULT_IST, MACHINE_CHECK_IST, NMI_IST};
use super::interrupts;
use alloc::boxed::Box;
use core::arch::naked_asm;
use core::sync::atomic::{AtomicUsize, Ordering};
use spin::Once;
use x86_64::VirtAddr;
use x86_64::structures::idt::InterruptDescriptorTable;

/// The registers at an exception of the hypervisor, as the common stub leaves them on the stack.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are the manual's register names")]
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

/// The table of all CPUs.
static IDT: Once<&'static InterruptDescriptorTable> = Once::new();
static EXCEPTION_HOOK: AtomicUsize = AtomicUsize::new(0);

/// Sets what is called for an exception of the hypervisor: it tells and does not return. The second argument is CR2.
pub fn set_exception_hook(hook: fn(&TrapFrame, u64) -> !) {
    EXCEPTION_HOOK.store(hook as usize, Ordering::Release);
}

/// Every trap of the hypervisor comes here.
extern "C" fn trap(frame: &TrapFrame) {
    const NMI: u64 = 2;
    match frame.vector {
        NMI => interrupts::nmi(),
        vector if vector >= 32 => interrupts::acknowledge(vector as u8),
        _ => {
            let hook = EXCEPTION_HOOK.load(Ordering::Acquire);
            let cr2 = x86_64::registers::control::Cr2::read_raw();
            if hook != 0 {
                // SAFETY: the only non-zero value ever stored is a `fn(&TrapFrame, u64) -> !`, in `set_exception_hook`.
                let hook: fn(&TrapFrame, u64) -> ! = unsafe { core::mem::transmute(hook) };
                hook(frame, cr2);
            }
            panic!("exception {} at {:#x}, error code {:#x}, CR2 {cr2:#x}", frame.vector, frame.rip, frame.error_code);
        }
    }
}

#[unsafe(naked)]
extern "C" fn common() {
    naked_asm!(
        "push rax", "push rbx", "push rcx", "push rdx", "push rsi", "push rdi", "push rbp",
        "push r8", "push r9", "push r10", "push r11", "push r12", "push r13", "push r14", "push r15",
        "cld",
        "mov rdi, rsp",
        // The CPU aligned RSP to 16 bytes before its five pushes; with ours that makes 22 of 8 bytes: aligned.
        "call {trap}",
        "pop r15", "pop r14", "pop r13", "pop r12", "pop r11", "pop r10", "pop r9", "pop r8",
        "pop rbp", "pop rdi", "pop rsi", "pop rdx", "pop rcx", "pop rbx", "pop rax",
        "add rsp, 16", // vector and error code
        "iretq",
        trap = sym trap,
    )
}

macro_rules! stub {
    ($vector:literal, without_error_code) => {{
        #[unsafe(naked)]
        extern "C" fn stub() {
            naked_asm!("push 0", concat!("push ", $vector), "jmp {common}", common = sym common)
        }
        stub as extern "C" fn() as usize as u64
    }};
    ($vector:literal, with_error_code) => {{
        #[unsafe(naked)]
        extern "C" fn stub() {
            naked_asm!(concat!("push ", $vector), "jmp {common}", common = sym common)
        }
        stub as extern "C" fn() as usize as u64
    }};
}

/// Loads the IDT, which all CPUs share: the first one builds it.
pub(super) fn load_idt() {
    IDT.call_once(build_idt).load();
}

fn build_idt() -> &'static InterruptDescriptorTable {
    let idt = Box::leak(Box::new(InterruptDescriptorTable::new()));
    macro_rules! set {
        ($entry:expr, $vector:literal, $kind:ident) => {
            // SAFETY: the stub for this vector pushes what `TrapFrame` expects for its kind, and returns by IRET.
            unsafe { $entry.set_handler_addr(VirtAddr::new(stub!($vector, $kind))) }
        };
    }
    set!(idt.divide_error, 0, without_error_code);
    set!(idt.debug, 1, without_error_code);
    let nmi = set!(idt.non_maskable_interrupt, 2, without_error_code);
    // SAFETY: this IST entry is, in every CPU's TSS, a mapped stack that only this vector uses.
    unsafe { nmi.set_stack_index(NMI_IST) };
    set!(idt.breakpoint, 3, without_error_code);
    set!(idt.overflow, 4, without_error_code);
    set!(idt.bound_range_exceeded, 5, without_error_code);
    set!(idt.invalid_opcode, 6, without_error_code);
    set!(idt.device_not_available, 7, without_error_code);
    let double_fault = set!(idt.double_fault, 8, with_error_code);
    // SAFETY: as above.
    unsafe { double_fault.set_stack_index(DOUBLE_FAULT_IST) };
    set!(idt.invalid_tss, 10, with_error_code);
    set!(idt.segment_not_present, 11, with_error_code);
    set!(idt.stack_segment_fault, 12, with_error_code);
    set!(idt.general_protection_fault, 13, with_error_code);
    set!(idt.page_fault, 14, with_error_code);
    set!(idt.x87_floating_point, 16, without_error_code);
    set!(idt.alignment_check, 17, with_error_code);
    let machine_check = set!(idt.machine_check, 18, without_error_code);
    // SAFETY: as above.
    unsafe { machine_check.set_stack_index(MACHINE_CHECK_IST) };
    set!(idt.simd_floating_point, 19, without_error_code);
    set!(idt.virtualization, 20, without_error_code);
    set!(idt.cp_protection_exception, 21, with_error_code);
    // Without a gate an unexpected interrupt would be a #NP of the hypervisor.
    for vector in 32..=u8::MAX {
        set!(idt[vector], 0xe3, without_error_code);
    }
    const _: () = assert!(interrupts::UNEXPECTED_VECTOR == 0xe3);
    set!(idt[super::TIMER_VECTOR], 0xe0, without_error_code);
    set!(idt[super::SERIAL_VECTOR], 0xe1, without_error_code);
    set!(idt[super::ERROR_VECTOR], 0xe2, without_error_code);
    set!(idt[super::KICK_VECTOR], 0xe4, without_error_code);
    set!(idt[super::SPURIOUS_VECTOR], 0xff, without_error_code);
    idt
}
