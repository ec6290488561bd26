//! The other processors: found by the MADT, started by INIT-SIPI-SIPI. The story of a start:
//! 1. [`start`] has copied the trampoline to a page below 1 MiB and sends INIT, then SIPI twice;
//! 2. the processor begins in real mode at that page, loads our GDT, and jumps into flat 32-bit code of the image;
//! 3. PAE, our page tables, EFER.LME, paging: long mode, as in `entry.rs`;
//! 4. its initial APIC ID gives its index, and that its stack;
//! 5. `rust_ap_start` loads the IDT and calls what [`start`] was given, with interrupts off.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use crate::apic::{self, ICR_ASSERT, ICR_INIT, ICR_LEVEL, ICR_STARTUP};
use crate::{acpi, boot_info, clock, cpu, ram, trap};

/// The most processors that a kernel uses.
pub const MAX_CPUS: usize = 64;

const STACK_SIZE: usize = 16 << 10;

/// How long a processor may take to start, in seconds of guest time. Others may hold the CPU meanwhile.
const START_LIMIT_S: u64 = 20;

#[repr(C, align(4096))]
struct Stacks(UnsafeCell<[[u8; STACK_SIZE]; MAX_CPUS]>);
// SAFETY: only the processor whose index it is uses a stack.
unsafe impl Sync for Stacks {}

/// The first stack is spare: the bootstrap processor has its own.
static STACKS: Stacks = Stacks(UnsafeCell::new([[0; STACK_SIZE]; MAX_CPUS]));
/// The index of the processor with an APIC ID.
static INDEX_OF_APIC: [AtomicU8; 256] = [const { AtomicU8::new(0) }; 256];
static APIC_IDS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
static STARTS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
static MAIN: AtomicUsize = AtomicUsize::new(0);

/// What a started processor runs, with its index; it may not return.
pub type Main = fn(usize) -> !;

/// Reads the MADT. Gives the number of processors; the one that runs has index 0, the others follow in the MADT's order.
pub fn find() -> usize {
    let own = apic::own_id();
    APIC_IDS[0].store(own, Relaxed);
    let mut count = 1;
    let mut own_seen = false;
    for id in acpi::processors() {
        if id == own && !own_seen {
            own_seen = true;
            continue;
        }
        let Some(place) = INDEX_OF_APIC.get(id as usize) else {
            crate::fail!("the MADT has a processor with APIC ID {id}: none above 255 is supported");
        };
        if count == MAX_CPUS || id == own || place.load(Relaxed) != 0 {
            crate::fail!("the MADT has more than {MAX_CPUS} processors, or APIC ID {id} twice");
        }
        place.store(count as u8, Relaxed);
        APIC_IDS[count].store(id, Relaxed);
        count += 1;
    }
    if !own_seen {
        crate::fail!("the MADT does not have this processor, APIC ID {own}");
    }
    count
}

/// The APIC ID of the processor with this index.
#[must_use]
pub fn apic_id(index: usize) -> u32 {
    APIC_IDS[index].load(Relaxed)
}

/// The index of the processor that asks, by its local APIC's ID.
#[must_use]
pub fn current() -> usize {
    INDEX_OF_APIC.get(apic::own_id() as usize).map_or(0, |index| usize::from(index.load(Relaxed)))
}

/// How often the processor with this index has come up.
#[must_use]
pub fn starts(index: usize) -> u32 {
    STARTS[index].load(SeqCst)
}

/// Starts one processor by INIT-SIPI-SIPI and waits until it runs `main`.
pub fn start(index: usize, main: Main) {
    send_init(index);
    wait_us(10_000);
    start_after_init(index, main);
}

/// Sends INIT: the processor waits for a SIPI from then on.
pub fn send_init(index: usize) {
    apic::send_ipi(apic_id(index), ICR_INIT | ICR_LEVEL | ICR_ASSERT);
    apic::send_ipi(apic_id(index), ICR_INIT | ICR_LEVEL);
}

/// Sends two SIPIs to a processor that waits for one, and waits until it runs `main`.
pub fn start_after_init(index: usize, main: Main) {
    let before = starts(index);
    send_sipi(index, main);
    wait_us(200);
    send_sipi(index, main);
    let begin = cpu::read_tsc();
    while starts(index) == before {
        if cpu::read_tsc() - begin > START_LIMIT_S * clock::tsc_hz() {
            crate::fail!("CPU {index} (APIC ID {}) does not start by INIT-SIPI-SIPI", apic_id(index));
        }
        core::hint::spin_loop();
    }
}

/// Sends one SIPI.
pub fn send_sipi(index: usize, main: Main) {
    MAIN.store(main as usize, SeqCst);
    apic::send_ipi(apic_id(index), ICR_STARTUP | ICR_ASSERT | u32::from(trampoline_page()));
}

/// Waits by the TSC.
pub fn wait_us(us: u64) {
    let (begin, ticks) = (cpu::read_tsc(), us * clock::tsc_hz() / 1_000_000);
    while cpu::read_tsc() - begin < ticks {
        core::hint::spin_loop();
    }
}

unsafe extern "C" {
    static guest_ap_trampoline: u8;
    static guest_ap_trampoline_end: u8;
}

/// The number of the page that the trampoline is in; the first call copies it there.
fn trampoline_page() -> u8 {
    static PAGE: AtomicU8 = AtomicU8::new(0);
    let page = PAGE.load(Relaxed);
    if page != 0 {
        return page;
    }
    let kept = ram::kept();
    // Page 0 stays what firmware made it.
    let free = ram::regions()
        .flat_map(|region| ram::pages(region, &kept))
        .find(|address| (0x1000..0xA_0000).contains(address));
    let Some(address) = free else {
        crate::fail!("no RAM below 640 KiB for the trampoline: loader {:?}", boot_info::loader());
    };
    let source = &raw const guest_ap_trampoline;
    let len = &raw const guest_ap_trampoline_end as usize - source as usize;
    // SAFETY: the page is RAM that holds nothing we need, and the trampoline is shorter than a page.
    unsafe { core::ptr::copy_nonoverlapping(source, address as *mut u8, len) };
    let page = (address >> 12) as u8;
    PAGE.store(page, SeqCst);
    page
}

/// The first Rust code of a started processor.
extern "C" fn rust_ap_start(index: usize) -> ! {
    trap::load();
    STARTS[index].fetch_add(1, SeqCst);
    // SAFETY: only `send_sipi` stores into MAIN, and it stores a `Main`, before it sends.
    let main = unsafe { core::mem::transmute::<usize, Main>(MAIN.load(SeqCst)) };
    main(index)
}

global_asm!(
    ".pushsection .text.guest_ap,\"ax\",@progbits",
    ".balign 16",
    ".code16",
    "guest_ap_trampoline:",
    "    cli",
    "    cld",
    "    movw %cs, %ax",
    "    movw %ax, %ds",
    "    lgdtl guest_ap_gdt_pointer - guest_ap_trampoline",
    "    movl %cr0, %eax",
    "    orl $1, %eax", // PE
    "    movl %eax, %cr0",
    "    ljmpl $0x18, $guest_ap_start32",
    "guest_ap_gdt_pointer:",
    "    .word guest_gdt_end - guest_gdt - 1",
    "    .long guest_gdt",
    "guest_ap_trampoline_end:",
    ".code32",
    "guest_ap_start32:",
    "    movw $0x10, %ax",
    "    movw %ax, %ds",
    "    movw %ax, %es",
    "    movw %ax, %ss",
    "    movl %cr4, %eax",
    "    orl $0x20, %eax", // PAE
    "    movl %eax, %cr4",
    "    movl $guest_page_tables, %eax",
    "    movl %eax, %cr3",
    "    movl $0xC0000080, %ecx",
    "    rdmsr",
    "    orl $0x100, %eax", // EFER.LME
    "    wrmsr",
    "    movl %cr0, %eax",
    "    orl $0x80010021, %eax",  // PG, WP, NE, PE
    "    andl $0x9FFFFFFF, %eax", // not CD, not NW
    "    movl %eax, %cr0",
    "    ljmpl $0x08, $guest_ap_start64",
    ".code64",
    "guest_ap_start64:",
    "    movw $0x10, %ax",
    "    movw %ax, %ds",
    "    movw %ax, %es",
    "    movw %ax, %ss",
    "    xorl %eax, %eax",
    "    movw %ax, %fs",
    "    movw %ax, %gs",
    // CPUID.01H:EBX[31:24]: the initial APIC ID.
    "    movl $1, %eax",
    "    cpuid",
    "    shrl $24, %ebx",
    "    leaq {index_of_apic}(%rip), %rax",
    "    movzbl (%rax,%rbx), %edi",
    "    leal 1(%edi), %eax",
    "    imulq ${stack_size}, %rax, %rax",
    "    leaq {stacks}(%rip), %rsp",
    "    addq %rax, %rsp",
    "    xorl %ebp, %ebp",
    "    call {rust_ap_start}",
    "    ud2",
    ".popsection",
    index_of_apic = sym INDEX_OF_APIC,
    stacks = sym STACKS,
    stack_size = const STACK_SIZE,
    rust_ap_start = sym rust_ap_start,
    options(att_syntax),
);
