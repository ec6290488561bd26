//! Interrupts: from what raises one to the handler, its EOI and IRET; and from when a timer is due to its handler.

use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::measure::{Report, timed};
use guest::apic::{self, register};
use guest::{acpi, check, cpu, port, trap};

const VECTOR: u8 = 0x50;
const TIMER_VECTOR: u8 = 0x51;
/// How far ahead the timer is armed, in TSC ticks: far enough to be back in the guest by then.
const AHEAD: u64 = 20_000;

const UART_INTERRUPTS: u16 = 0x3F9;
const UART_IRQ: u8 = 4;
const CPUID_TSC_DEADLINE: u32 = 1 << 24;

/// Interrupts handled.
static COUNT: AtomicU32 = AtomicU32::new(0);
/// The TSC at which the timer is due.
static DEADLINE: AtomicU64 = AtomicU64::new(0);
/// How late its handler was entered.
static LATE: AtomicU32 = AtomicU32::new(0);

/// Measures them. The APIC is in x2APIC mode, interrupts are off before and after.
pub(crate) fn measure(report: &mut Report) {
    // SAFETY: both handlers keep all registers and end by IRETQ; these vectors have no error code.
    unsafe {
        trap::set_gate(VECTOR, Some(handle));
        trap::set_gate(TIMER_VECTOR, Some(handle_timer));
    }
    cpu::enable_interrupts();
    by_msr(report, "x2apic-self-ipi", register::SELF_IPI, u32::from(VECTOR));
    by_msr(report, "x2apic-icr-self", register::ICR_LOW, apic::ICR_SELF | apic::ICR_ASSERT | u32::from(VECTOR));
    by_uart(report);
    cpu::disable_interrupts();
    if cpu::cpuid(1, 0).ecx & CPUID_TSC_DEADLINE != 0 {
        timer(report);
    }
}

/// From the WRMSR that sends an interrupt to this processor until its handler is through.
fn by_msr(report: &mut Report, name: &'static str, register: u16, value: u32) {
    report.row(name, || {
        // SAFETY: the vector has a handler, which raises the count.
        unsafe {
            timed!(
                ["mov eax, r9d", "xor edx, edx", "wrmsr", "2:", "cmp r10d, dword ptr [rip + {count}]", "je 2b"];
                count = sym COUNT, in("ecx") apic::x2apic_msr(register), in("r9d") value, in("r10d") COUNT.load(Relaxed)
            )
        }
    });
}

/// From the OUT that makes the UART raise its interrupt until the handler is through: the way of any device's interrupt,
/// through the IOAPIC. The transmitter is empty, so the interrupt comes when it is enabled.
fn by_uart(report: &mut Report) {
    let (pin, how) = acpi::isa_interrupt(UART_IRQ);
    apic::ioapic_write(0x10 + 2 * pin + 1, apic::own_id() << 24);
    apic::ioapic_write(0x10 + 2 * pin, how | u32::from(VECTOR));
    report.row("uart-interrupt", || {
        port::write_u8(UART_INTERRUPTS, 0);
        // SAFETY: the vector has a handler, which raises the count.
        unsafe {
            timed!(
                ["mov edx, r9d", "mov eax, 2", "out dx, al", "2:", "cmp r10d, dword ptr [rip + {count}]", "je 2b"];
                count = sym COUNT, in("r9d") u32::from(UART_INTERRUPTS), in("r10d") COUNT.load(Relaxed)
            )
        }
    });
    port::write_u8(UART_INTERRUPTS, 0);
    apic::ioapic_write(0x10 + 2 * pin, apic::MASKED);
}

/// Arming the timer, and how late its handler comes with the guest spinning, and halted.
fn timer(report: &mut Report) {
    apic::write(register::LVT_TIMER, u32::from(TIMER_VECTOR) | apic::TIMER_TSC_DEADLINE);
    report.row("wrmsr-tsc-deadline", || {
        let [low, high] = halves(cpu::read_tsc() + (1 << 32));
        // SAFETY: it is not due for as long as it stays armed.
        unsafe {
            timed!(["mov eax, r9d", "mov edx, r10d", "wrmsr"];
                in("ecx") apic::TSC_DEADLINE_MSR, in("r9d") low, in("r10d") high)
        }
    });
    report.row_without_marks("timer-spinning", || {
        let before = arm();
        cpu::enable_interrupts();
        // SAFETY: the timer's handler raises the count.
        unsafe {
            asm!("2:", "cmp {before:e}, dword ptr [rip + {count}]", "je 2b", before = in(reg) before, count = sym COUNT);
        }
        cpu::disable_interrupts();
        LATE.load(Relaxed)
    });
    report.row_without_marks("timer-halted", || {
        let before = arm();
        cpu::halt_until(|| COUNT.load(Relaxed) != before);
        LATE.load(Relaxed)
    });
    check!(COUNT.load(Relaxed) != 0, "no interrupt was handled");
}

/// Arms the timer; gives the count of interrupts until then.
fn arm() -> u32 {
    let deadline = cpu::read_tsc() + AHEAD;
    DEADLINE.store(deadline, Relaxed);
    // SAFETY: the timer's vector has a handler.
    unsafe { cpu::write_msr(apic::TSC_DEADLINE_MSR, deadline) };
    COUNT.load(Relaxed)
}

/// The low and the high half.
fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// What a handler does at least: keeps the registers that a function may change, counts, and ends the interrupt.
#[unsafe(naked)]
extern "C" fn handle() {
    naked_asm!(
        "push rax; push rcx; push rdx; push rsi; push rdi; push r8; push r9; push r10; push r11",
        "inc dword ptr [rip + {count}]",
        "mov ecx, {eoi}",
        "xor eax, eax",
        "xor edx, edx",
        "wrmsr",
        "pop r11; pop r10; pop r9; pop r8; pop rdi; pop rsi; pop rdx; pop rcx; pop rax",
        "iretq",
        count = sym COUNT,
        eoi = const apic::x2apic_msr(register::EOI),
    );
}

/// Notes how late it is, first of all.
#[unsafe(naked)]
extern "C" fn handle_timer() {
    naked_asm!(
        "push rax; push rcx; push rdx",
        "rdtsc",
        "sub eax, dword ptr [rip + {deadline}]",
        "mov dword ptr [rip + {late}], eax",
        "inc dword ptr [rip + {count}]",
        "mov ecx, {eoi}",
        "xor eax, eax",
        "xor edx, edx",
        "wrmsr",
        "pop rdx; pop rcx; pop rax",
        "iretq",
        deadline = sym DEADLINE,
        late = sym LATE,
        count = sym COUNT,
        eoi = const apic::x2apic_msr(register::EOI),
    );
}
