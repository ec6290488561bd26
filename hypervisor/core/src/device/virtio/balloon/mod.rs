//! The memory balloon: the guest's driver gives pages that the guest does not need, and the host takes their frames.
//!
//! The manager sets a target ([`Balloon::set_target_pages`] through
//! [`VirtioMmio::change_config`](super::mmio::VirtioMmio::change_config)); the driver gives pages (inflates) until it
//! has given so many, or takes some back (deflates) when there are too many. Each page given goes to
//! [`GuestMemory::discard`]: it reads as zero from then on, and is backed again when the guest touches it, so taking
//! back needs nothing of us. A guest that goes on using a page it gave harms itself alone; what it says of its balloon
//! ([`Balloon::actual_pages`]) and of its memory ([`GuestStats`]) is its word.

mod reader;
pub mod spec;
mod stats;
#[cfg(test)]
mod tests;

pub use stats::GuestStats;

use super::spec::DEVICE_BALLOON;
use super::{Queue, QueueError, VirtioDevice};
use crate::memory::{GuestMemory, GuestPhysAddr};
use reader::for_each_record;
use spec::*;

/// Size of the inflate and the deflate queue. Drivers wait for each buffer; few entries bound what one notification
/// costs.
const PAGES_QUEUE_SIZE: u16 = 16;
/// Size of the statistics queue, which never holds more than one buffer.
const STATS_QUEUE_SIZE: u16 = 2;
/// The longest buffer of page numbers: a page full of them, 4 MiB worth of memory. (Linux sends 1 KiB, Windows a page.)
const PFNS_LEN_MAX: u32 = 4096;
/// The longest buffer of statistics.
const STATS_LEN_MAX: u32 = 1024;

/// The balloon device.
#[derive(Clone, Debug)]
pub struct Balloon {
    /// `num_pages`: how many pages the guest shall have given.
    target_pages: u32,
    /// `actual`: how many the driver says it has given.
    actual_pages: u32,
    /// The device-specific features that the driver accepted.
    features: u64,
    /// Pages that were given, in all.
    inflated: u64,
    /// Pages that were taken back, in all.
    deflated: u64,
    stats: GuestStats,
    /// The statistics buffer that waits here until statistics are wanted.
    stats_buffer: Option<u16>,
    /// How many statistics buffers have come.
    stats_count: u64,
}

impl Balloon {
    /// A balloon that holds nothing and asks for nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            target_pages: 0,
            actual_pages: 0,
            features: 0,
            inflated: 0,
            deflated: 0,
            stats: GuestStats::default(),
            stats_buffer: None,
            stats_count: 0,
        }
    }

    /// Sets how many 4 KiB pages the guest shall have given. It stays over a reset.
    pub fn set_target_pages(&mut self, pages: u32) {
        self.target_pages = pages;
    }

    /// How many 4 KiB pages the guest shall have given.
    #[must_use]
    pub const fn target_pages(&self) -> u32 {
        self.target_pages
    }

    /// How many 4 KiB pages the driver says it has given.
    #[must_use]
    pub const fn actual_pages(&self) -> u32 {
        self.actual_pages
    }

    /// How many pages were given since the last reset, counting each time.
    #[must_use]
    pub const fn inflated(&self) -> u64 {
        self.inflated
    }

    /// How many pages were taken back since the last reset, counting each time.
    #[must_use]
    pub const fn deflated(&self) -> u64 {
        self.deflated
    }

    /// The guest's last figures, and how many it has sent since the last reset.
    #[must_use]
    pub const fn stats(&self) -> (&GuestStats, u64) {
        (&self.stats, self.stats_count)
    }

    /// Asks the driver for new figures by giving its buffer back. Nothing happens while an earlier request is open, or
    /// where the driver has no statistics.
    ///
    /// # Errors
    /// [`QueueError`]
    pub fn request_stats(&mut self, queue: &mut Queue, memory: &mut dyn GuestMemory) -> Result<(), QueueError> {
        if let Some(head) = self.stats_buffer {
            queue.give_back(head, 0, memory)?;
            self.stats_buffer = None;
        }
        Ok(())
    }

    /// Page numbers in the next buffer, each to `page`; gives how many there were.
    fn pages(
        queue: &mut Queue,
        memory: &mut dyn GuestMemory,
        mut page: impl FnMut(GuestPhysAddr, &mut dyn GuestMemory),
    ) -> Result<u64, QueueError> {
        let chain = queue.next_chain(memory)?;
        let mut count = 0;
        let read = for_each_record(queue, chain, PFNS_LEN_MAX, memory, |pfn: [u8; PFN_LEN], memory| {
            page(GuestPhysAddr(u64::from(u32::from_le_bytes(pfn)) << PFN_SHIFT), memory);
            count += 1;
        });
        // The frames are the host's before the driver hears that they are; and where the buffer breaks off, those
        // before are too.
        memory.flush_discards();
        read?;
        queue.finish(chain.head, 0, memory)?;
        Ok(count)
    }

    fn take_stats(&mut self, queue: &mut Queue, memory: &mut dyn GuestMemory) -> Result<(), QueueError> {
        // "The driver MUST [...] make at most one buffer available": with a second one the first goes back.
        self.request_stats(queue, memory)?;
        let chain = queue.next_chain(memory)?;
        let mut stats = GuestStats::default();
        for_each_record(queue, chain, STATS_LEN_MAX, memory, |entry, _| stats.take(entry))?;
        queue.take();
        self.stats = stats;
        self.stats_count += 1;
        self.stats_buffer = Some(chain.head);
        Ok(())
    }
}

impl Default for Balloon {
    fn default() -> Self {
        Self::new()
    }
}

impl VirtioDevice for Balloon {
    const DEVICE_ID: u32 = DEVICE_BALLOON;
    const FEATURES: u64 = F_MUST_TELL_HOST | F_STATS_VQ | F_DEFLATE_ON_OOM;
    const QUEUE_SIZES: &'static [u16] = &[PAGES_QUEUE_SIZE, PAGES_QUEUE_SIZE, STATS_QUEUE_SIZE];

    fn reset(&mut self) {
        *self = Self { target_pages: self.target_pages, ..Self::new() };
    }

    fn start(&mut self, features: u64) {
        self.features = features;
    }

    fn config_read(&self, offset: u32) -> u8 {
        let (field, at) = match offset {
            CONFIG_NUM_PAGES..CONFIG_ACTUAL => (self.target_pages, offset - CONFIG_NUM_PAGES),
            CONFIG_ACTUAL..CONFIG_END => (self.actual_pages, offset - CONFIG_ACTUAL),
            _ => return 0,
        };
        usize::try_from(at).ok().and_then(|at| field.to_le_bytes().get(at).copied()).unwrap_or(0)
    }

    fn config_write(&mut self, offset: u32, value: u8) {
        let Some(at) = offset.checked_sub(CONFIG_ACTUAL).and_then(|at| usize::try_from(at).ok()) else { return };
        let mut bytes = self.actual_pages.to_le_bytes();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        self.actual_pages = u32::from_le_bytes(bytes);
    }

    fn process(&mut self, index: usize, queue: &mut Queue, memory: &mut dyn GuestMemory) -> Result<(), QueueError> {
        for _ in 0..queue.waiting(memory)? {
            match index {
                INFLATE_QUEUE => self.inflated += Self::pages(queue, memory, |gpa, memory| memory.discard(gpa))?,
                DEFLATE_QUEUE => self.deflated += Self::pages(queue, memory, |_, _| {})?,
                STATS_QUEUE if self.features & F_STATS_VQ != 0 => self.take_stats(queue, memory)?,
                _ => break,
            }
        }
        Ok(())
    }
}
