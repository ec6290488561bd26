//! [`PolicyKind`]: the scheduling policies by name.

/// A scheduling policy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum PolicyKind {
    /// Weighted proportional share, with caps and reservations.
    #[default]
    Fair,
    /// One queue, a quantum per VM: `T_next = T_current + T_quantum`.
    RoundRobin,
    /// First come, first served.
    Fcfs,
    /// The highest priority first, with ageing.
    Priority,
}

impl PolicyKind {
    /// Every policy.
    pub const ALL: [Self; 4] = [Self::Fair, Self::RoundRobin, Self::Fcfs, Self::Priority];

    /// The policy's name, as typed and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fair => "fair",
            Self::RoundRobin => "round-robin",
            Self::Fcfs => "fcfs",
            Self::Priority => "priority",
        }
    }

    /// The policy with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}
