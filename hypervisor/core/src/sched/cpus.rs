//! The machine's CPUs, by number, and sets of them.

use core::fmt;

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
