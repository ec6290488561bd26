//! [`Strategy`]: the allocation strategies by name.

/// How requests that compete for a resource are decided.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Strategy {
    /// What fits is granted, the rest is refused.
    #[default]
    Need,
    /// A VM of higher priority may take back from lower ones what they hold beyond their minimum.
    Priority,
    /// Memory follows measured use.
    Utilization,
    /// What is left is shared out.
    Capacity,
}

impl Strategy {
    /// Every strategy.
    pub const ALL: [Self; 4] = [Self::Need, Self::Priority, Self::Utilization, Self::Capacity];

    /// The strategy's name, as typed and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Need => "need",
            Self::Priority => "priority",
            Self::Utilization => "utilization",
            Self::Capacity => "capacity",
        }
    }

    /// The strategy with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|strategy| strategy.name() == name)
    }
}
