//! The board's memory balloon as the VM's manager sees it.

use super::Board;
use super::spec::BALLOON_PIN;
use crate::device::virtio::balloon::spec::STATS_QUEUE;
use crate::device::virtio::balloon::{Balloon, GuestStats};
use crate::memory::{GuestMemory, MemoryError};

/// How a VM's balloon is doing. Pages have 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BalloonStatus {
    /// A driver in the guest runs it: targets are followed, as far as the guest can.
    pub driver_ready: bool,
    /// How many pages the guest shall have given.
    pub target_pages: u32,
    /// How many the driver says it has given.
    pub actual_pages: u32,
    /// Pages given since the device's last reset, counting each time.
    pub inflated: u64,
    /// Pages taken back since then, counting each time.
    pub deflated: u64,
    /// What the guest last told about its memory.
    pub stats: GuestStats,
    /// How often it has told since the device's last reset.
    pub stats_count: u64,
    /// Why the device waits for a reset by its driver, if it does.
    pub fault: Option<&'static str>,
}

impl Board {
    /// The balloon's state; `None` where the VM has no balloon.
    #[must_use]
    pub fn balloon_status(&self) -> Option<BalloonStatus> {
        let balloon = self.balloon.as_ref()?;
        let (stats, stats_count) = balloon.device().stats();
        Some(BalloonStatus {
            driver_ready: balloon.is_driven(),
            target_pages: balloon.device().target_pages(),
            actual_pages: balloon.device().actual_pages(),
            inflated: balloon.device().inflated(),
            deflated: balloon.device().deflated(),
            stats: *stats,
            stats_count,
            fault: balloon.fault(),
        })
    }

    /// Sets how many 4 KiB pages the guest shall have given, and interrupts its driver if that is new. A driver that
    /// comes later finds it. Answers whether the VM has a balloon. The I/O APIC's message is to be taken as after any
    /// access.
    pub fn balloon_set_target_pages(&mut self, pages: u32) -> bool {
        let Some(balloon) = &mut self.balloon else { return false };
        if balloon.device().target_pages() != pages {
            balloon.change_config(|device| device.set_target_pages(pages));
            self.update_balloon_line();
        }
        true
    }

    /// Asks the guest for new figures; they come when its driver runs ([`BalloonStatus::stats_count`] then goes up).
    /// Nothing happens where there is no driver, or one without statistics, or while it still owes an answer.
    ///
    /// # Errors
    /// [`MemoryError::OutOfFrames`]: the host has no memory for a page of the driver's ring.
    pub fn balloon_request_stats(&mut self, memory: &mut dyn GuestMemory) -> Result<(), MemoryError> {
        let Some(balloon) = &mut self.balloon else { return Ok(()) };
        let done = balloon.with_queue(STATS_QUEUE, memory, Balloon::request_stats);
        self.update_balloon_line();
        done
    }

    /// Drives the balloon's interrupt, which goes to the I/O APIC alone: the PIC has no input for it.
    pub(super) fn update_balloon_line(&mut self) {
        if let Some(balloon) = &self.balloon {
            self.ioapic.set_line(BALLOON_PIN, balloon.irq_level());
        }
    }
}
