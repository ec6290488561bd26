//! [`FaultReport`] and the log that keeps the last ones.

use super::Fault;
use crate::exit::ExitCounters;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// How many reports are kept of a VM.
pub const KEPT_REPORTS: usize = 8;

/// A fault, and what came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FaultReport {
    /// Which of the VM's faults it is, from 1.
    pub number: u64,
    /// When it was, in microseconds of the host's uptime.
    pub at_us: u64,
    /// Which of the VM's starts it happened to.
    pub start: u64,
    /// For how many microseconds the VM had run since then.
    pub ran_us: u64,
    /// The fault, with the vCPU's state.
    pub fault: Fault,
    /// The VM's exits since its start by basic exit reason, those that happened.
    pub exits: Vec<(usize, u64)>,
    /// Its accesses to ports, MSRs and memory that are not there.
    pub unknown: [u64; 3],
    /// What was done about it.
    pub action: String,
}

impl FaultReport {
    /// Takes over what counts of a VM's counters.
    pub fn count(&mut self, counters: &ExitCounters) {
        self.exits = counters.by_reason().iter().copied().enumerate().filter(|&(_, count)| count > 0).collect();
        self.unknown =
            [&counters.unknown_ports, &counters.unknown_msrs, &counters.unknown_pages].map(crate::exit::Tally::total);
    }
}

/// The last reports of a VM. It lasts as long as the VM is defined.
#[derive(Clone, Debug, Default)]
pub struct FaultLog {
    reports: VecDeque<Arc<FaultReport>>,
    total: u64,
}

impl FaultLog {
    /// The number that the next report has.
    #[must_use]
    pub const fn next_number(&self) -> u64 {
        self.total + 1
    }

    /// How many faults there were in all.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Keeps a report, with at most `keep` in all: the oldest give way.
    pub fn push(&mut self, report: FaultReport, keep: usize) {
        self.reports.push_back(Arc::new(report));
        self.reports.drain(..self.reports.len().saturating_sub(keep.max(1)));
        self.total += 1;
    }

    /// The reports, the oldest first.
    pub fn reports(&self) -> impl DoubleEndedIterator<Item = &Arc<FaultReport>> {
        self.reports.iter()
    }
}
