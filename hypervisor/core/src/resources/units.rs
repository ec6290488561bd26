//! What there is to give: [`Capacity`], [`Overcommit`]; and sizes as the operator reads them: [`Size`].

use crate::memory::PAGE_SIZE;
use core::fmt;

/// What the machine has for guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// The CPUs that run guests; each is 100 %.
    pub cpus: u32,
    /// Memory in bytes: guest memory and the host's tables for guests come out of it. A part of a frame does not count.
    pub memory_bytes: u64,
}

impl Capacity {
    /// All the CPUs, in percent of one.
    #[must_use]
    pub const fn cpu_percent(self) -> u64 {
        self.cpus as u64 * 100
    }
}

/// How much memory may be reserved, in percent of the memory there is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Overcommit(u32);

impl Overcommit {
    /// No more than there is.
    pub const NONE: Self = Self(100);
    /// Ten times what there is.
    pub const MAX: Self = Self(1000);

    /// An overcommit of `percent`, from 100 (none) to 1000.
    #[must_use]
    pub const fn from_percent(percent: u32) -> Option<Self> {
        if percent >= Self::NONE.0 && percent <= Self::MAX.0 { Some(Self(percent)) } else { None }
    }

    /// In percent.
    #[must_use]
    pub const fn percent(self) -> u32 {
        self.0
    }

    /// How many bytes may be reserved of `memory_bytes`, in whole frames.
    pub(super) fn limit(self, memory_bytes: u64) -> u64 {
        let frames = u128::from(memory_bytes / PAGE_SIZE) * u128::from(self.0) / 100;
        u64::try_from(frames * u128::from(PAGE_SIZE)).unwrap_or(!(PAGE_SIZE - 1))
    }
}

/// As a factor: `1.0`, `1.5`, `1.25`.
impl fmt::Display for Overcommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, hundredths) = (self.0 / 100, self.0 % 100);
        if hundredths % 10 == 0 {
            write!(f, "{whole}.{}", hundredths / 10)
        } else {
            write!(f, "{whole}.{hundredths:02}")
        }
    }
}

/// A number of bytes in the greatest of MiB, KiB and bytes that says it exactly: `64 MiB`, `66 KiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size(pub u128);

impl From<u64> for Size {
    fn from(bytes: u64) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.trailing_zeros() {
            20.. => write!(f, "{} MiB", self.0 >> 20),
            10.. => write!(f, "{} KiB", self.0 >> 10),
            _ => write!(f, "{} bytes", self.0),
        }
    }
}
