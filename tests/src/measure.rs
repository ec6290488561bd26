//! Emulated time and CPU time, as the console tells them.
//!
//! A test lets time of the machine pass ([`pass_time`]) between two [`Snapshot`]s and looks at the difference ([`Stretch`]).
//! The wall clock plays no part: the emulator's time follows its instructions.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::machine::Session;

use crate::{field, reply};

/// How long the machine is up, in microseconds of its own time.
pub fn uptime_us(session: &mut Session) -> Result<u64> {
    number(&reply(session, "version")?, "/uptime_us")
}

/// Waits until so much more of the machine's own time has passed.
pub fn pass_time(session: &mut Session, us: u64) -> Result<()> {
    let end = uptime_us(session)? + us;
    while uptime_us(session)? < end {}
    Ok(())
}

/// A whole number in an answer, by its JSON pointer.
pub fn number(value: &Value, pointer: &str) -> Result<u64> {
    field(value, pointer)?.as_u64().with_context(|| format!("{pointer} is no whole number in {value}"))
}

/// The row of an array in an answer whose `key` is `name`.
pub fn row<'value>(value: &'value Value, array: &str, key: &str, name: &str) -> Result<&'value Value> {
    let rows = field(value, array)?.as_array().with_context(|| format!("{array} is no array in {value}"))?;
    let found = rows.iter().find(|row| row.get(key).is_some_and(|value| value == name));
    found.with_context(|| format!("there is no {name} in {array} of {value}"))
}

/// What each VM has used of the CPUs by a point in time, all read at once.
#[derive(Debug, Clone)]
pub struct Snapshot {
    at_us: u64,
    cpu_time_us: BTreeMap<String, u64>,
}

impl Snapshot {
    /// Asks for it.
    pub fn take(session: &mut Session) -> Result<Self> {
        let state = reply(session, "state")?;
        let rows = field(&state, "/sched/vms")?.as_array().context("sched.vms is no array")?;
        let time = |row: &Value| -> Result<(String, u64)> {
            let name = field(row, "/vm")?.as_str().context("a VM's name is no text")?;
            Ok((name.to_owned(), number(row, "/cpu_time_us")?))
        };
        Ok(Self {
            at_us: number(&state, "/lamina/uptime_us")?,
            cpu_time_us: rows.iter().map(time).collect::<Result<_>>()?,
        })
    }
}

/// What happened between two snapshots.
#[derive(Debug, Clone)]
pub struct Stretch {
    /// How long it was, in microseconds.
    pub length_us: u64,
    cpu_us: BTreeMap<String, u64>,
}

impl Stretch {
    /// Lets so much time pass, and says what the VMs had of it.
    pub fn of(session: &mut Session, us: u64) -> Result<Self> {
        let begin = Snapshot::take(session)?;
        pass_time(session, us)?;
        Self::since(session, &begin)
    }

    /// What the VMs had since an earlier snapshot. A VM that was started anew since then must not be asked about.
    pub fn since(session: &mut Session, begin: &Snapshot) -> Result<Self> {
        let end = Snapshot::take(session)?;
        let used = |(name, used): (String, u64)| {
            let before = begin.cpu_time_us.get(&name).copied().unwrap_or(0);
            (name, used.saturating_sub(before))
        };
        let length_us = end.at_us.saturating_sub(begin.at_us);
        ensure!(length_us > 0, "no time has passed between two snapshots");
        Ok(Self { length_us, cpu_us: end.cpu_time_us.into_iter().map(used).collect() })
    }

    /// The CPU time that a VM had, in microseconds.
    pub fn cpu_us(&self, name: &str) -> Result<u64> {
        self.cpu_us.get(name).copied().with_context(|| format!("there is no VM {name} in {:?}", self.cpu_us))
    }

    /// How much of one CPU a VM had.
    pub fn cpus(&self, name: &str) -> Result<f64> {
        Ok(self.cpu_us(name)? as f64 / self.length_us as f64)
    }

    /// How much of one CPU all VMs had together.
    pub fn total_cpus(&self) -> f64 {
        self.cpu_us.values().sum::<u64>() as f64 / self.length_us as f64
    }

    /// Jain's index of fairness of what these VMs had: `(sum x)^2 / (n sum x^2)`, 1 where all are equal.
    pub fn jain(&self, names: &[String]) -> Result<f64> {
        let times = names.iter().map(|name| Ok(self.cpu_us(name)? as f64)).collect::<Result<Vec<_>>>()?;
        let (sum, squares) = (times.iter().sum::<f64>(), times.iter().map(|time| time * time).sum::<f64>());
        ensure!(squares > 0.0, "none of {names:?} had any CPU time");
        Ok(sum * sum / (times.len() as f64 * squares))
    }
}

/// Fails unless `found` is within `per_cent` per cent of `expected`.
pub fn ensure_near(what: &str, found: f64, expected: f64, per_cent: f64) -> Result<()> {
    let off = (found - expected).abs() / expected * 100.0;
    ensure!(
        off <= per_cent,
        "{what}: {found:.4} instead of {expected:.4}, off by {off:.2} %; allowed are {per_cent} %"
    );
    Ok(())
}

/// What each of these claims (a weight, and the most that it can use) is due of `capacity`: in proportion to the weights,
/// and what one cannot use is shared among the others.
#[must_use]
pub fn due(claims: &[(f64, f64)], capacity: f64) -> Vec<f64> {
    let mut due = vec![0.0; claims.len()];
    let mut open: Vec<usize> = (0..claims.len()).collect();
    let mut left = capacity;
    while !open.is_empty() {
        let weights: f64 = open.iter().filter_map(|&index| claims.get(index)).map(|claim| claim.0).sum();
        let full = |index: &usize| claims.get(*index).is_some_and(|(weight, most)| left * weight / weights >= *most);
        let (filled, rest): (Vec<usize>, Vec<usize>) = open.iter().partition(|index| full(index));
        let share = |index: usize| {
            claims
                .get(index)
                .map_or(0.0, |(weight, most)| if filled.is_empty() { left * weight / weights } else { *most })
        };
        for &index in if filled.is_empty() { &rest } else { &filled } {
            if let Some(due) = due.get_mut(index) {
                *due = share(index);
            }
        }
        if filled.is_empty() {
            break;
        }
        left -= filled.iter().map(|&index| share(index)).sum::<f64>();
        open = rest;
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_cannot_use_goes_to_the_others_by_weight() {
        // Two CPUs, three guests with one vCPU each: 4/7 of two is more than one.
        let shares = due(&[(1.0, 1.0), (2.0, 1.0), (4.0, 1.0)], 2.0);
        for (share, expected) in shares.iter().zip([1.0 / 3.0, 2.0 / 3.0, 1.0]) {
            assert!((share - expected).abs() < 1e-9, "{shares:?}");
        }
        assert_eq!(due(&[(1.0, 1.0), (1.0, 1.0)], 4.0), [1.0, 1.0]);
        assert_eq!(due(&[(1.0, 0.25), (1.0, 1.0)], 1.0), [0.25, 0.75]);
    }

    #[test]
    fn jains_index_is_one_for_equals_and_less_for_others() {
        let stretch = |times: &[u64]| Stretch {
            length_us: 1,
            cpu_us: times.iter().enumerate().map(|(index, time)| (index.to_string(), *time)).collect(),
        };
        let names = ["0".to_owned(), "1".to_owned()];
        assert!((stretch(&[5, 5]).jain(&names).unwrap() - 1.0).abs() < 1e-9);
        assert!((stretch(&[1, 0]).jain(&names).unwrap() - 0.5).abs() < 1e-9);
        assert!(stretch(&[0, 0]).jain(&names).is_err());
    }
}
