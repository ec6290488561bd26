//! Interrupts inside the local APIC: acceptance, priority, delivery, EOI, local sources (SDM volume 3, "Handling Interrupts",
//! "Local Vector Table", "Error Handling").

use super::spec::{self, Esr, Lvt, Svr};
use super::{ApicMessage, ApicMode, DeliveryMode, LocalApic};

impl LocalApic {
    /// Takes a message that is for this local APIC (see [`LocalApic::matches`]).
    pub fn accept(&mut self, message: &ApicMessage) {
        match message.delivery {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => self.accept_vector(message.vector, message.level),
            DeliveryMode::Nmi => self.nmi = true,
            DeliveryMode::Init => {
                self.init = true;
                self.sipi = None;
            }
            DeliveryMode::StartUp => self.sipi = Some(message.vector),
            DeliveryMode::ExtInt => self.extint = true,
            DeliveryMode::Smi => {}
        }
    }

    /// The vector to inject now: the highest requested one, if its class is above the processor priority's.
    #[must_use]
    pub fn pending_vector(&self) -> Option<u8> {
        let vector = self.highest_irr()?;
        (vector >> 4 > self.processor_priority() >> 4).then_some(vector)
    }

    /// The class that the TPR must fall below for the highest requested vector to be delivered; 0 where it is not the TPR that
    /// holds one back. Never above the TPR's own class, as VM entry wants it of the TPR threshold (SDM volume 3, "Checks on
    /// VM-Execution Control Fields").
    #[must_use]
    pub fn tpr_threshold(&self) -> u8 {
        let class = self.highest_irr().unwrap_or(0) >> 4;
        let [task, ..] = self.page.read(spec::TPR).to_le_bytes();
        let in_service = self.highest_isr().unwrap_or(0) >> 4;
        if class <= task >> 4 && class > in_service { class } else { 0 }
    }

    /// The highest vector in the IRR: what RVI is set to.
    #[must_use]
    pub fn highest_irr(&self) -> Option<u8> {
        self.irr.highest(&*self.page)
    }

    /// The highest vector in the ISR: what SVI is set to.
    #[must_use]
    pub fn highest_isr(&self) -> Option<u8> {
        self.isr.highest(&*self.page)
    }

    /// The CPU took `vector`: moves it from the IRR to the ISR.
    pub fn acknowledge(&mut self, vector: u8) {
        if self.irr.remove(&mut *self.page, vector) {
            self.isr.insert(&mut *self.page, vector);
        }
    }

    /// The processor priority (PPR): the higher class of the task priority and of the highest vector in service.
    #[must_use]
    pub fn processor_priority(&self) -> u8 {
        let [task, ..] = self.page.read(spec::TPR).to_le_bytes();
        let in_service = self.highest_isr().unwrap_or(0);
        if task >> 4 >= in_service >> 4 { task } else { in_service & 0xf0 }
    }

    /// Whether the APIC is enabled by the spurious-interrupt vector register.
    #[must_use]
    pub fn software_enabled(&self) -> bool {
        self.page.read(spec::SVR) & Svr::ENABLED.bits() != 0
    }

    /// An EOI-induced VM exit: the CPU has ended `vector` in the page; what remains is to tell those who wait for it.
    pub fn eoi(&mut self, vector: u8) {
        if !self.tmr.contains(&*self.page, vector) {
            return;
        }
        if self.page.read(spec::SVR) & Svr::SUPPRESS_EOI_BROADCAST.bits() == 0 {
            self.ended = Some(vector);
        }
        if self.lint0_remote_irr && self.page.read(spec::LVT_LINT0).to_le_bytes()[0] == vector {
            self.set_lint0_remote_irr(false);
            self.update_lint0_level();
        }
    }

    /// The vector of the level-triggered interrupt that was ended, to be broadcast to the I/O APIC. To be taken after each
    /// EOI.
    #[must_use = "an I/O APIC that is not told of an EOI sends no further interrupt"]
    pub const fn take_eoi(&mut self) -> Option<u8> {
        self.ended.take()
    }

    /// The EOI-exit bitmap: the vectors whose EOI must reach [`LocalApic::eoi`], which are the level-triggered ones.
    #[must_use]
    pub fn eoi_exit_bitmap(&self) -> [u64; 4] {
        self.tmr.bits(&*self.page)
    }

    /// Whether [`LocalApic::eoi_exit_bitmap`] changed since this was last asked (true the first time).
    pub const fn take_eoi_exit_bitmap_changed(&mut self) -> bool {
        core::mem::replace(&mut self.eoi_bitmap_changed, false)
    }

    /// Whether an NMI waits; it stays.
    #[must_use]
    pub const fn nmi_pending(&self) -> bool {
        self.nmi
    }

    /// Takes the waiting NMI.
    pub const fn take_nmi(&mut self) -> bool {
        core::mem::replace(&mut self.nmi, false)
    }

    /// An NMI that was taken was not delivered after all: it waits again.
    pub const fn return_nmi(&mut self) {
        self.nmi = true;
    }

    /// Takes the waiting INIT; the owner resets the CPU and calls [`LocalApic::init`].
    pub const fn take_init(&mut self) -> bool {
        core::mem::replace(&mut self.init, false)
    }

    /// Takes the waiting start-up IPI: the page number to start at. A CPU that is not in the wait-for-SIPI state drops it.
    pub const fn take_sipi(&mut self) -> Option<u8> {
        self.sipi.take()
    }

    /// Whether an interrupt of the external controller (8259A) reaches the CPU: LINT0 is ExtINT and unmasked, the APIC is
    /// globally disabled (LINT0 then is INTR), or an I/O APIC sent an ExtINT message.
    #[must_use]
    pub fn accepts_extint(&self) -> bool {
        if self.extint || self.mode() == ApicMode::Disabled {
            return true;
        }
        let lvt = self.lvt(spec::LVT_LINT0);
        !lvt.contains(Lvt::MASKED) && delivery(lvt) == Some(DeliveryMode::ExtInt)
    }

    /// The CPU acknowledged the external controller: an ExtINT message is served.
    pub const fn acknowledge_extint(&mut self) {
        self.extint = false;
    }

    /// The tick at which [`LocalApic::expire`] wants to be called: the timer's, unless its interrupt is masked.
    #[must_use]
    pub const fn next_deadline(&self) -> Option<u64> {
        if self.timer_lvt.contains(Lvt::MASKED) { None } else { self.timer.deadline() }
    }

    /// Runs the timer up to `now`.
    pub fn expire(&mut self, now: u64) {
        if self.timer.expire(now) && !self.timer_lvt.contains(Lvt::MASKED) {
            self.accept_vector(self.timer_lvt.bits().to_le_bytes()[0], false);
        }
    }

    /// Sets the electrical level of input LINT0 (`pin` 0: the 8259A's INTR) or LINT1 (1: NMI). Other pins do not exist.
    pub fn set_lint(&mut self, pin: u8, level: bool) {
        let Some(line) = self.lines.get_mut(usize::from(pin)) else { return };
        let old = core::mem::replace(line, level);
        if self.mode() == ApicMode::Disabled {
            // Without an APIC the pins are INTR (see `accepts_extint`) and NMI.
            self.nmi |= pin == 1 && level && !old;
            return;
        }
        let lvt = self.lvt(if pin == 0 { spec::LVT_LINT0 } else { spec::LVT_LINT1 });
        if pin == 0 && is_level(lvt) {
            self.update_lint0_level();
            return;
        }
        let active_low = lvt.contains(Lvt::ACTIVE_LOW);
        if level == old || level == active_low || lvt.contains(Lvt::MASKED) {
            return;
        }
        match delivery(lvt) {
            Some(DeliveryMode::Fixed) => self.accept_vector(lvt.bits().to_le_bytes()[0], false),
            Some(DeliveryMode::Nmi) => self.nmi = true,
            Some(DeliveryMode::Init) => self.init = true,
            _ => {}
        }
    }

    /// A level-triggered fixed interrupt on LINT0: sent while the line is active, once per EOI.
    pub(super) fn update_lint0_level(&mut self) {
        let lvt = self.lvt(spec::LVT_LINT0);
        let active = self.lines[0] != lvt.contains(Lvt::ACTIVE_LOW);
        if is_level(lvt) && active && !lvt.contains(Lvt::MASKED) && !self.lint0_remote_irr {
            let [vector, ..] = lvt.bits().to_le_bytes();
            self.set_lint0_remote_irr(vector >= spec::FIRST_LEGAL_VECTOR);
            self.accept_vector(vector, true);
        }
    }

    /// Remote IRR shows in the page, but the CPU may have overwritten it there: the truth is in the struct.
    pub(super) fn set_lint0_remote_irr(&mut self, set: bool) {
        self.lint0_remote_irr = set;
        let mut lvt = self.lvt(spec::LVT_LINT0);
        lvt.set(Lvt::REMOTE_IRR, set);
        self.page.write(spec::LVT_LINT0, lvt.bits());
    }

    /// Puts a vector into the IRR. A software-disabled APIC takes none; vectors 0 to 15 are an error.
    pub(super) fn accept_vector(&mut self, vector: u8, level: bool) {
        if vector < spec::FIRST_LEGAL_VECTOR {
            self.log_error(Esr::RECEIVE_ILLEGAL_VECTOR);
            return;
        }
        if !self.software_enabled() {
            return;
        }
        // "Upon acceptance of an interrupt into the IRR, the corresponding TMR bit is cleared for edge-triggered interrupts
        // and set for level-triggered interrupts."
        self.eoi_bitmap_changed |= if level {
            self.tmr.insert(&mut *self.page, vector)
        } else {
            self.tmr.contains(&*self.page, vector) && self.tmr.remove(&mut *self.page, vector)
        };
        self.irr.insert(&mut *self.page, vector);
    }

    /// A write of the EOI register: ends the highest interrupt in service, if there is one.
    pub(super) fn end_of_interrupt(&mut self) {
        if let Some(vector) = self.highest_isr() {
            self.isr.remove(&mut *self.page, vector);
            self.eoi(vector);
        }
    }

    /// Records an error for the next write of the ESR, and raises LVT error once until then.
    pub(super) fn log_error(&mut self, error: Esr) {
        self.errors |= error;
        if !core::mem::replace(&mut self.error_armed, false) {
            return;
        }
        let lvt = self.lvt(spec::LVT_ERROR);
        let [vector, ..] = lvt.bits().to_le_bytes();
        if lvt.contains(Lvt::MASKED) {
            return;
        }
        if vector < spec::FIRST_LEGAL_VECTOR {
            // The error interrupt's own vector is illegal: one more error, and no interrupt to tell of it.
            self.errors |= Esr::RECEIVE_ILLEGAL_VECTOR;
        } else {
            self.accept_vector(vector, false);
        }
    }

    pub(super) fn lvt(&self, offset: u16) -> Lvt {
        Lvt::from_bits_truncate(self.page.read(offset))
    }
}

/// The delivery mode of an LVT register, if it is not a reserved one.
fn delivery(lvt: Lvt) -> Option<DeliveryMode> {
    DeliveryMode::from_bits((lvt & Lvt::DELIVERY_MODE).bits() >> 8)
}

/// Whether LVT LINT0 is level-triggered: the flag "is only used when the delivery mode is Fixed".
fn is_level(lvt: Lvt) -> bool {
    lvt.contains(Lvt::LEVEL) && delivery(lvt) == Some(DeliveryMode::Fixed)
}
