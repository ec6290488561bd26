//! [`Refusal`]: why something is not given, in one line with exact figures.

use super::{Overcommit, Size};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use thiserror::Error;

/// How many holders a line names; the others are counted together.
const HOLDERS_SHOWN: usize = 6;

/// Why a request was refused. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    /// Not enough of one resource or two.
    #[error("insufficient resources: {}", Joined(.0))]
    Insufficient(Vec<Shortage>),
    /// A value out of its range.
    #[error("vm {name}: {what}")]
    Invalid {
        /// The VM.
        name: String,
        /// What is wrong and what is allowed.
        what: String,
    },
    /// The name is another VM's.
    #[error("there is a VM called {name} already; choose another name or destroy it")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A number that the request would give to a VM is another VM's.
    #[error("there is a VM with the number {vm} already")]
    NumberTaken {
        /// The number.
        vm: u32,
    },
    /// There is no VM with this number.
    #[error("there is no VM with the number {vm}")]
    Unknown {
        /// The number.
        vm: u32,
    },
    /// The guest has touched more than it is to have, and cannot give it back.
    #[error(
        "vm {name}: {} are populated and its guest has no balloon to give them back, so its memory cannot become {}; \
         stop the VM first or use a guest with a balloon driver",
        Size::from(*.populated_bytes), Size::from(*.target_bytes)
    )]
    Populated {
        /// The VM.
        name: String,
        /// What is populated, in bytes.
        populated_bytes: u64,
        /// What was asked for, in bytes.
        target_bytes: u64,
    },
    /// Others have not yet given back what was promised to the VM.
    #[error(
        "vm {name}: {} of its memory are still to be given back{}; start it when they are, or stop those VMs",
        Size::from(*.owed_bytes), Givers(.from)
    )]
    Owed {
        /// The VM.
        name: String,
        /// What it waits for, in bytes.
        owed_bytes: u64,
        /// Who gives it back, and how much each.
        from: Vec<Holder>,
    },
    /// More is reserved than the overcommit would allow.
    #[error(
        "overcommit {overcommit}: {} are reserved and only {} would be allowed; shrink or destroy VMs first",
        Size::from(*.reserved_bytes), Size::from(*.limit_bytes)
    )]
    Overcommitted {
        /// What was asked for.
        overcommit: Overcommit,
        /// What is reserved, in bytes.
        reserved_bytes: u64,
        /// What could be reserved, in bytes.
        limit_bytes: u64,
    },
}

/// Somebody who holds some of what lacks: bytes, or percent of a CPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// The VM's name, or `tables` for the host's tables of all of them.
    pub name: String,
    /// How much.
    pub amount: u64,
}

/// A resource that does not suffice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shortage {
    /// Memory, in bytes.
    Memory {
        /// For how many VMs.
        count: u32,
        /// The memory of each.
        each_bytes: u64,
        /// The host's tables for each.
        overhead_bytes: u64,
        /// What could have been given.
        available_bytes: u64,
        /// The memory there is, and the factor it may be reserved by.
        memory_bytes: u64,
        /// That factor.
        overcommit: Overcommit,
        /// Who holds the rest, the largest first.
        holders: Vec<Holder>,
    },
    /// CPU, in percent of one.
    Cpu {
        /// For how many VMs.
        count: u32,
        /// The reservation of each.
        each_percent: u32,
        /// What could have been given.
        available_percent: u64,
        /// The CPUs there are.
        cpus: u32,
        /// Who holds the rest, the largest first.
        holders: Vec<Holder>,
    },
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { count, each_bytes, overhead_bytes, available_bytes, memory_bytes, overcommit, holders } => {
                let all = u128::from(*count) * (u128::from(*each_bytes) + u128::from(*overhead_bytes));
                write!(f, "memory: requested {count} x ")?;
                if *overhead_bytes == 0 {
                    write!(f, "{}", Size::from(*each_bytes))?;
                } else {
                    write!(f, "({} + {} tables)", Size::from(*each_bytes), Size::from(*overhead_bytes))?;
                }
                write!(f, " = {}, available {}", Size(all), Size::from(*available_bytes))?;
                if *overcommit != Overcommit::NONE {
                    write!(f, " of {overcommit} x {}", Size::from(*memory_bytes))?;
                }
                write_holders(f, "reserved", holders, &|f, amount| write!(f, "{}", Size(amount)))
            }
            Self::Cpu { count, each_percent, available_percent, cpus, holders } => {
                let all = u64::from(*count) * u64::from(*each_percent);
                let plural = if *cpus == 1 { "" } else { "s" };
                write!(f, "cpu: requested {count} x {each_percent} % = {all} %, ")?;
                write!(f, "available {available_percent} % of {cpus} CPU{plural}")?;
                write_holders(f, "reserved", holders, &|f, amount| write!(f, "{amount} %"))
            }
        }
    }
}

type WriteAmount<'a> = &'a dyn Fn(&mut fmt::Formatter<'_>, u128) -> fmt::Result;

/// Lists them, the first by name and the others together.
fn write_holders(f: &mut fmt::Formatter<'_>, intro: &str, holders: &[Holder], amount: WriteAmount<'_>) -> fmt::Result {
    // "And 1 more" is no shorter than its name.
    let shown = if holders.len() <= HOLDERS_SHOWN + 1 { holders.len() } else { HOLDERS_SHOWN };
    let (named, others) = holders.split_at_checked(shown).unwrap_or((holders, &[]));
    write!(f, " ({intro}: ")?;
    if named.is_empty() {
        f.write_str("nothing")?;
    }
    for (index, holder) in named.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        write!(f, "{separator}{} ", holder.name)?;
        amount(f, holder.amount.into())?;
    }
    if !others.is_empty() {
        write!(f, " and {} more ", others.len())?;
        amount(f, others.iter().map(|holder| u128::from(holder.amount)).sum())?;
    }
    f.write_str(")")
}

struct Givers<'a>(&'a [Holder]);

impl fmt::Display for Givers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_holders(f, "by", self.0, &|f, amount| write!(f, "{}", Size(amount)))
    }
}

struct Joined<'a>(&'a [Shortage]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, shortage) in self.0.iter().enumerate() {
            write!(f, "{}{shortage}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}
