//! Ports and memory of devices.

use crate::measure::{Report, timed};
use guest::apic::{self, register};
use guest::{check, cpu};

const PIT_COUNTER_0: u16 = 0x40;
const PIT_CONTROL: u16 = 0x43;
const PIC_MASK: u16 = 0x21;
const UART_LINE_STATUS: u16 = 0x3FD;
const UART_SCRATCH: u16 = 0x3FF;
const RTC_DATA: u16 = 0x71;
const PCI_ADDRESS: u16 = 0xCF8;
/// Where no device is.
const NOTHING: u16 = 0x2F0;
/// Where neither memory nor a device is.
const NOTHING_IN_MEMORY: u64 = 0xFD00_0000;
/// Bytes of the string that is sent by one instruction.
const STRING_LEN: usize = 64;
/// The redirection entry of the last pin, its low half.
const REDIRECTION: u8 = 0x10 + 2 * 23;

/// Measures them.
pub(crate) fn measure(report: &mut Report) {
    port_in(report, "in-pit", PIT_COUNTER_0);
    // Latches counter 0.
    port_out(report, "out-pit", PIT_CONTROL, 0);
    port_out(report, "out-pic-mask", PIC_MASK, 0xFF);
    port_in(report, "in-uart", UART_LINE_STATUS);
    // The scratch register: what is written to it is not sent.
    port_out(report, "out-uart", UART_SCRATCH, 0x5A);
    port_in(report, "in-rtc", RTC_DATA);
    port_in(report, "in-nothing", NOTHING);
    report.row("out-pci-address", || {
        // SAFETY: this selects a register of the host bridge.
        unsafe { timed!(["mov eax, 0x80000000", "mov edx, r9d", "out dx, eax"]; in("r9d") u32::from(PCI_ADDRESS)) }
    });
    string(report);
    memory(report);
    local_apic(report);
}

/// IN of a byte from a register that can be read at any time.
fn port_in(report: &mut Report, name: &'static str, port: u16) {
    report.row(name, || {
        // SAFETY: IN touches no memory.
        unsafe { timed!(["mov edx, r9d", "in al, dx"]; in("r9d") u32::from(port)) }
    });
}

/// OUT of a byte that the register can be given at any time.
fn port_out(report: &mut Report, name: &'static str, port: u16, value: u8) {
    report.row(name, || {
        // SAFETY: OUT touches no memory.
        unsafe {
            timed!(["mov edx, r9d", "mov eax, r10d", "out dx, al"]; in("r9d") u32::from(port), in("r10d") u32::from(value))
        }
    });
}

/// REP OUTSB.
fn string(report: &mut Report) {
    let text = [b'x'; STRING_LEN];
    report.row("outs-64-bytes", || {
        // SAFETY: REP OUTSB reads exactly the bytes of `text`.
        unsafe {
            timed!(["mov edx, r9d", "rep outsb"]; in("r9d") u32::from(UART_SCRATCH), inout("rcx") STRING_LEN => _,
                inout("rsi") text.as_ptr() => _)
        }
    });
}

fn memory(report: &mut Report) {
    // Both go through the window; the pin stays masked.
    apic::ioapic_write(REDIRECTION, apic::MASKED);
    let window = apic::IOAPIC_ADDRESS + 0x10;
    mmio_read(report, "mmio-ioapic-read", window);
    mmio_write(report, "mmio-ioapic-write", window, apic::MASKED);
    mmio_read(report, "mmio-nothing-read", NOTHING_IN_MEMORY);
}

/// The registers that an interrupt costs, in both modes. The APIC is left in x2APIC mode.
fn local_apic(report: &mut Report) {
    apic::enable();
    let at = |register: u16| apic::XAPIC_ADDRESS + u64::from(register);
    mmio_write(report, "xapic-eoi", at(register::EOI), 0);
    mmio_write(report, "xapic-tpr", at(register::TPR), 0);
    mmio_read(report, "xapic-read-tpr", at(register::TPR));
    report.row("mov-cr8", || {
        // SAFETY: CR8 = 0 holds nothing back.
        unsafe { timed!(["xor eax, eax", "mov cr8, rax"]) }
    });
    const X2APIC: u32 = 1 << 21;
    check!(cpu::cpuid(1, 0).ecx & X2APIC != 0, "CPUID shows no x2APIC");
    apic::enter_x2apic();
    for (name, register) in [("x2apic-eoi", register::EOI), ("x2apic-tpr", register::TPR)] {
        report.row(name, || {
            // SAFETY: the value is 0: nothing is in service, and nothing held back.
            unsafe { timed!(["xor eax, eax", "xor edx, edx", "wrmsr"]; in("ecx") apic::x2apic_msr(register)) }
        });
    }
}

/// A read of 32 bits.
fn mmio_read(report: &mut Report, name: &'static str, address: u64) {
    report.row(name, || {
        // SAFETY: there is no memory; no register here changes by being read.
        unsafe { timed!(["mov eax, dword ptr [r9]"]; in("r9") address) }
    });
}

/// A write of 32 bits.
fn mmio_write(report: &mut Report, name: &'static str, address: u64, value: u32) {
    report.row(name, || {
        // SAFETY: there is no memory; the registers here can be given these values at any time.
        unsafe { timed!(["mov dword ptr [r9], r10d"]; in("r9") address, in("r10d") value) }
    });
}
