//! Instructions that exit by themselves, or would if the processor did not see to them.

use crate::measure::{Report, timed};
use guest::{apic, check, cpu, trap};

/// A hypercall that no hypervisor defines.
const UNDEFINED_HYPERCALL: u64 = 0x4C4D_FFFF;
/// An MSR that no processor has.
const UNDEFINED_MSR: u32 = 0x1_2345;
const GENERAL_PROTECTION: u8 = 13;
const CPUID_XSAVE: u32 = 1 << 26;
const CR4_OSXSAVE: u64 = 1 << 18;

/// Measures them.
pub(crate) fn measure(report: &mut Report) {
    report.row("cpuid", || {
        // SAFETY: CPUID changes the four registers only; RBX, which the compiler keeps, is put back.
        unsafe { timed!(["mov r9, rbx"], ["xor eax, eax", "cpuid"], ["mov rbx, r9"]; out("ecx") _, out("r9") _) }
    });
    hypercalls(report);
    // SAFETY: the MSR is there, and reading it changes nothing.
    report.row("rdmsr-apic-base", || unsafe { timed!(["rdmsr"]; in("ecx") apic::APIC_BASE_MSR) });
    if cpu::cpuid(1, 0).ecx & CPUID_XSAVE != 0 {
        xsetbv(report);
    }
    // SAFETY: the caches are written back, and nothing changes.
    report.row("wbinvd", || unsafe { timed!(["wbinvd"]) });
    let cr3 = cpu::read_cr3();
    // SAFETY: CR3 is written with what is in it.
    report.row("mov-cr3", || unsafe { timed!(["mov cr3, {}"]; in(reg) cr3) });
    let cr0 = cpu::read_cr0();
    // SAFETY: CR0 is written with what is in it.
    report.row("mov-cr0", || unsafe { timed!(["mov cr0, {}"]; in(reg) cr0) });
    exception(report);
}

/// VMCALL without and with arguments: what Linux puts there for KVM's hypercalls.
fn hypercalls(report: &mut Report) {
    report.row("vmcall-undefined", || {
        // SAFETY: a hypercall that is not defined only gives an answer in RAX.
        unsafe { timed!(["mov rax, r9", "vmcall"]; in("r9") UNDEFINED_HYPERCALL) }
    });
    report.row("vmcall-arguments", || {
        // SAFETY: as above; RBX, which the compiler keeps, is put back.
        unsafe {
            timed!(
                ["mov r10, rbx"],
                ["mov rax, r9", "mov ebx, 1", "mov ecx, 2", "mov edx, 3", "mov esi, 4", "vmcall"],
                ["mov rbx, r10"];
                in("r9") UNDEFINED_HYPERCALL, out("r10") _, out("rcx") _, out("rsi") _
            )
        }
    });
}

/// XSETBV exits on every processor.
fn xsetbv(report: &mut Report) {
    let cr4 = cpu::read_cr4();
    // SAFETY: this only lets XCR0 be read and written; nothing here uses what XCR0 switches on.
    let enabled = unsafe { cpu::try_write_cr4(cr4 | CR4_OSXSAVE) };
    check!(enabled.is_ok(), "CR4.OSXSAVE gave {enabled:?}");
    report.row("xsetbv", || {
        // SAFETY: x87 alone is what XCR0 has after reset, and always can have.
        unsafe { timed!(["mov eax, 1", "xor edx, edx", "xsetbv"]; in("ecx") 0) }
    });
}

/// RDMSR of an MSR that is not there: an exit that ends with an exception in the guest.
fn exception(report: &mut Report) {
    // SAFETY: the handler steps over the only instruction that raises #GP as long as it is there.
    unsafe { trap::set_gate(GENERAL_PROTECTION, Some(step_over_rdmsr)) };
    report.row("inject-gp", || {
        // SAFETY: RDMSR raises #GP, and the handler goes on behind it.
        unsafe { timed!(["rdmsr"]; in("ecx") UNDEFINED_MSR) }
    });
    // SAFETY: the stub is what was there.
    unsafe { trap::set_gate(GENERAL_PROTECTION, None) };
}

/// Takes the error code away and goes on behind the two bytes of RDMSR.
#[unsafe(naked)]
extern "C" fn step_over_rdmsr() {
    core::arch::naked_asm!("add rsp, 8", "add qword ptr [rsp], 2", "iretq");
}
