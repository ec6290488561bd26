//! The local APIC from end to end, with one CPU: xAPIC, then x2APIC, disabled, and enabled again. Self-IPIs, the task
//! priority and CR8, priorities and nesting, EOI, logical and broadcast destinations, NMI by ICR, INIT and SIPI to
//! nobody, illegal vectors, the mode transitions of IA32_APIC_BASE, and the IOAPIC with the PIT on pin 2.
//! Expected: `verdict: pass apic: ...`.
#![no_std]
#![no_main]

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::Relaxed};
use guest::apic::{
    self, APIC_BASE_MSR, BASE_ENABLE, BASE_X2APIC, ICR_ASSERT, ICR_INIT, ICR_LEVEL, ICR_LOGICAL, ICR_OTHERS,
    ICR_PENDING, ICR_SELF, ICR_STARTUP, own_id, register, send_ipi,
};
use guest::trap::{Exception, TrapFrame};
use guest::{check, clock, cpu, guest_main, pass, pic, println, trap};

guest_main!(main);

/// No APIC sends or takes vectors 0 to 15.
const ILLEGAL: u8 = 5;
const LOW: u8 = 0x51;
const NESTING: u8 = 0x61;
const HIGH: u8 = 0x81;
const IOAPIC_VECTOR: u8 = 0x45;
const TIMER_VECTOR: u8 = 0x46;
const NMI: u8 = 2;
/// What the nesting handler logs when it goes on after having let others in.
const NESTED_BACK: u8 = 1;

/// The vectors that arrived, in order.
static LOG: [AtomicU8; 16] = [const { AtomicU8::new(0) }; 16];
static LOG_LEN: AtomicUsize = AtomicUsize::new(0);
/// The next NMI's handler halts.
static NMI_HALTS: AtomicBool = AtomicBool::new(false);

fn log(vector: u8) {
    let index = LOG_LEN.fetch_add(1, Relaxed);
    if let Some(slot) = LOG.get(index) {
        slot.store(vector, Relaxed);
    }
}

/// Lets pending interrupts in, and gives what arrived since the last call.
fn arrived() -> ([u8; 16], usize) {
    cpu::enable_interrupts();
    for _ in 0..100 {
        core::hint::spin_loop();
    }
    cpu::disable_interrupts();
    let len = LOG_LEN.swap(0, Relaxed);
    (core::array::from_fn(|index| if index < len { LOG[index].load(Relaxed) } else { 0 }), len)
}

/// Checks that exactly these vectors arrived, in this order.
fn expect(what: &str, expected: &[u8]) {
    let (log, len) = arrived();
    let log = &log[..len.min(16)];
    check!(log == expected, "{what}: vectors {log:x?} arrived instead of {expected:x?}");
}

fn on_interrupt(frame: &mut TrapFrame) {
    log(frame.vector as u8);
    apic::end_of_interrupt();
}

fn on_nmi(_: &mut TrapFrame) {
    log(NMI);
    if NMI_HALTS.swap(false, Relaxed) {
        halt_with_an_nmi_pending();
    }
}

/// "Handling Multiple NMIs": another one waits until the handler's IRET, and does not end its HLT. The timer's interrupt does,
/// whose own IRET lets the NMI in.
fn halt_with_an_nmi_pending() {
    apic::write(register::LVT_TIMER, u32::from(TIMER_VECTOR));
    apic::write(register::INITIAL_COUNT, (clock::apic_timer_hz() / 1000) as u32);
    send_ipi(own_id(), apic::DELIVERY_NMI | ICR_ASSERT);
    // SAFETY: all that can come has a handler, and leaves the stack as it was.
    unsafe { asm!("sti", "hlt", "cli") };
    log(NESTED_BACK);
}

/// Sends one interrupt of lower and one of higher priority to itself: the higher one must come in at once.
fn on_nesting(_: &mut TrapFrame) {
    log(NESTING);
    check!(apic::vector_bit(register::ISR, NESTING), "the ISR bit of the vector in service is clear");
    let ppr = apic::read(register::PPR);
    check!(ppr == u32::from(NESTING & 0xF0), "the PPR is {ppr:#x} while vector {NESTING:#x} is in service");
    self_ipi(LOW);
    self_ipi(HIGH);
    cpu::enable_interrupts();
    for _ in 0..100 {
        core::hint::spin_loop();
    }
    cpu::disable_interrupts();
    log(NESTED_BACK);
    apic::end_of_interrupt();
}

fn main() {
    for vector in [ILLEGAL, LOW, HIGH, IOAPIC_VECTOR, TIMER_VECTOR] {
        trap::on(vector, on_interrupt);
    }
    trap::on(NESTING, on_nesting);
    trap::on(NMI, on_nmi);
    pic::init();
    check_reset_state(true);
    check_software_disabled();
    apic::enable();
    check_delivery("xAPIC");
    check_xapic_destinations();
    check_ioapic();
    const X2APIC: u32 = 1 << 21;
    if cpu::cpuid(1, 0).ecx & X2APIC != 0 {
        enter_x2apic();
        check_x2apic_registers();
        check_delivery("x2APIC");
        leave_x2apic();
    } else {
        println!("apic: no x2APIC");
        change_base(|base| base & !BASE_ENABLE, true);
    }
    check_disabled();
    change_base(|base| base | BASE_ENABLE, true);
    check_reset_state(false);
    apic::enable();
    check_delivery("xAPIC again");
    pass!("xAPIC, x2APIC, disabled and back");
}

/// SVR with the reset value's vector and the APIC software enable bit.
const SOFTWARE_ENABLED: u32 = 0x1FF;

/// "Local APIC State After Power-Up or Reset". At boot, PC firmware has left the bootstrap processor's in the MultiProcessor
/// Specification's "Virtual Wire Mode": software-enabled, LINT0 = ExtINT, LINT1 = NMI.
fn check_reset_state(virtual_wire: bool) {
    let (svr, lint1) = if virtual_wire { (SOFTWARE_ENABLED, 0x400) } else { (0xFF, apic::MASKED) };
    check!(!apic::is_x2apic(), "the APIC is in x2APIC mode");
    for (register, name, expected) in [
        (register::SVR, "SVR", svr),
        (register::TPR, "TPR", 0),
        (register::LDR, "LDR", 0),
        (register::DFR, "DFR", u32::MAX),
        (register::LVT_TIMER, "LVT timer", apic::MASKED),
        (register::LVT_LINT1, "LVT LINT1", lint1),
        (register::LVT_ERROR, "LVT error", apic::MASKED),
        (register::INITIAL_COUNT, "initial count", 0),
        (register::CURRENT_COUNT, "current count", 0),
        (register::DIVIDE, "divide configuration", 0),
    ] {
        let found = apic::read(register);
        check!(found == expected, "{name} is {found:#x} after reset instead of {expected:#x}");
    }
}

/// "The mask bits for all the LVT entries are set. Attempts to reset these bits will be ignored."
fn check_software_disabled() {
    apic::write(register::SVR, 0xFF);
    apic::write(register::LVT_TIMER, u32::from(TIMER_VECTOR));
    let lvt = apic::read(register::LVT_TIMER);
    check!(lvt == apic::MASKED | u32::from(TIMER_VECTOR), "the disabled APIC's LVT timer is {lvt:#x}");
}

/// What holds in every mode.
fn check_delivery(mode: &str) {
    println!("apic: {mode}");
    expect("nothing sent", &[]);
    self_ipi(LOW);
    check!(apic::vector_bit(register::IRR, LOW), "the IRR bit of a vector sent with IF = 0 is clear");
    expect("a self-IPI", &[LOW]);
    check!(!apic::vector_bit(register::IRR, LOW), "the IRR bit of a delivered vector is set");
    check!(!apic::vector_bit(register::ISR, LOW), "the ISR bit is set after EOI");
    self_ipi(LOW);
    self_ipi(LOW);
    expect("the same vector twice while it is pending", &[LOW]);
    self_ipi(LOW);
    self_ipi(HIGH);
    expect("priorities", &[HIGH, LOW]);
    self_ipi(NESTING);
    expect("nesting", &[NESTING, HIGH, NESTED_BACK, LOW]);
    check_task_priority();
    check_nmi();
    check_absent_processors();
    check_timer();
}

fn check_task_priority() {
    apic::write(register::TPR, 0x60);
    check!(cpu::read_cr8() == 6, "CR8 is {} with TPR 0x60", cpu::read_cr8());
    check!(apic::read(register::PPR) == 0x60, "the PPR is {:#x} with TPR 0x60", apic::read(register::PPR));
    self_ipi(LOW);
    expect("a self-IPI below the TPR", &[]);
    check!(apic::vector_bit(register::IRR, LOW), "the TPR drops an interrupt instead of holding it back");
    self_ipi(HIGH);
    expect("a self-IPI above the TPR", &[HIGH]);
    write_cr8(5);
    check!(apic::read(register::TPR) == 0x50, "the TPR is {:#x} with CR8 = 5", apic::read(register::TPR));
    expect("a self-IPI of the TPR's own class", &[]);
    write_cr8(4);
    expect("a self-IPI after CR8 was lowered", &[LOW]);
    apic::write(register::TPR, 0x50);
    self_ipi(LOW);
    expect("a self-IPI of the TPR's own class", &[]);
    apic::write(register::TPR, 0);
    expect("a self-IPI after the TPR was lowered", &[LOW]);
}

/// An NMI to itself arrives though IF = 0.
fn check_nmi() {
    send_ipi(own_id(), apic::DELIVERY_NMI | ICR_ASSERT);
    for _ in 0..100 {
        core::hint::spin_loop();
    }
    check!(LOG_LEN.load(Relaxed) == 1, "{} NMIs arrived with IF = 0, one was sent", LOG_LEN.load(Relaxed));
    expect("an NMI by ICR", &[NMI]);
    NMI_HALTS.store(true, Relaxed);
    send_ipi(own_id(), apic::DELIVERY_NMI | ICR_ASSERT);
    expect("an NMI while the handler of another is halted", &[NMI, TIMER_VECTOR, NMI, NESTED_BACK]);
}

/// INIT and SIPI to all but self, as a kernel for more CPUs sends them: nobody is there.
fn check_absent_processors() {
    for command in
        [ICR_INIT | ICR_LEVEL | ICR_ASSERT, ICR_INIT | ICR_LEVEL, ICR_STARTUP | 0x10, ICR_STARTUP | 0x10 | ICR_ASSERT]
    {
        send_ipi(0, ICR_OTHERS | command);
        check!(apic::read(register::ICR_LOW) & ICR_PENDING == 0, "the ICR stays at \"send pending\"");
    }
    send_ipi(0, ICR_OTHERS | ICR_ASSERT | u32::from(LOW));
    send_ipi(own_id() + 1, ICR_ASSERT | u32::from(LOW));
    expect("IPIs for other processors", &[]);
    // Vectors 0 to 15: "Send Illegal Vector" (5), or "Receive Illegal Vector" (6) where both ends are one APIC.
    apic::write(register::ESR, 0);
    send_ipi(0, ICR_SELF | ICR_ASSERT | u32::from(ILLEGAL));
    apic::write(register::ESR, 0);
    let errors = apic::read(register::ESR);
    check!(errors & 0x60 != 0, "the ESR is {errors:#x} after a self-IPI with vector 5");
    apic::write(register::ESR, 0);
    check!(apic::read(register::ESR) == 0, "the ESR does not clear");
    expect("an illegal vector", &[]);
}

fn check_timer() {
    apic::write(register::DIVIDE, apic::DIVIDE_BY_1);
    let count = (clock::apic_timer_hz() / 1000) as u32;
    apic::write(register::LVT_TIMER, u32::from(TIMER_VECTOR));
    apic::write(register::INITIAL_COUNT, count);
    cpu::halt_until(|| LOG_LEN.load(Relaxed) > 0);
    expect("a millisecond of the timer", &[TIMER_VECTOR]);
    check!(apic::read(register::CURRENT_COUNT) == 0, "the one-shot timer counts on after its interrupt");
    apic::write(register::LVT_TIMER, apic::MASKED);
}

/// The flat model: eight bits, one for each processor.
fn check_xapic_destinations() {
    apic::write(register::LDR, 0x0100_0000);
    send_ipi(0x01, ICR_LOGICAL | ICR_ASSERT | u32::from(LOW));
    expect("an IPI to its logical ID", &[LOW]);
    send_ipi(0x02, ICR_LOGICAL | ICR_ASSERT | u32::from(LOW));
    expect("an IPI to another logical ID", &[]);
    send_ipi(0x83, ICR_LOGICAL | ICR_ASSERT | u32::from(HIGH));
    expect("an IPI to a set of logical IDs", &[HIGH]);
    send_ipi(0xFF, ICR_ASSERT | u32::from(LOW));
    expect("an IPI to everybody", &[LOW]);
    apic::write(register::LDR, 0);
}

/// The PIT is on pin 2 of the IOAPIC, edge triggered.
fn check_ioapic() {
    apic::ioapic_write(0x10 + 2 * 2 + 1, own_id() << 24);
    apic::ioapic_write(0x10 + 2 * 2, u32::from(IOAPIC_VECTOR));
    pic::start_pit((pic::PIT_HZ / 200) as u16);
    cpu::halt_until(|| LOG_LEN.load(Relaxed) >= 3);
    apic::ioapic_write(0x10 + 2 * 2, apic::MASKED);
    let (log, len) = arrived();
    check!(log[..len.min(16)].iter().all(|&vector| vector == IOAPIC_VECTOR), "the PIT by IOAPIC gave {log:x?}");
    expect("a masked pin", &[]);
}

fn enter_x2apic() {
    let id = apic::read(register::ID) >> 24;
    apic::write(register::TPR, 0x30);
    change_base(|base| base | BASE_X2APIC, true);
    check!(apic::read(register::ID) == id, "the x2APIC ID is {}, the xAPIC ID was {id}", apic::read(register::ID));
    check!(apic::read(register::TPR) == 0x30, "the TPR is {:#x} in x2APIC mode", apic::read(register::TPR));
    apic::write(register::TPR, 0);
}

fn check_x2apic_registers() {
    let id = own_id();
    let ldr = apic::read(register::LDR);
    check!(ldr == (id >> 4) << 16 | 1 << (id & 0xF), "the x2APIC's LDR is {ldr:#x} for ID {id}");
    for (register, name) in [(register::DFR, "DFR"), (register::ICR_HIGH, "ICR high"), (0x0, "reserved register 0")] {
        let read = cpu::try_read_msr(apic::x2apic_msr(register));
        check!(is_gp(read), "RDMSR of {name} gave {read:x?} instead of #GP");
    }
    for (register, name) in [(register::EOI, "EOI"), (register::SELF_IPI, "SELF IPI")] {
        let read = cpu::try_read_msr(apic::x2apic_msr(register));
        check!(is_gp(read), "RDMSR of {name}, which is write-only, gave {read:x?} instead of #GP");
    }
    for (register, value, name) in [
        (register::LDR, 1, "LDR, which is read-only"),
        (register::ID, 0, "ID, which is read-only"),
        (register::EOI, 1, "EOI = 1"),
        (register::TPR, 0x100, "TPR with reserved bits"),
        (register::SVR, 1 << 32 | 0x1FF, "SVR with reserved bits"),
        (register::ESR, 1, "ESR = 1"),
    ] {
        // SAFETY: the write faults; if it does not, the guest fails for it.
        let written = unsafe { cpu::try_write_msr(apic::x2apic_msr(register), value) };
        check!(is_gp(written), "WRMSR of {name} gave {written:x?} instead of #GP");
    }
    change_base(|base| base & !BASE_X2APIC, false);
    // SAFETY: the vector has a handler.
    unsafe { cpu::write_msr(apic::x2apic_msr(register::SELF_IPI), u64::from(LOW)) };
    expect("SELF IPI", &[LOW]);
    send_ipi(1 << (id & 0xF) | (id >> 4) << 16, ICR_LOGICAL | ICR_ASSERT | u32::from(HIGH));
    expect("an IPI to its logical x2APIC ID", &[HIGH]);
    send_ipi(u32::MAX, ICR_ASSERT | u32::from(LOW));
    expect("an IPI to everybody", &[LOW]);
}

fn leave_x2apic() {
    change_base(|base| base & !(BASE_X2APIC | BASE_ENABLE), true);
    change_base(|base| base | BASE_X2APIC | BASE_ENABLE, false);
    change_base(|base| base | BASE_X2APIC, false);
}

/// With the APIC globally disabled CPUID hides it, and its MSRs raise #GP.
fn check_disabled() {
    const APIC: u32 = 1 << 9;
    check!(cpu::cpuid(1, 0).edx & APIC == 0, "CPUID shows the disabled APIC");
    let read = cpu::try_read_msr(apic::x2apic_msr(register::ID));
    check!(is_gp(read), "RDMSR of the disabled APIC's ID gave {read:x?} instead of #GP");
    expect("a disabled APIC", &[]);
}

/// Changes IA32_APIC_BASE; the CPU must take it or raise #GP.
fn change_base(change: impl Fn(u64) -> u64, legal: bool) {
    let base = cpu::read_msr(APIC_BASE_MSR);
    let value = change(base);
    // SAFETY: interrupts are off, and whatever the APIC sends has a gate.
    let written = unsafe { cpu::try_write_msr(APIC_BASE_MSR, value) };
    check!(
        if legal { written.is_ok() } else { is_gp(written) },
        "IA32_APIC_BASE from {base:#x} to {value:#x} gave {written:x?}, legal is {legal}"
    );
}

fn is_gp<T>(result: Result<T, Exception>) -> bool {
    matches!(result, Err(exception) if exception.vector == Exception::GP)
}

fn self_ipi(vector: u8) {
    send_ipi(0, ICR_SELF | ICR_ASSERT | u32::from(vector));
}

fn write_cr8(value: u64) {
    // SAFETY: CR8 only holds interrupts back.
    let written = unsafe { cpu::try_write_cr8(value) };
    check!(written.is_ok(), "CR8 = {value} gave {written:?}");
}
