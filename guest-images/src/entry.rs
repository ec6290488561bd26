//! From the loader's 32-bit flat protected mode to `rust_start` in long mode.
//!
//! The same entry serves PVH (EBX = physical address of `hvm_start_info`) and multiboot 1
//! (EAX = 0x2BADB002, EBX = physical address of the multiboot information). The story:
//! 1. keep EAX and EBX, take our own stack;
//! 2. build identity page tables for 4 GiB with 2 MiB pages (the loader gives us zeroed BSS);
//! 3. CR4.PAE, CR3, EFER.LME, CR0.PG: compatibility mode;
//! 4. load our GDT and jump far into 64-bit code;
//! 5. call `rust_start(magic, info)`, which never returns.

use core::arch::global_asm;

global_asm!(
    ".pushsection .text.guest_entry,\"ax\",@progbits",
    ".code32",
    ".global guest_start32",
    "guest_start32:",
    "    cli",
    "    cld",
    "    mov esp, offset guest_stack_top",
    "    mov ebp, eax",
    "    sgdt [guest_loader_gdt]",
    // PML4[0] -> PDPT, PDPT[0..4] -> four page directories of 512 entries.
    "    mov eax, offset guest_page_tables",
    "    lea ecx, [eax + 0x1003]",
    "    mov dword ptr [eax], ecx",
    "    lea ecx, [eax + 0x2003]",
    "    mov dword ptr [eax + 0x1000], ecx",
    "    add ecx, 0x1000",
    "    mov dword ptr [eax + 0x1008], ecx",
    "    add ecx, 0x1000",
    "    mov dword ptr [eax + 0x1010], ecx",
    "    add ecx, 0x1000",
    "    mov dword ptr [eax + 0x1018], ecx",
    "    lea edi, [eax + 0x2000]",
    "    mov edx, 0x83", // present, writable, 2 MiB page
    "    mov ecx, 2048",
    "2:",
    "    mov dword ptr [edi], edx",
    "    add edx, 0x200000",
    "    add edi, 8",
    "    dec ecx",
    "    jnz 2b",
    "    mov cr3, eax",
    "    mov eax, cr4",
    "    or eax, 0x20", // PAE
    "    mov cr4, eax",
    "    mov ecx, 0xC0000080",
    "    rdmsr",
    "    or eax, 0x100", // EFER.LME
    "    wrmsr",
    "    mov eax, cr0",
    "    or eax, 0x80010021", // PG, WP, NE, PE
    "    and eax, 0x9FFFFFFF", // not CD, not NW
    "    mov cr0, eax",
    "    lgdt [guest_gdt_pointer]",
    "    push 0x08",
    "    mov eax, offset guest_start64",
    "    push eax",
    "    retf",
    ".code64",
    "guest_start64:",
    "    mov ax, 0x10",
    "    mov ds, ax",
    "    mov es, ax",
    "    mov ss, ax",
    "    xor eax, eax",
    "    mov fs, ax",
    "    mov gs, ax",
    "    lea rsp, [rip + guest_stack_top]",
    "    mov edi, ebp",
    "    mov esi, ebx",
    "    xor ebp, ebp",
    "    call {rust_start}",
    "    ud2",
    ".popsection",
    ".pushsection .data.guest_gdt,\"aw\",@progbits",
    ".balign 8",
    // The other processors start with it too.
    ".global guest_gdt, guest_gdt_end",
    "guest_gdt:",
    "    .quad 0",
    "    .quad 0x00AF9B000000FFFF", // 0x08: 64-bit code
    "    .quad 0x00CF93000000FFFF", // 0x10: data
    "    .quad 0x00CF9B000000FFFF", // 0x18: 32-bit code
    "guest_gdt_end:",
    "guest_gdt_pointer:",
    "    .word guest_gdt_end - guest_gdt - 1",
    "    .quad guest_gdt",
    ".popsection",
    ".pushsection .bss.guest_boot,\"aw\",@nobits",
    ".balign 4096",
    ".global guest_page_tables",
    "guest_page_tables:",
    "    .skip 6 * 4096",
    "guest_stack:",
    "    .skip 16 * 4096",
    "guest_stack_top:",
    // The loader's GDTR: limit and 32-bit base.
    ".global guest_loader_gdt",
    "guest_loader_gdt:",
    "    .skip 8",
    ".popsection",
    rust_start = sym crate::rust_start,
);
