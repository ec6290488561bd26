//! The host's log: on the serial console, and in a ring that `dmesg` shows.
//!
//! While the hypervisor starts, lines go straight to the console. Once the console's prompt is there they wait until the
//! console task has taken the prompt off the row ([`take_pending`]).

use alloc::format;
use alloc::string::String;
use core::sync::atomic::{AtomicBool, Ordering};
use lamina_core::ring::ByteRing;
use lamina_core::time::TickClock;
use lamina_hw::{serial, time};
use log::{LevelFilter, Log, Metadata, Record};
use spin::{Mutex, Once};

/// Bytes of log that `dmesg` can show.
const RING_BYTES: usize = 32 * 1024;
/// Bytes that may wait for the console; with more, who writes without end has to wait, and they are shown, prompt or not.
const PENDING_BYTES: usize = 16 * 1024;

struct Logger {
    ring: Once<Mutex<ByteRing>>,
    /// The TSC at boot, and its clock, once its frequency is known.
    clock: Once<(u64, TickClock)>,
    pending: Mutex<String>,
    deferred: AtomicBool,
}

static LOGGER: Logger = Logger {
    ring: Once::new(),
    clock: Once::new(),
    pending: Mutex::new(String::new()),
    deferred: AtomicBool::new(false),
};

/// Starts the log. Needs the heap.
pub(crate) fn init() {
    LOGGER.ring.call_once(|| Mutex::new(ByteRing::new(RING_BYTES)));
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// From here on, log lines carry the time since `boot_tsc`.
pub(crate) fn set_clock(boot_tsc: u64, tsc_hz: u64) {
    LOGGER.clock.call_once(|| (boot_tsc, TickClock::new(tsc_hz)));
}

/// From here on, lines wait for [`take_pending`].
pub(crate) fn defer() {
    LOGGER.deferred.store(true, Ordering::Release);
}

/// Whether lines wait for [`take_pending`].
pub(crate) fn has_pending() -> bool {
    !LOGGER.pending.lock().is_empty()
}

/// Whether so much waits that guests' output has to.
pub(crate) fn is_full() -> bool {
    LOGGER.pending.lock().len() > PENDING_BYTES
}

/// The lines that wait for the console.
pub(crate) fn take_pending() -> String {
    core::mem::take(&mut *LOGGER.pending.lock())
}

/// What `dmesg` shows: the newest part of the log, and how many older bytes it no longer has.
pub(crate) fn recent() -> (alloc::vec::Vec<u8>, u64) {
    let Some(ring) = LOGGER.ring.get() else { return Default::default() };
    let ring = ring.lock();
    (ring.since(0), ring.oldest())
}

/// Shows a line on the console that is not part of the log.
pub(crate) fn say(line: &str) {
    if !LOGGER.deferred.load(Ordering::Acquire) {
        print(line);
        print("\n");
        return;
    }
    let mut pending = LOGGER.pending.lock();
    pending.push_str(line);
    pending.push('\n');
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let us = self.clock.get().map_or(0, |(boot, clock)| clock.ticks_to_periods(time::now() - boot, 1_000_000));
        let (seconds, us) = (us / 1_000_000, us % 1_000_000);
        let line = format!("[{seconds:5}.{us:06}] {:5} {}", record.level(), record.args());
        if let Some(ring) = self.ring.get() {
            let mut ring = ring.lock();
            ring.extend(line.as_bytes());
            ring.push(b'\n');
        }
        say(&line);
    }

    fn flush(&self) {
        serial::flush();
    }
}

/// Writes text to the serial console at once, with the line ends that a terminal wants.
pub(crate) fn print(text: &str) {
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            serial::write(b"\r\n");
        }
        serial::write(line.as_bytes());
    }
}
