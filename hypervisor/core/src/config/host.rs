//! The `[host]` table: what concerns the hypervisor itself.

use super::units::parse_duration_us;
use super::{ValueError, keys};
use log::LevelFilter;

/// What follows a panic of the hypervisor, once it is reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnPanic {
    /// Stay, for somebody to read the screen.
    #[default]
    Halt,
    /// Reset the machine.
    Reboot,
}

/// The `[host]` table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostConfig {
    /// The least urgent messages that the log keeps.
    pub log_level: LevelFilter,
    /// What follows a panic.
    pub on_panic: OnPanic,
    /// Whether the guests' serial lines show on the host console too.
    pub tee_serial: bool,
    /// The uptime in microseconds at which the machine powers off.
    pub poweroff_after_us: Option<u64>,
    /// Whether the machine powers off when no VM runs any more.
    pub poweroff_when_done: bool,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            log_level: LevelFilter::Info,
            on_panic: OnPanic::Halt,
            tee_serial: false,
            poweroff_after_us: None,
            poweroff_when_done: false,
        }
    }
}

keys! {
    /// A key of the `[host]` table.
    HostKey {
        LogLevel = "log_level" Text,
        OnPanic = "on_panic" Text,
        TeeSerial = "tee_serial" Flag,
        PoweroffAfter = "poweroff_after" Time,
        PoweroffWhenDone = "poweroff_when_done" Flag,
    }
}

impl HostConfig {
    /// Sets one key from its text.
    ///
    /// # Errors
    /// What is wrong with the text; nothing was changed.
    pub fn set(&mut self, key: HostKey, text: &str) -> Result<(), ValueError> {
        match key {
            HostKey::LogLevel => self.log_level = log_level(text)?,
            HostKey::OnPanic => {
                self.on_panic = match text {
                    "halt" => OnPanic::Halt,
                    "reboot" => OnPanic::Reboot,
                    _ => return Err(ValueError::NotOneOf { allowed: "halt, reboot" }),
                };
            }
            HostKey::TeeSerial => self.tee_serial = flag(text)?,
            HostKey::PoweroffAfter => self.poweroff_after_us = Some(parse_duration_us(text)?),
            HostKey::PoweroffWhenDone => self.poweroff_when_done = flag(text)?,
        }
        Ok(())
    }
}

fn log_level(text: &str) -> Result<LevelFilter, ValueError> {
    Ok(match text {
        "error" => LevelFilter::Error,
        "warn" => LevelFilter::Warn,
        "info" => LevelFilter::Info,
        "debug" => LevelFilter::Debug,
        "trace" => LevelFilter::Trace,
        _ => return Err(ValueError::NotOneOf { allowed: "error, warn, info, debug, trace" }),
    })
}

pub(super) fn flag(text: &str) -> Result<bool, ValueError> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(ValueError::NotAFlag),
    }
}
