//! The world switch.
//!
//! `enter` is the whole way into a guest and back:
//! 1. save the host's callee-saved registers and the pointer to the guest's registers on the stack;
//! 2. make sure HOST_RSP is this stack position (written only when it changed: a VMWRITE is dear on hardware);
//! 3. load the guest's general-purpose registers, and VMLAUNCH or VMRESUME; before, VERW where buffers are to be overwritten;
//! 4. if the entry failed, the next instruction runs: take CF and ZF at once;
//! 5. on a VM exit the CPU loads HOST_RSP and continues at `exit`: store the guest's registers through the saved pointer;
//! 6. before the first indirect branch or return: what `cpu::speculation` wants, and no value of the guest's in a general-purpose register;
//! 7. restore the host's callee-saved registers and return 0 (exit), 1 (VMfailInvalid) or 2 (VMfailValid).
//!
//! RSP, RIP, RFLAGS, segments and control registers are switched by the CPU through the VMCS; RFLAGS after an exit is 2,
//! so interrupts are off and the direction flag is clear as the ABI wants it.

use crate::cpu::speculation::{AFTER_EXIT, SPEC_CTRL_VALUE, VERW_BEFORE_ENTRY, VERW_SELECTOR};
use core::arch::naked_asm;
use core::mem::offset_of;
use lamina_core::vmx::HostField;
use lamina_core::x86::Gprs;

/// Runs the guest of the current VMCS until its next VM exit.
///
/// # Safety
/// A fully programmed VMCS must be current on this CPU: launched if and only if `launched`, its host state this CPU's,
/// HOST_RIP = [`exit_address`]. `host_rsp` must hold the value of the VMCS's HOST_RSP field (or 0).
#[unsafe(naked)]
pub(super) unsafe extern "C" fn enter(gprs: *mut Gprs, launched: bool, host_rsp: *mut u64) -> u64 {
    naked_asm!(
        "push rbp", "push rbx", "push r12", "push r13", "push r14", "push r15",
        "push rdi",
        "cmp [rdx], rsp",
        "je 2f",
        "mov eax, {host_rsp_field}",
        "vmwrite rax, rsp",
        "jbe 4f", // no current VMCS: CF or ZF
        "mov [rdx], rsp",
        "2:",
        "cmp byte ptr [rip + {verw_before_entry}], 0",
        "je 6f",
        "verw word ptr [rip + {verw_selector}]", // changes ZF
        "6:",
        "test sil, sil", // ZF for the choice below; MOV leaves flags alone
        "mov rax, [rdi + {rax}]", "mov rcx, [rdi + {rcx}]", "mov rdx, [rdi + {rdx}]", "mov rbx, [rdi + {rbx}]",
        "mov rbp, [rdi + {rbp}]", "mov rsi, [rdi + {rsi}]",
        "mov r8, [rdi + {r8}]", "mov r9, [rdi + {r9}]", "mov r10, [rdi + {r10}]", "mov r11, [rdi + {r11}]",
        "mov r12, [rdi + {r12}]", "mov r13, [rdi + {r13}]", "mov r14, [rdi + {r14}]", "mov r15, [rdi + {r15}]",
        "mov rdi, [rdi + {rdi}]",
        "jz 3f",
        "vmresume",
        "jmp 4f",
        "3:",
        "vmlaunch",
        "4:", // still here: the entry failed
        "mov eax, 1",
        "mov ecx, 2",
        "cmovz eax, ecx",
        "pop rdi",
        "jmp 5f",
        ".globl lamina_vm_exit",
        "lamina_vm_exit:",
        "push rdi",
        "mov rdi, [rsp + 8]",
        "mov [rdi + {rax}], rax", "mov [rdi + {rcx}], rcx", "mov [rdi + {rdx}], rdx", "mov [rdi + {rbx}], rbx",
        "mov [rdi + {rbp}], rbp", "mov [rdi + {rsi}], rsi",
        "mov [rdi + {r8}], r8", "mov [rdi + {r9}], r9", "mov [rdi + {r10}], r10", "mov [rdi + {r11}], r11",
        "mov [rdi + {r12}], r12", "mov [rdi + {r13}], r13", "mov [rdi + {r14}], r14", "mov [rdi + {r15}], r15",
        "pop rax",
        "mov [rdi + {rdi}], rax",
        "pop rdi",
        "cmp byte ptr [rip + {after_exit}], 0",
        "je 9f",
        "test byte ptr [rip + {after_exit}], 2",
        "jz 7f",
        "mov ecx, 0x48", // IA32_SPEC_CTRL
        "mov eax, [rip + {spec_ctrl}]",
        "xor edx, edx",
        "wrmsr",
        "7:",
        "test byte ptr [rip + {after_exit}], 1",
        "jz 9f",
        // 32 calls fill the return stack buffer; what a CPU makes up after one of them waits in its loop.
        ".rept 32",
        "call 32f",
        "31: pause", "lfence", "jmp 31b",
        "32:",
        ".endr",
        "add rsp, 32 * 8",
        "9:",
        "xor eax, eax", "xor ecx, ecx", "xor edx, edx", "xor esi, esi", "xor edi, edi",
        "xor r8d, r8d", "xor r9d, r9d", "xor r10d, r10d", "xor r11d, r11d",
        "5:",
        "pop r15", "pop r14", "pop r13", "pop r12", "pop rbx", "pop rbp",
        "ret",
        host_rsp_field = const HostField::Rsp.encoding(),
        verw_before_entry = sym VERW_BEFORE_ENTRY, verw_selector = sym VERW_SELECTOR,
        after_exit = sym AFTER_EXIT, spec_ctrl = sym SPEC_CTRL_VALUE,
        rax = const offset_of!(Gprs, rax), rcx = const offset_of!(Gprs, rcx), rdx = const offset_of!(Gprs, rdx),
        rbx = const offset_of!(Gprs, rbx), rbp = const offset_of!(Gprs, rbp), rsi = const offset_of!(Gprs, rsi),
        rdi = const offset_of!(Gprs, rdi), r8 = const offset_of!(Gprs, r8), r9 = const offset_of!(Gprs, r9),
        r10 = const offset_of!(Gprs, r10), r11 = const offset_of!(Gprs, r11), r12 = const offset_of!(Gprs, r12),
        r13 = const offset_of!(Gprs, r13), r14 = const offset_of!(Gprs, r14), r15 = const offset_of!(Gprs, r15),
    )
}

unsafe extern "C" {
    safe fn lamina_vm_exit();
}

/// The linear address where the CPU continues after a VM exit, for HOST_RIP.
pub(super) fn exit_address() -> u64 {
    lamina_vm_exit as *const () as u64
}
