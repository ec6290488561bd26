//! The machine's CPUs, by number, and sets of them.

use core::fmt;
use core::str::FromStr;
use thiserror::Error;

/// The most CPUs that a machine's scheduler knows.
pub const MAX_CPUS: usize = 256;

const WORDS: usize = MAX_CPUS / 64;

/// A CPU of the machine: 0 is the one that booted, the others are numbered as they came online.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CpuId(pub u16);

/// A set of CPUs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CpuSet([u64; WORDS]);

impl CpuSet {
    /// No CPU.
    pub const EMPTY: Self = Self([0; WORDS]);
    /// Every CPU there can be.
    pub const ALL: Self = Self([u64::MAX; WORDS]);

    /// This CPU alone.
    #[must_use]
    pub fn only(cpu: CpuId) -> Self {
        let mut set = Self::EMPTY;
        set.insert(cpu);
        set
    }

    /// Adds a CPU. One that no scheduler knows is ignored.
    pub fn insert(&mut self, cpu: CpuId) {
        if let Some(word) = self.0.get_mut(usize::from(cpu.0 / 64)) {
            *word |= 1 << (cpu.0 % 64);
        }
    }

    /// Takes a CPU out.
    pub fn remove(&mut self, cpu: CpuId) {
        if let Some(word) = self.0.get_mut(usize::from(cpu.0 / 64)) {
            *word &= !(1 << (cpu.0 % 64));
        }
    }

    /// Whether the CPU is in it.
    #[must_use]
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.0.get(usize::from(cpu.0 / 64)).is_some_and(|word| word & 1 << (cpu.0 % 64) != 0)
    }

    /// Whether no CPU is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// The CPUs in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut set = *self;
        for (word, other) in set.0.iter_mut().zip(other.0) {
            *word &= other;
        }
        set
    }

    /// The CPUs in either.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let mut set = *self;
        for (word, other) in set.0.iter_mut().zip(other.0) {
            *word |= other;
        }
        set
    }

    /// Its CPUs, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + '_ {
        (0..WORDS).flat_map(move |index| {
            let mut word = self.0.get(index).copied().unwrap_or(0);
            core::iter::from_fn(move || {
                (word != 0).then(|| {
                    let bit = word.trailing_zeros();
                    word &= word - 1;
                    CpuId(u16::try_from(index * 64).unwrap_or(0) + u16::try_from(bit).unwrap_or(0))
                })
            })
        })
    }
}

/// As the console shows it and takes it: `0-3,5`.
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("all");
        }
        let mut cpus = self.iter().map(|cpu| cpu.0).peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while cpus.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

/// Why a text names no CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum CpuSetError {
    /// Not `all`, and no list of numbers and ranges.
    #[error("not a set of CPUs; write all, or numbers and ranges as in 0-3,5")]
    Malformed,
    /// A CPU that no scheduler knows.
    #[error("a CPU is 0 to {}", MAX_CPUS - 1)]
    TooHigh,
    /// A range that ends before it begins.
    #[error("a range begins with its lower CPU, as in 0-3")]
    Backwards,
}

/// `all`, or numbers and ranges parted by commas: `0-3,5`. At least one CPU.
impl FromStr for CpuSet {
    type Err = CpuSetError;

    fn from_str(text: &str) -> Result<Self, CpuSetError> {
        if text == "all" {
            return Ok(Self::ALL);
        }
        let mut set = Self::EMPTY;
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (cpu(first)?, cpu(last)?);
            if last < first {
                return Err(CpuSetError::Backwards);
            }
            (first..=last).for_each(|cpu| set.insert(CpuId(cpu)));
        }
        Ok(set)
    }
}

/// A CPU's number: digits only.
fn cpu(text: &str) -> Result<u16, CpuSetError> {
    if text.is_empty() || !text.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(CpuSetError::Malformed);
    }
    text.parse().ok().filter(|&cpu| usize::from(cpu) < MAX_CPUS).ok_or(CpuSetError::TooHigh)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[test]
    fn sets_as_they_are_typed() {
        for (text, cpus) in
            [("0", &[0][..]), ("0-3,5", &[0, 1, 2, 3, 5]), ("7,1-2,2", &[1, 2, 7]), ("255,63-64", &[63, 64, 255])]
        {
            let set: CpuSet = text.parse().unwrap();
            assert_eq!(set.iter().map(|cpu| cpu.0).collect::<Vec<_>>(), cpus, "{text}");
        }
        assert_eq!("all".parse(), Ok(CpuSet::ALL));
        for text in ["", ",", "1,", "-1", "1-", "a", "0-3 5", "+1", "1--2", "ALL"] {
            assert_eq!(text.parse::<CpuSet>(), Err(CpuSetError::Malformed), "{text}");
        }
        assert_eq!("256".parse::<CpuSet>(), Err(CpuSetError::TooHigh));
        assert_eq!("0-99999999999".parse::<CpuSet>(), Err(CpuSetError::TooHigh));
        assert_eq!("3-0".parse::<CpuSet>(), Err(CpuSetError::Backwards));
    }

    proptest! {
        #[test]
        fn a_shown_set_reads_back(cpus in proptest::collection::btree_set(0u16..256, 1..256)) {
            let mut set = CpuSet::EMPTY;
            cpus.iter().for_each(|&cpu| set.insert(CpuId(cpu)));
            prop_assert_eq!(set.to_string().parse(), Ok(set));
        }
    }
}
