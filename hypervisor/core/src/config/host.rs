//! The `[host]` table: what concerns the hypervisor itself.

use super::units::{parse_duration_us, parse_number, parse_ratio_percent};
use super::value::{grace, in_range};
use super::{ValueError, keys};
use crate::resources::Strategy;
use crate::sched::{MAX_CPUS, PolicyKind};
use crate::x86::speculation::{Mitigation, Mitigations};
use log::LevelFilter;

/// The least overcommit, in percent: nothing is promised that is not there.
pub(super) const OVERCOMMIT_MIN_PERCENT: u32 = 100;
/// The greatest overcommit, in percent.
pub(super) const OVERCOMMIT_MAX_PERCENT: u32 = 1000;

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
    /// How many of the machine's CPUs to use; `None` is all.
    pub cpus: Option<u32>,
    /// The scheduling policy to begin with.
    pub sched_policy: PolicyKind,
    /// The allocation strategy to begin with.
    pub alloc_strategy: Strategy,
    /// How much memory may be promised, in percent of what there is; 100 to 1000.
    pub overcommit_percent: u32,
    /// How long `vm stop` waits for a guest to power off before it ends it, in microseconds.
    pub stop_grace_us: u64,
    /// What of the mitigations of speculative execution is switched off.
    pub mitigations_off: Mitigations,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            log_level: LevelFilter::Info,
            on_panic: OnPanic::Halt,
            tee_serial: false,
            poweroff_after_us: None,
            poweroff_when_done: false,
            cpus: None,
            sched_policy: PolicyKind::Fair,
            alloc_strategy: Strategy::Need,
            overcommit_percent: OVERCOMMIT_MIN_PERCENT,
            stop_grace_us: 30_000_000,
            mitigations_off: Mitigations::NONE,
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
        Cpus = "cpus" NumberOr("all or a number of CPUs"),
        SchedPolicy = "sched_policy" Text,
        AllocStrategy = "alloc_strategy" Text,
        Overcommit = "overcommit" Ratio,
        StopGrace = "stop_grace" Time,
        Mitigations = "mitigations" Text,
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
            HostKey::Cpus => self.cpus = cpus(text)?,
            HostKey::SchedPolicy => self.sched_policy = sched_policy(text)?,
            HostKey::AllocStrategy => self.alloc_strategy = alloc_strategy(text)?,
            HostKey::Overcommit => self.overcommit_percent = overcommit_percent(text)?,
            HostKey::StopGrace => self.stop_grace_us = grace(text)?,
            HostKey::Mitigations => self.mitigations_off = mitigations_off(text)?,
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

fn cpus(text: &str) -> Result<Option<u32>, ValueError> {
    let most = u32::try_from(MAX_CPUS).unwrap_or(u32::MAX);
    if text == "all" { Ok(None) } else { in_range(parse_number(text)?, "the number of CPUs", 1, most).map(Some) }
}

/// `auto`, `off`, or what is left out, as in `-rsb-fill,-verw`.
fn mitigations_off(text: &str) -> Result<Mitigations, ValueError> {
    const REFUSED: ValueError = ValueError::NotOneOf {
        allowed: "auto, off, or what to leave out, as in -rsb-fill,-verw: ibrs, ibpb, stibp, rsb-fill, l1d-flush, verw, \
                  nx-huge-pages",
    };
    match text {
        "auto" => return Ok(Mitigations::NONE),
        "off" => return Ok(Mitigations::ALL),
        _ => {}
    }
    let mut off = Mitigations::NONE;
    for word in text.split(',') {
        off.insert(word.trim().strip_prefix('-').and_then(Mitigation::from_name).ok_or(REFUSED)?);
    }
    Ok(off)
}

/// The scheduling policy called `text`.
///
/// # Errors
/// Which there are, if there is none.
pub fn sched_policy(text: &str) -> Result<PolicyKind, ValueError> {
    PolicyKind::from_name(text).ok_or(ValueError::NotOneOf { allowed: "fair, round-robin, fcfs, priority" })
}

/// The allocation strategy called `text`.
///
/// # Errors
/// Which there are, if there is none.
pub fn alloc_strategy(text: &str) -> Result<Strategy, ValueError> {
    Strategy::from_name(text).ok_or(ValueError::NotOneOf { allowed: "need, priority, utilization, capacity" })
}

/// An overcommit such as `1.5`, in percent.
///
/// # Errors
/// What is wrong with it.
pub fn overcommit_percent(text: &str) -> Result<u32, ValueError> {
    let percent = parse_ratio_percent(text)?;
    let allowed = OVERCOMMIT_MIN_PERCENT..=OVERCOMMIT_MAX_PERCENT;
    if allowed.contains(&percent) { Ok(percent) } else { Err(ValueError::OvercommitRange) }
}

pub(super) fn flag(text: &str) -> Result<bool, ValueError> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(ValueError::NotAFlag),
    }
}
