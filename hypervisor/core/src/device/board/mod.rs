//! The board: all devices of a VM but the local APIC, the ports and addresses they answer at, and their interrupt wires.
//!
//! [`Board`] is a plain struct, and a port finds its device by a `match`: there is no table to walk and no call through a
//! pointer. After every access that can change an interrupt line the board drives the line into the PIC and the I/O APIC. The
//! owner then asks [`Board::take_message`] and [`Board::pic_pending`], and calls [`Board::expire`] when
//! [`Board::next_deadline`] has come.

mod balloon;
mod ports;
pub mod spec;
#[cfg(test)]
mod tests;

use super::ioapic::IoApic;
use super::lapic::{ApicMessage, DeliveryMode};
use super::pci::PciHost;
use super::pic::PicPair;
use super::pit::Pit;
use super::pm::AcpiPm;
use super::pvpanic::Pvpanic;
use super::reset::ResetPorts;
use super::rtc::Rtc;
use super::uart::Uart;
use super::virtio::balloon::Balloon;
use super::virtio::mmio::VirtioMmio;
use super::watchdog::Watchdog;
use crate::bus::Width;
use crate::memory::{GuestMemory, GuestPhysAddr, MemoryError};
use crate::time::TickClock;
use crate::vm::heartbeat::Sources;
use spec::*;

/// What the board of a VM is built from.
#[derive(Clone, Copy, Debug)]
pub struct BoardConfig {
    /// The guest's TSC.
    pub clock: TickClock,
    /// The VM's memory in bytes (for the CMOS bytes that tell its size).
    pub ram_len_bytes: u64,
    /// What the RTC shows at guest tick 0, in seconds since 1970 (UTC).
    pub boot_time_unix_s: u64,
    /// The I/O APIC's ID, as in the MADT (see [`ioapic_id`](spec::ioapic_id)).
    pub ioapic_id: u8,
    /// Whether there is a memory balloon.
    pub balloon: bool,
    /// Whether the watchdog ended the VM's life before this one.
    pub watchdog_fired: bool,
}

/// What followed from a port write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortWrite {
    /// A device took it.
    Done,
    /// No device is there: the write went nowhere.
    Unclaimed,
    /// The guest switched the machine off (S5).
    PowerOff,
    /// The guest resets the machine.
    Reset,
    /// The guest has panicked (see [`crate::device::pvpanic`]).
    Panicked,
    /// The guest ended with this code (see [`crate::device::exit_port`]).
    Exit(u32),
}

/// The devices of one VM.
#[derive(Clone, Debug)]
pub struct Board {
    pics: PicPair,
    pit: Pit,
    uart: Uart,
    rtc: Rtc,
    pm: AcpiPm,
    watchdog: Watchdog,
    pvpanic: Pvpanic,
    pci: PciHost,
    reset: ResetPorts,
    ioapic: IoApic,
    balloon: Option<VirtioMmio<Balloon>>,
    /// The levels of the ISA interrupt lines, bit `n` for IRQ `n`.
    lines: u16,
    post_code: u8,
    clock: TickClock,
    /// The latest time anybody told.
    now: u64,
}

impl Board {
    /// A board at power-on, guest tick 0.
    #[must_use]
    pub fn new(config: &BoardConfig) -> Self {
        let clock = config.clock;
        let low_ram = config.ram_len_bytes.min(LOW_RAM_LIMIT);
        let high_ram = config.ram_len_bytes - low_ram;
        let mut board = Self {
            pics: PicPair::new(),
            pit: Pit::new(clock),
            uart: Uart::new(),
            rtc: Rtc::new(clock, config.boot_time_unix_s, low_ram, high_ram),
            pm: AcpiPm::new(clock),
            watchdog: Watchdog::new(clock, config.watchdog_fired),
            pvpanic: Pvpanic::default(),
            pci: PciHost::new(),
            reset: ResetPorts::default(),
            ioapic: IoApic::new(config.ioapic_id),
            balloon: config.balloon.then(|| VirtioMmio::new(Balloon::new())),
            lines: 0,
            post_code: 0,
            clock,
            now: 0,
        };
        board.update_pit_line();
        board
    }

    /// A reset of the machine: all devices as at power-on, at guest tick 0 again, but the RTC and its memory, which a battery keeps.
    /// Serial output that was not taken yet stays.
    pub fn reset(&mut self) {
        for irq in 0..16 {
            self.drive(irq, false);
        }
        self.pics = PicPair::new();
        self.pit = Pit::new(self.clock);
        self.uart.reset();
        self.rtc.reset(self.now);
        self.pm = AcpiPm::new(self.clock);
        self.watchdog = Watchdog::new(self.clock, self.watchdog.fired().is_some());
        self.pvpanic = Pvpanic::default();
        self.pci = PciHost::new();
        self.reset = ResetPorts::default();
        if let Some(balloon) = &mut self.balloon {
            balloon.reset();
            self.update_balloon_line();
        }
        self.ioapic.reset();
        self.post_code = 0;
        self.now = 0;
        self.update_pit_line();
    }

    /// Sets the RTC, for guest time that stood still while the world's went on.
    pub fn set_rtc(&mut self, unix_s: u64, now: u64) {
        self.now = now;
        self.rtc.set_unix_s(unix_s, now);
        self.update_rtc_line();
    }

    /// A read from device memory; `None` if no device is at `gpa`.
    pub fn mmio_read(&mut self, gpa: GuestPhysAddr, width: Width, now: u64) -> Option<u64> {
        self.now = now;
        if let Some(offset) = offset_in(gpa, IOAPIC_BASE..IOAPIC_END) {
            return Some(u64::from(self.ioapic.mmio_read(offset, width)));
        }
        let balloon = self.balloon.as_ref()?;
        Some(balloon.read(offset_in(gpa, BALLOON_BASE..BALLOON_END)?, width))
    }

    /// A write to device memory; `None` if no device is at `gpa`. A device that is told of buffers in the guest's
    /// `memory` takes them.
    ///
    /// `Some(Err)`, always [`MemoryError::OutOfFrames`]: the host has no memory for a page that the device had to
    /// write. The same write goes on where this one stopped.
    pub fn mmio_write(
        &mut self,
        gpa: GuestPhysAddr,
        width: Width,
        value: u64,
        now: u64,
        memory: &mut dyn GuestMemory,
    ) -> Option<Result<(), MemoryError>> {
        self.now = now;
        if let Some(offset) = offset_in(gpa, IOAPIC_BASE..IOAPIC_END) {
            let [a, b, c, d, ..] = value.to_le_bytes();
            self.ioapic.mmio_write(offset, width, u32::from_le_bytes([a, b, c, d]));
            return Some(Ok(()));
        }
        let balloon = self.balloon.as_mut()?;
        let done = balloon.write(offset_in(gpa, BALLOON_BASE..BALLOON_END)?, width, value, memory);
        self.update_balloon_line();
        Some(done)
    }

    /// The tick at which [`Self::expire`] is to be called; `None` for never.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let timers = self.pit.deadline().min(self.rtc.deadline()).min(self.pm.deadline());
        let deadline = timers.min(self.watchdog.deadline());
        (deadline != u64::MAX).then_some(deadline)
    }

    /// Runs the timers that are due at `now`. A timer that is late gives one interrupt and keeps its phase.
    pub fn expire(&mut self, now: u64) {
        self.now = now;
        if self.pit.deadline() <= now {
            self.pit.expire(now);
            self.update_pit_line();
        }
        if self.rtc.deadline() <= now {
            self.rtc.expire(now);
            self.update_rtc_line();
        }
        if self.pm.deadline() <= now {
            self.pm.expire(now);
            self.update_sci();
        }
        self.watchdog.expire(now);
    }

    /// The next message from the I/O APIC to the local APICs. Ask after every access, expiry and EOI until there is none.
    pub fn take_message(&mut self) -> Option<ApicMessage> {
        self.ioapic.take_message()
    }

    /// A local APIC has ended the level-triggered interrupt `vector`.
    pub fn ioapic_eoi(&mut self, vector: u8) {
        self.ioapic.end_of_interrupt(vector);
    }

    /// The PIC's INT output, wired to LINT0 of the boot CPU.
    #[must_use]
    pub fn pic_pending(&self) -> bool {
        self.pics.pending()
    }

    /// What can interrupt a vCPU: whether a device's interrupt is not masked, and whether one is sent in a way that vCPUs cannot
    /// mask. The PIC counts where `extint` says that its output is let in.
    #[must_use]
    pub fn interrupt_sources(&self, extint: bool) -> Sources {
        Sources {
            interrupt: extint && self.pics.is_open() || self.ioapic.sends(|_| true),
            nmi: self.ioapic.sends(|mode| !mode.has_vector() && mode != DeliveryMode::ExtInt),
        }
    }

    /// The CPU's interrupt acknowledge to the PIC: the vector.
    pub fn pic_acknowledge(&mut self) -> u8 {
        self.pics.acknowledge()
    }

    /// Bytes from the terminal at COM1; answers how many there was room for.
    pub fn serial_input(&mut self, bytes: &[u8]) -> usize {
        let taken = self.uart.input(bytes);
        self.update_uart_line();
        taken
    }

    /// Hands what the guest has sent on COM1 since the last call to `sink`, which is not called for nothing.
    ///
    /// [`crate::device::uart::OUTPUT_LEN`] bytes fit. When that many wait, the guest finds its transmitter busy until they are taken.
    pub fn serial_output(&mut self, sink: impl FnOnce(&[u8])) {
        if self.uart.output().is_empty() {
            return;
        }
        sink(self.uart.output());
        self.uart.clear_output();
        self.update_uart_line();
    }

    /// The operator presses the ACPI power button.
    pub fn power_button(&mut self, now: u64) {
        self.now = now;
        self.pm.press_power_button();
        self.update_sci();
    }

    /// Takes it back that the watchdog has fired, until the guest feeds it again.
    pub const fn forgive_watchdog(&mut self) {
        self.watchdog.forgive();
    }

    /// The period in milliseconds within which the guest has not fed its watchdog: the VM is to end.
    #[must_use]
    pub const fn watchdog_fired(&self) -> Option<u32> {
        self.watchdog.fired()
    }

    /// Whether the guest has panicked and handles that by itself.
    #[must_use]
    pub const fn crash_loaded(&self) -> bool {
        self.pvpanic.crash_loaded()
    }

    /// The last byte written to the POST code port: how far a guest came that says nothing else.
    #[must_use]
    pub const fn post_code(&self) -> u8 {
        self.post_code
    }

    fn update_pit_line(&mut self) {
        if self.pit.take_edge() {
            // OUT was low since we last looked, be it for one cycle.
            self.drive(PIT_IRQ, false);
            self.drive(PIT_IRQ, true);
        }
        self.drive(PIT_IRQ, self.pit.irq_level());
    }

    fn update_uart_line(&mut self) {
        self.drive(COM1_IRQ, self.uart.irq_level());
        if self.uart.settle() {
            self.drive(COM1_IRQ, self.uart.irq_level());
        }
    }

    fn update_rtc_line(&mut self) {
        let high = self.rtc.irq_level();
        if high && !self.line(RTC_IRQ) {
            self.pm.rtc_alarm();
            self.update_sci();
        }
        self.drive(RTC_IRQ, high);
    }

    fn update_sci(&mut self) {
        self.drive(SCI_IRQ, self.pm.irq_level());
    }

    /// The level of an ISA interrupt line.
    const fn line(&self, irq: u8) -> bool {
        self.lines & 1 << (irq & 15) != 0
    }

    /// Drives an ISA interrupt line: into the PIC, and into the I/O APIC's pin for it.
    fn drive(&mut self, irq: u8, high: bool) {
        if self.line(irq) == high {
            return;
        }
        self.lines ^= 1 << (irq & 15);
        self.pics.set_line(irq, high);
        self.ioapic.set_line(if irq == PIT_IRQ { PIT_PIN } else { irq }, high);
    }
}

/// The offset of `gpa` in a device's registers, if it is there.
fn offset_in(gpa: GuestPhysAddr, registers: core::ops::Range<u64>) -> Option<u32> {
    if !registers.contains(&gpa.0) {
        return None;
    }
    u32::try_from(gpa.0 - registers.start).ok()
}
