//! The hypervisor's own interrupts: few, short, and taken only while the CPU idles or as VM exits.
//!
//! The hypervisor runs with interrupts off. An interrupt that arrives while a guest runs is a VM exit that
//! acknowledged it; its vector then comes to [`acknowledge`]. While the CPU idles, [`wait_for_interrupt`] opens the
//! window and the stub comes to the same function.

use super::stop;
use crate::{apic, port, serial};
use core::sync::atomic::{AtomicU64, Ordering};

/// The local APIC timer: the host's clock event.
pub(crate) const TIMER_VECTOR: u8 = 0xe0;
/// COM1.
pub(crate) const SERIAL_VECTOR: u8 = 0xe1;
/// The local APIC's error interrupt.
pub(crate) const ERROR_VECTOR: u8 = 0xe2;
/// Another CPU wants this one to look up.
pub(crate) const KICK_VECTOR: u8 = 0xe4;
/// Stands for every other vector. Nothing is set up to raise one, but firmware may have left something on, and a masked 8259A
/// still raises its spurious interrupt.
pub(super) const UNEXPECTED_VECTOR: u8 = 0xe3;
/// The local APIC's spurious vector; it gets no EOI.
pub(crate) const SPURIOUS_VECTOR: u8 = 0xff;

static NMI_COUNT: AtomicU64 = AtomicU64::new(0);
static UNEXPECTED_COUNT: AtomicU64 = AtomicU64::new(0);

/// Handles the host interrupt of this vector and ends it at the local APIC.
pub fn acknowledge(vector: u8) {
    match vector {
        // Their only purpose is to have ended the HLT, or the guest's turn.
        TIMER_VECTOR | KICK_VECTOR => {}
        SERIAL_VECTOR => serial::pump(),
        SPURIOUS_VECTOR => return,
        _ => {
            UNEXPECTED_COUNT.fetch_add(1, Ordering::Relaxed);
        }
    }
    apic::end_of_interrupt();
}

/// Counts an NMI of the host, and stops this CPU where it is another one's that panicked. No other source of NMIs is set up; the
/// kernel reports the count. No lock is taken here.
pub(super) fn nmi() {
    NMI_COUNT.fetch_add(1, Ordering::Relaxed);
    stop::stop_if_asked();
}

/// After a VM exit that an NMI caused: runs the NMI handler as the CPU would have. NMIs stay blocked after such an exit
/// until the next IRET ("blocking by NMI"), which the stub behind `int 2` executes.
pub(crate) fn handle_nmi() {
    // SAFETY: vector 2 of the hypervisor's IDT is its NMI stub, which saves and restores every register; a VM exit happens only
    // on a CPU that `Cpu::take_over` has put on this IDT.
    unsafe { core::arch::asm!("int 2") };
}

/// NMIs that the host has seen since boot.
#[must_use]
pub fn nmi_count() -> u64 {
    NMI_COUNT.load(Ordering::Relaxed)
}

/// Interrupts on a vector that nobody set up, since boot.
#[must_use]
pub fn unexpected_count() -> u64 {
    UNEXPECTED_COUNT.load(Ordering::Relaxed)
}

/// Interrupts off. The hypervisor starts so; this is for the panic path and for late boot loaders.
pub fn disable() {
    x86_64::instructions::interrupts::disable();
}

/// Halts until the next interrupt, which is handled before this returns. Returns with interrupts off.
pub fn wait_for_interrupt() {
    // STI takes effect after the next instruction, so no interrupt can slip in between STI and HLT and be waited for
    // in vain (SDM, instruction reference, "STI").
    x86_64::instructions::interrupts::enable_and_hlt();
    x86_64::instructions::interrupts::disable();
}

/// Takes the interrupts that are pending, and returns with interrupts off. The run loop does so between two turns of guests:
/// an interrupt that came while the hypervisor itself ran need not wait for the next VM exit.
pub fn take_pending_interrupts() {
    x86_64::instructions::interrupts::enable();
    // The first instruction after STI still runs with interrupts blocked ("STI").
    x86_64::instructions::nop();
    x86_64::instructions::interrupts::disable();
}

/// Moves the two 8259As away from the exception vectors and masks them: the hypervisor uses the IOAPIC.
pub(super) fn mask_pic() {
    const PIC1: u16 = 0x20;
    const PIC2: u16 = 0xa0;
    const ICW1_INIT_ICW4: u8 = 0x11;
    const ICW4_8086: u8 = 0x01;
    for (base, vectors, cascade) in [(PIC1, 0xf0, 1 << 2), (PIC2, 0xf8, 2)] {
        port::write_u8(base, ICW1_INIT_ICW4);
        port::write_u8(base + 1, vectors);
        port::write_u8(base + 1, cascade);
        port::write_u8(base + 1, ICW4_8086);
        port::write_u8(base + 1, 0xff);
    }
}
