//! [`ExitCounters`]: how often a vCPU exited and why, and what its guest asked for that is not there.

/// Basic exit reasons that are counted one by one; the manual defines none beyond.
pub const REASON_COUNT: usize = 80;
/// How many different numbers a [`Tally`] tells apart.
const TALLY_LEN: usize = 16;

/// How often each of a few numbers occurred. The first ones to occur are kept; the rest are counted together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    entries: [(u64, u64); TALLY_LEN],
    used: usize,
    others: u64,
}

impl Tally {
    /// Counts one occurrence of `number`.
    pub fn count(&mut self, number: u64) {
        let used = self.used;
        if let Some((_, count)) = self.entries.iter_mut().take(used).find(|(known, _)| *known == number) {
            *count = count.saturating_add(1);
        } else if let Some(free) = self.entries.get_mut(used) {
            *free = (number, 1);
            self.used = used + 1;
        } else {
            self.others = self.others.saturating_add(1);
        }
    }

    /// Counts what another one has counted.
    pub fn merge(&mut self, other: &Self) {
        for (number, count) in other.entries() {
            let used = self.used;
            if let Some((_, own)) = self.entries.iter_mut().take(used).find(|(known, _)| *known == number) {
                *own = own.saturating_add(count);
            } else if let Some(free) = self.entries.get_mut(used) {
                *free = (number, count);
                self.used = used + 1;
            } else {
                self.others = self.others.saturating_add(count);
            }
        }
        self.others = self.others.saturating_add(other.others);
    }

    /// The numbers kept, with their counts, in the order of their first occurrence.
    pub fn entries(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.entries.iter().take(self.used).copied()
    }

    /// Occurrences of numbers that found no place.
    #[must_use]
    pub const fn others(&self) -> u64 {
        self.others
    }

    /// All occurrences.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.entries().fold(self.others, |sum, (_, count)| sum.saturating_add(count))
    }
}

/// Accesses to memory that is not there, one after the other.
///
/// A row of them ends with any other exit that the guest causes, an access to a device or new memory among them. The host's own
/// exits (interrupts, the preemption timer) do not end it. A guest that probes for devices or for the end of its memory makes
/// short rows; one that does nothing else but this makes a long one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MissedAccesses {
    in_a_row: u64,
    /// A row of so many is a loop.
    pub limit: u64,
}

impl MissedAccesses {
    /// Counts an access; whether this is a loop.
    pub const fn another(&mut self) -> bool {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.in_a_row >= self.limit
    }

    /// The guest did something else.
    pub const fn progress(&mut self) {
        self.in_a_row = 0;
    }
}

/// The statistics of one vCPU's exits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExitCounters {
    by_reason: [u64; REASON_COUNT],
    undefined_reasons: u64,
    /// Ports that no device claimed.
    pub unknown_ports: Tally,
    /// MSRs that do not exist.
    pub unknown_msrs: Tally,
    /// 4 KiB pages of guest-physical addresses, by their base, that are neither RAM nor a device.
    pub unknown_pages: Tally,
    /// Those in a row.
    pub missed: MissedAccesses,
}

impl ExitCounters {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        let none = Tally { entries: [(0, 0); TALLY_LEN], used: 0, others: 0 };
        Self {
            by_reason: [0; REASON_COUNT],
            undefined_reasons: 0,
            unknown_ports: none,
            unknown_msrs: none,
            unknown_pages: none,
            missed: MissedAccesses { in_a_row: 0, limit: u64::MAX },
        }
    }

    /// Counts an exit; `exit_reason` is the exit-reason field.
    pub fn count_exit(&mut self, exit_reason: u32) {
        self.count_exits(exit_reason, 1);
    }

    /// Counts several of a kind.
    pub fn count_exits(&mut self, exit_reason: u32, count: u64) {
        let slot = usize::try_from(exit_reason & 0xffff).ok().and_then(|basic| self.by_reason.get_mut(basic));
        *slot.unwrap_or(&mut self.undefined_reasons) += count;
    }

    /// Adds what another vCPU's counters have.
    pub fn merge(&mut self, other: &Self) {
        for (own, other) in self.by_reason.iter_mut().zip(other.by_reason) {
            *own = own.saturating_add(other);
        }
        self.undefined_reasons = self.undefined_reasons.saturating_add(other.undefined_reasons);
        self.unknown_ports.merge(&other.unknown_ports);
        self.unknown_msrs.merge(&other.unknown_msrs);
        self.unknown_pages.merge(&other.unknown_pages);
    }

    /// Exits by basic exit reason.
    #[must_use]
    pub const fn by_reason(&self) -> &[u64; REASON_COUNT] {
        &self.by_reason
    }

    /// All exits.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_reason.iter().fold(self.undefined_reasons, |sum, count| sum.saturating_add(*count))
    }
}

impl Default for ExitCounters {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn merged_counters_are_those_of_one_that_counted_all() {
        let (mut first, mut second, mut both) = (ExitCounters::new(), ExitCounters::new(), ExitCounters::new());
        for (step, reason) in (0..200_u32).map(|step| (step, step * 7 % 90)) {
            let own = if step % 3 == 0 { &mut first } else { &mut second };
            for counters in [own, &mut both] {
                counters.count_exit(reason);
                counters.unknown_ports.count(u64::from(step % 5));
                counters.unknown_pages.count(u64::from(step));
            }
        }
        first.merge(&second);
        assert_eq!((first.total(), first.by_reason()), (both.total(), both.by_reason()));
        let sorted = |tally: &Tally| {
            let mut entries: Vec<_> = tally.entries().collect();
            entries.sort_unstable();
            entries
        };
        assert_eq!(sorted(&first.unknown_ports), sorted(&both.unknown_ports));
        assert_eq!(first.unknown_pages.entries().count(), TALLY_LEN);
        assert_eq!(
            first.unknown_pages.total(),
            both.unknown_pages.total(),
            "what finds no place is counted with the others"
        );
        assert_eq!(first.unknown_msrs, Tally::default());
    }
}
