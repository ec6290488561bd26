//! A CPU's own state: its block, descriptor tables, interrupt entry, model-specific registers, the FPU.

mod backtrace;
mod block;
mod exceptions;
mod fpu;
mod gdt;
mod interrupts;
mod machine_check;
pub(crate) mod msr;
mod mtrr;
pub(crate) mod speculation;
mod stop;

pub use backtrace::{backtrace, build_id, offset_in_image};
pub(crate) use block::{CpuBlock, adopt, adopt_boot_block, new_block, online, online_cpus, set_online, this_block};
pub use block::{online_count, stopped_count, this};
pub use exceptions::{TrapFrame, set_exception_hook};
pub(crate) use fpu::FpuState;
pub use fpu::hides_xsavec;
pub(crate) use gdt::{gdt_base, host_selectors, tss_base};
pub(crate) use interrupts::{ERROR_VECTOR, KICK_VECTOR, SERIAL_VECTOR, SPURIOUS_VECTOR, TIMER_VECTOR, handle_nmi};
pub use interrupts::{
    acknowledge, disable as disable_interrupts, nmi_count, take_pending_interrupts, unexpected_count,
    wait_for_interrupt,
};

pub(crate) use machine_check::handle_machine_check;
pub(crate) use mtrr::{MemoryTypes, Taken};
pub use speculation::{apply_mitigations, decide_mitigations, mitigations};
pub(crate) use stop::ask_to_stop;
pub use stop::stop_here;

use crate::mem::MapError;
use lamina_core::sched::CpuId;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};

/// Proof that this CPU runs on the hypervisor's own descriptor tables.
#[derive(Debug)]
pub struct Cpu {
    _private: core::marker::PhantomData<*const ()>,
}

impl Cpu {
    /// Puts the CPU that calls on the hypervisor's own GDT, TSS (with guarded IST stacks for NMI, #DF and #MC) and IDT,
    /// and switches on what the hypervisor relies on: CR0.WP, EFER.NXE, XSAVE, and SMEP, SMAP and UMIP where there.
    ///
    /// # Errors
    /// [`MapError`] when there is no memory for the stacks.
    pub fn take_over() -> Result<Self, MapError> {
        gdt::load()?;
        exceptions::load_idt();
        set_control_registers();
        if this() == CpuId(0) {
            interrupts::mask_pic();
            fpu::look_at_xsavec();
        }
        Ok(Self { _private: core::marker::PhantomData })
    }

    /// The hypervisor's protections of itself in this CPU's registers as they are now: the manual's name, what it is for, and
    /// whether it is on.
    #[must_use]
    pub fn protections() -> [(&'static str, &'static str, Protection); 5] {
        let (cr4, wanted) = (Cr4::read(), optional_protections());
        let optional = |flag: Cr4Flags| match (cr4.contains(flag), wanted.contains(flag)) {
            (true, _) => Protection::On,
            (false, true) => Protection::Off,
            (false, false) => Protection::Absent,
        };
        let always = |on: bool| if on { Protection::On } else { Protection::Off };
        let write_protect = always(Cr0::read().contains(Cr0Flags::WRITE_PROTECT));
        let no_execute = always(msr::read(msr::EFER) & msr::EFER_NXE != 0);
        [
            ("CR0.WP", "what is read-only is so for the hypervisor too", write_protect),
            ("EFER.NXE", "data is not executed", no_execute),
            ("CR4.SMEP", "user pages are not executed", optional(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION)),
            ("CR4.SMAP", "user pages are not accessed", optional(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION)),
            (
                "CR4.UMIP",
                "user code does not read descriptor tables",
                optional(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION),
            ),
        ]
    }
}

/// A protection in a control register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    /// It is on.
    On,
    /// The CPU has it, and it is off.
    Off,
    /// The CPU does not have it.
    Absent,
}

/// Those of CR4's protections that this CPU has.
fn optional_protections() -> Cr4Flags {
    let mut flags = Cr4Flags::empty();
    if let Some(features) = raw_cpuid::CpuId::new().get_extended_feature_info() {
        flags.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, features.has_smep());
        flags.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, features.has_smap());
        flags.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, features.has_umip());
    }
    flags
}

fn set_control_registers() {
    let cpuid = raw_cpuid::CpuId::new();
    let mut cr4 = Cr4::read() | Cr4Flags::MACHINE_CHECK_EXCEPTION;
    cr4.remove(Cr4Flags::PAGE_GLOBAL);
    if cpuid.get_feature_info().is_some_and(|features| features.has_xsave()) {
        cr4 |= Cr4Flags::OSXSAVE | Cr4Flags::OSFXSR;
    }
    cr4 |= optional_protections();
    // SAFETY: the hypervisor runs in ring 0 on supervisor pages alone (no user mapping exists), so SMEP, SMAP and UMIP
    // take nothing away; OSXSAVE and MCE only make instructions and exceptions available that it handles.
    unsafe { Cr4::write(cr4) };
    let mut cr0 = Cr0::read() | Cr0Flags::WRITE_PROTECT | Cr0Flags::NUMERIC_ERROR | Cr0Flags::MONITOR_COPROCESSOR;
    cr0.remove(
        Cr0Flags::TASK_SWITCHED | Cr0Flags::EMULATE_COPROCESSOR | Cr0Flags::CACHE_DISABLE | Cr0Flags::NOT_WRITE_THROUGH,
    );
    // SAFETY: WP makes read-only pages read-only for ring 0 too, and all the kernel's writable data is mapped writable;
    // TS and EM off allow XSAVE and XRSTOR, which is the only use of the FPU here; caching is as the firmware had it or on.
    unsafe { Cr0::write(cr0) };
    msr::write_efer_nxe();
}

/// The CPU's brand string.
#[must_use]
pub fn brand() -> alloc::string::String {
    let cpuid = raw_cpuid::CpuId::new();
    cpuid.get_processor_brand_string().map_or_else(|| "unknown CPU".into(), |brand| brand.as_str().trim().into())
}

/// What this CPU answers to CPUID with this leaf and sub-leaf, without what it does wrong: EAX, EBX, ECX, EDX.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    const XSAVEC: u32 = 1 << 1;
    let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    let wrong = if (leaf, subleaf) == (0xd, 1) && hides_xsavec() { XSAVEC } else { 0 };
    [result.eax & !wrong, result.ebx, result.ecx, result.edx]
}
