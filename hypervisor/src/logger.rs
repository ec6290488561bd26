//! The host's log: on the serial console, and in a ring that `dmesg` shows.

use alloc::format;
use alloc::string::String;
use lamina_core::ring::ByteRing;
use lamina_hw::{serial, time};
use log::{LevelFilter, Log, Metadata, Record};
use spin::{Mutex, Once};

/// Bytes of log that `dmesg` can show.
const RING_BYTES: usize = 32 * 1024;

struct Logger {
    ring: Once<Mutex<ByteRing>>,
    /// (TSC at boot, TSC ticks per microsecond), once the TSC's frequency is known.
    clock: Once<(u64, u64)>,
}

static LOGGER: Logger = Logger { ring: Once::new(), clock: Once::new() };

/// Starts the log. Needs the heap.
pub(crate) fn init() {
    LOGGER.ring.call_once(|| Mutex::new(ByteRing::new(RING_BYTES)));
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// From here on, log lines carry the time since `boot_tsc`.
pub(crate) fn set_clock(boot_tsc: u64, tsc_hz: u64) {
    LOGGER.clock.call_once(|| (boot_tsc, (tsc_hz / 1_000_000).max(1)));
}

/// What `dmesg` shows: the newest part of the log.
pub(crate) fn recent() -> String {
    let bytes = LOGGER.ring.get().map(|ring| ring.lock().since(0)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (boot, ticks_per_us) = self.clock.get().copied().unwrap_or((time::now(), 1));
        let us = (time::now() - boot) / ticks_per_us;
        let (seconds, us) = (us / 1_000_000, us % 1_000_000);
        let line = format!("[{seconds:5}.{us:06}] {:5} {}\n", record.level(), record.args());
        if let Some(ring) = self.ring.get() {
            ring.lock().extend(line.as_bytes());
        }
        print(&line);
    }

    fn flush(&self) {
        serial::flush();
    }
}

/// Writes text to the serial console, with the line ends that a terminal wants.
pub(crate) fn print(text: &str) {
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            serial::write(b"\r\n");
        }
        serial::write(line.as_bytes());
    }
}
