//! What follows a fault: [`OnFault`] is the VM's policy, [`RestartLimit`] its patience, [`Recovery`] what it remembers.
//!
//! A VM whose policy is to restart is started anew after a back-off. Before the n-th restart within the limit's time it is
//!
//! ```text
//! backoff(n) = min(100 ms * 2^(n - 1), within / (2 * restarts))
//! ```
//!
//! where the limit is `restarts` in `within`. All back-offs of a full count add up to half of `within` at the most, so a guest
//! that dies at once always comes to its limit, whatever the limit is: it never loops for ever. One fault more than `restarts` in
//! `within` and the VM is left as crashed.
//!
//! A guest that resets itself has asked for a restart, whatever its policy. But one that does so within [`EARLY_US`] of its
//! start costs the host a build for next to nothing: such a reset waits its back-off and counts against the limit as a fault does,
//! and one too many is a fault.

use crate::config::units::{format_duration_us, parse_duration_us, parse_number};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use core::fmt;

/// The back-off before the first restart, in microseconds.
pub const FIRST_BACKOFF_US: u64 = 100_000;
/// A guest that resets itself within so many microseconds of its start does so early.
pub const EARLY_US: u64 = 1_000_000;

/// What is done with a VM that faults.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum OnFault {
    /// It is started anew, after a back-off, as long as its limit allows.
    Restart,
    /// It has crashed; its memory is given back.
    #[default]
    Stop,
    /// It stands still, and may be resumed.
    Pause,
    /// It has crashed, and is kept as it was: its memory is given back when the operator says so.
    Preserve,
}

impl OnFault {
    /// Every policy.
    pub const ALL: [Self; 4] = [Self::Restart, Self::Stop, Self::Pause, Self::Preserve];

    /// The policy as written in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Stop => "stop",
            Self::Pause => "pause",
            Self::Preserve => "preserve",
        }
    }
}

/// How many restarts within which time are the most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RestartLimit {
    /// How many.
    pub restarts: u32,
    /// Within which time, in microseconds.
    pub within_us: u64,
}

impl RestartLimit {
    /// 3 in 60 seconds.
    pub const DEFAULT: Self = Self { restarts: 3, within_us: 60_000_000 };
    /// The most restarts that a limit can allow.
    pub const RESTARTS_MAX: u32 = 100;
    /// The shortest time that a limit can be for.
    pub const WITHIN_MIN_US: u64 = 1_000_000;
    /// The longest.
    pub const WITHIN_MAX_US: u64 = 3_600_000_000;

    /// Reads `3 in 60s`; `None` where the text is no limit, or one outside the bounds.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (restarts, within) = text.split_once(" in ")?;
        let limit =
            Self { restarts: parse_number(restarts.trim()).ok()?, within_us: parse_duration_us(within.trim()).ok()? };
        let in_bounds = (1..=Self::RESTARTS_MAX).contains(&limit.restarts)
            && (Self::WITHIN_MIN_US..=Self::WITHIN_MAX_US).contains(&limit.within_us);
        in_bounds.then_some(limit)
    }

    /// How long to wait before restart number `nth`, from 1.
    #[must_use]
    pub fn backoff_us(self, nth: u32) -> u64 {
        let growing = FIRST_BACKOFF_US.saturating_mul(1_u64.checked_shl(nth.saturating_sub(1)).unwrap_or(u64::MAX));
        growing.min(self.within_us / (2 * u64::from(self.restarts.max(1))))
    }
}

impl fmt::Display for RestartLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.restarts, format_duration_us(self.within_us))
    }
}

/// A restart that the limit allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restart {
    /// How long to wait before it, in microseconds.
    pub after_us: u64,
    /// Which one within the limit's time it is, from 1.
    pub nth: u32,
    /// The limit.
    pub limit: RestartLimit,
}

/// What is to be done about a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Start the VM anew.
    Restart(Restart),
    /// The VM has crashed: give its memory back.
    Stop,
    /// As [`Action::Stop`], since this is one restart more than the limit allows.
    GiveUp(RestartLimit),
    /// Let the VM stand still.
    Pause,
    /// The VM has crashed: keep it as it is.
    Preserve,
}

impl Action {
    /// What is done, as a report tells it.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Restart(restart) => format!("{restart}"),
            Self::Stop => String::from("stopped; its memory is given back"),
            Self::GiveUp(limit) => format!("stopped: it was restarted {limit}, which is its limit"),
            Self::Pause => String::from("paused"),
            Self::Preserve => String::from("preserved as it is"),
        }
    }
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { after_us, nth, limit } = self;
        write!(f, "restarted after {} (restart {nth} of {limit})", format_duration_us(*after_us))
    }
}

/// What a VM's restarts were of late. An operator who starts or resets the VM begins anew.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Microseconds of uptime at which faults were answered by a restart, within the limit's time; never more than the limit.
    restarts: VecDeque<u64>,
}

impl Recovery {
    /// What is to be done about a fault at `now_us` of the host's uptime. A VM that is `ending` anyway, since its power button was
    /// pressed, ends whatever its policy.
    pub fn after_fault(&mut self, policy: OnFault, limit: RestartLimit, ending: bool, now_us: u64) -> Action {
        match policy {
            _ if ending => Action::Stop,
            OnFault::Restart => self.restart(limit, now_us).map_or(Action::GiveUp(limit), Action::Restart),
            OnFault::Stop => Action::Stop,
            OnFault::Pause => Action::Pause,
            OnFault::Preserve => Action::Preserve,
        }
    }

    /// What follows when the guest resets itself, having run for `ran_us`: a restart, or `None` if it is one too many.
    pub fn after_reset(&mut self, limit: RestartLimit, ran_us: u64, now_us: u64) -> Option<Restart> {
        if ran_us >= EARLY_US { Some(Restart { after_us: 0, nth: 0, limit }) } else { self.restart(limit, now_us) }
    }

    /// What is to be done about the fault of one reset too many: there is no restart left.
    #[must_use]
    pub const fn after_reset_loop(policy: OnFault, limit: RestartLimit, ending: bool) -> Action {
        match policy {
            _ if ending => Action::Stop,
            OnFault::Restart | OnFault::Stop => Action::GiveUp(limit),
            OnFault::Pause => Action::Pause,
            OnFault::Preserve => Action::Preserve,
        }
    }

    fn restart(&mut self, limit: RestartLimit, now_us: u64) -> Option<Restart> {
        self.restarts.retain(|at| now_us.saturating_sub(*at) < limit.within_us);
        let earlier = u32::try_from(self.restarts.len()).unwrap_or(u32::MAX);
        if earlier >= limit.restarts {
            return None;
        }
        self.restarts.push_back(now_us);
        let nth = earlier + 1;
        Some(Restart { after_us: limit.backoff_us(nth), nth, limit })
    }
}
