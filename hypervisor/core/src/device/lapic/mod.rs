//! The local APIC of one virtual CPU: xAPIC and x2APIC, with or without the CPU's own APIC virtualisation.
//!
//! The registers lie in the virtual-APIC page ([`ApicPage`]), because with "APIC-register virtualization" and
//! "virtual-interrupt delivery" the CPU reads and writes them there. What has no place in the page (timer, pending NMI, INIT,
//! SIPI, latched errors, IA32_APIC_BASE) lies in [`LocalApic`]. The model is the same in both worlds:
//!
//! | | without APIC virtualisation | with it |
//! |---|---|---|
//! | register access | `mmio_read`, `mmio_write`, `msr_read`, `msr_write` | the CPU; `after_write` at an APIC-write exit |
//! | EOI | a write of the register | the CPU; `eoi` at an EOI-induced exit (`eoi_exit_bitmap`) |
//! | delivery | `pending_vector`, then `acknowledge` | the CPU, from RVI = `highest_irr` and SVI = `highest_isr` |
//!
//! After any call that can make one, the owner takes `take_ipi` (to every local APIC of the VM whose `matches` agrees, the
//! sender too) and `take_eoi` (to the I/O APIC). Files: `registers.rs` (accesses), `interrupts.rs` (IRR, ISR, PPR, EOI, LVT),
//! `icr.rs` (sending, matching), `bus.rs` (between the vCPUs of a VM), `timer.rs`, `base.rs` (IA32_APIC_BASE), `page.rs`, `message.rs`, `spec.rs`.

mod base;
mod bus;
mod icr;
mod interrupts;
mod message;
mod page;
mod registers;
pub mod spec;
#[cfg(test)]
mod tests;
mod timer;

pub use base::ApicMode;
pub use bus::{ApicBus, VCPUS_MAX, VcpuMask};
pub use message::{ApicMessage, BROADCAST, DeliveryMode, Shorthand, lowest_priority};
pub use page::{ApicPage, PlainPage};
pub use registers::x2apic_read_is_plain;

use alloc::boxed::Box;
use page::VectorRegister;
use spec::{ApicBase, Esr, Lvt};
use timer::Timer;

/// A local APIC.
pub struct LocalApic {
    page: Box<dyn ApicPage>,
    id: u32,
    base: ApicBase,
    /// The bits of IA32_APIC_BASE that must be 0.
    base_reserved: u64,
    irr: VectorRegister,
    isr: VectorRegister,
    tmr: VectorRegister,
    timer: Timer,
    /// The LVT timer register as last written. The CPU may have stored a new one in the page, but what the timer did before
    /// that write goes by this one.
    timer_lvt: Lvt,
    /// Errors since the last write of the ESR.
    errors: Esr,
    /// Whether an error raises LVT error; a write of the ESR re-arms it.
    error_armed: bool,
    /// The electrical level of LINT0 and LINT1.
    lines: [bool; 2],
    /// Remote IRR of LVT LINT0 (LINT1 is always edge-triggered).
    lint0_remote_irr: bool,
    nmi: bool,
    init: bool,
    sipi: Option<u8>,
    extint: bool,
    ipi: Option<ApicMessage>,
    ended: Option<u8>,
    eoi_bitmap_changed: bool,
}

impl LocalApic {
    /// A local APIC as after a reset. `apic_id` 0 is the VM's bootstrap processor. `physical_address_bits` is the guest's
    /// MAXPHYADDR, above which IA32_APIC_BASE is reserved.
    #[must_use]
    pub fn new(page: Box<dyn ApicPage>, apic_id: u32, physical_address_bits: u8) -> Self {
        let low_reserved = 0xfff & !(ApicBase::BSP | ApicBase::EXTD | ApicBase::EN).bits();
        let mut apic = Self {
            page,
            id: apic_id,
            base: ApicBase::empty(),
            base_reserved: u64::MAX << physical_address_bits.clamp(36, 52) | low_reserved,
            irr: VectorRegister::new(spec::IRR),
            isr: VectorRegister::new(spec::ISR),
            tmr: VectorRegister::new(spec::TMR),
            timer: Timer::new(),
            timer_lvt: Lvt::MASKED,
            errors: Esr::empty(),
            error_armed: true,
            lines: [false; 2],
            lint0_remote_irr: false,
            nmi: false,
            init: false,
            sipi: None,
            extint: false,
            ipi: None,
            ended: None,
            eoi_bitmap_changed: true,
        };
        apic.reset();
        apic
    }

    /// Power-up or RESET. The APIC is software-disabled and LINT0 is masked: a VM without firmware calls
    /// [`LocalApic::enter_virtual_wire_mode`] for its bootstrap processor.
    pub fn reset(&mut self) {
        self.base = ApicBase::from_bits_retain(spec::DEFAULT_BASE) | ApicBase::EN;
        self.base.set(ApicBase::BSP, self.id == 0);
        self.reset_registers();
    }

    /// INIT: "The state of the local APIC after an INIT reset is the same as it is after a power-up or hardware reset, except
    /// that the APIC ID and arbitration ID registers are not affected." IA32_APIC_BASE stays too, so an x2APIC stays one.
    pub fn init(&mut self) {
        self.reset_registers();
        if self.mode() == ApicMode::X2Apic {
            self.enter_x2apic();
        }
    }

    /// What PC firmware leaves behind on the bootstrap processor (MultiProcessor Specification, "Virtual Wire Mode"): APIC
    /// software-enabled, LINT0 = ExtINT, LINT1 = NMI.
    pub fn enter_virtual_wire_mode(&mut self) {
        self.page.write(spec::SVR, 0xff | spec::Svr::ENABLED.bits());
        self.page.write(spec::LVT_LINT0, (DeliveryMode::ExtInt as u32) << 8);
        self.page.write(spec::LVT_LINT1, (DeliveryMode::Nmi as u32) << 8);
    }

    /// Says whether the CPU delivers interrupts and handles EOI in the page by itself ("virtual-interrupt delivery"). A new
    /// local APIC supposes so; without it, scanning the registers gets cheaper.
    pub fn set_virtual_interrupt_delivery(&mut self, on: bool) {
        for register in [&mut self.irr, &mut self.isr, &mut self.tmr] {
            register.set_shared(on);
        }
    }

    /// The APIC ID, in full.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// The registers of "Local APIC State After Power-Up or Reset", in xAPIC form.
    fn reset_registers(&mut self) {
        for offset in (0..spec::END).step_by(16) {
            self.page.write(offset, 0);
        }
        self.page.write(spec::ID, self.id << 24);
        self.page.write(spec::VERSION, spec::VERSION_VALUE);
        self.page.write(spec::DFR, u32::MAX);
        self.page.write(spec::SVR, 0xff);
        for lvt in spec::LVTS {
            self.page.write(lvt, Lvt::MASKED.bits());
        }
        self.timer = Timer::new();
        self.timer_lvt = Lvt::MASKED;
        self.errors = Esr::empty();
        self.error_armed = true;
        self.lint0_remote_irr = false;
        self.nmi = false;
        self.init = false;
        self.sipi = None;
        self.extint = false;
        self.ipi = None;
        self.ended = None;
        self.eoi_bitmap_changed = true;
    }

    /// xAPIC to x2APIC mode: the registers keep their values, but for the ID (32 bits), the logical ID (derived: "Logical
    /// x2APIC ID = \[(x2APIC ID\[19:4\] << 16) | (1 << x2APIC ID\[3:0\])\]") and the ICR's upper half.
    fn enter_x2apic(&mut self) {
        self.page.write(spec::ID, self.id);
        self.page.write(spec::LDR, icr::logical_x2apic_id(self.id));
        self.page.write(spec::ICR_HIGH, 0);
    }
}
