//! What can be wrong with a configuration, in one line each.

use super::units::{UnitError, format_duration_us, format_ratio, format_size};
use super::{host, value};
use crate::fault::RestartLimit;
use crate::sched::CpuSetError;
use alloc::string::String;
use thiserror::Error;

/// Something in the configuration file that cannot be taken. Its text is one line.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{}:{line}: {message}", super::CONFIG_FILE)]
pub struct ConfigError {
    /// The line of the file, from 1.
    pub line: usize,
    /// What is wrong there and what is allowed.
    pub message: String,
}

/// Why a value does not do for its key, and what would.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ValueError {
    /// Not a size, a time, an address or a number.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// Not one of the words that the key knows.
    #[error("not one of {allowed}")]
    NotOneOf {
        /// The words.
        allowed: &'static str,
    },
    /// A VM's name with other characters, or of another length, than allowed.
    #[error(
        "not a VM name; write a-z, 0-9 and -, at most {} characters, the first a letter or digit",
        value::NAME_LEN_MAX
    )]
    NotAName,
    /// Not the name of a file of the ramdisk.
    #[error("not a file of the ramdisk; write its path as in \"linux/vmlinuz\", without a leading / and without ..")]
    NotAFile,
    /// A command line with control characters in it.
    #[error("a command line is one line, without control characters")]
    NotOneLine,
    /// Memory outside the range.
    #[error("memory is {} to {}", format_size(value::MEMORY_MIN_BYTES), format_size(value::MEMORY_MAX_BYTES))]
    MemoryRange,
    /// Memory that is no multiple of a page.
    #[error("memory is a multiple of 4K")]
    MemoryNotPages,
    /// A quantum outside the range.
    #[error(
        "a quantum is {} to {}",
        format_duration_us(value::QUANTUM_MIN_US),
        format_duration_us(value::QUANTUM_MAX_US)
    )]
    QuantumRange,
    /// Neither `true` nor `false`.
    #[error("write true or false")]
    NotAFlag,
    /// A number outside its range.
    #[error("{what} is {min} to {max}")]
    Range {
        /// What the number is, with its article.
        what: &'static str,
        /// The least.
        min: u32,
        /// The greatest.
        max: u32,
    },
    /// Not a number of restarts and a time, or one of them outside its range.
    #[error(
        "not a restart limit; write 1 to {} restarts and a time of {} to {}, such as \"{}\"",
        RestartLimit::RESTARTS_MAX,
        format_duration_us(RestartLimit::WITHIN_MIN_US),
        format_duration_us(RestartLimit::WITHIN_MAX_US),
        RestartLimit::DEFAULT
    )]
    NotARestartLimit,
    /// Not a set of CPUs.
    #[error(transparent)]
    Cpus(#[from] CpuSetError),
    /// An overcommit outside its range.
    #[error(
        "overcommit is {} (none) to {}",
        format_ratio(host::OVERCOMMIT_MIN_PERCENT),
        format_ratio(host::OVERCOMMIT_MAX_PERCENT)
    )]
    OvercommitRange,
    /// A grace time above the greatest.
    #[error("a grace time is 0s to {}", format_duration_us(value::GRACE_MAX_US))]
    GraceRange,
    /// A heartbeat limit out of range.
    #[error(
        "a watchdog is {} to {}, or none",
        format_duration_us(value::WATCHDOG_MIN_US),
        format_duration_us(value::WATCHDOG_MAX_US)
    )]
    WatchdogRange,
    /// More reserved than the vCPUs could use.
    #[error("a reservation is at most 100 for each vCPU, which is {most} here")]
    ReservationAboveVcpus {
        /// What they could use, in percent of a CPU.
        most: u32,
    },
    /// More reserved than the cap lets through.
    #[error("a reservation is at most the cap, which is {cap} here")]
    ReservationAboveCap {
        /// The cap, in percent of a CPU.
        cap: u32,
    },
    /// Memory that is not between its bounds.
    #[error(
        "memory is from memory_min to memory_max, which are {} and {} here",
        format_size(*min_bytes),
        format_size(*max_bytes)
    )]
    MemoryBounds {
        /// The lower bound.
        min_bytes: u64,
        /// The upper bound.
        max_bytes: u64,
    },
    /// A minimum above the memory.
    #[error("memory_min is at most memory, which is {} here", format_size(*memory_bytes))]
    MinAboveMemory {
        /// The memory.
        memory_bytes: u64,
    },
    /// A maximum below the memory.
    #[error("memory_max is at least memory, which is {} here", format_size(*memory_bytes))]
    MaxBelowMemory {
        /// The memory.
        memory_bytes: u64,
    },
    /// A name that gets too long by the number of the last replica.
    #[error("the replicas' names, up to {last}, are longer than {} characters", value::NAME_LEN_MAX)]
    ReplicaName {
        /// The longest of them.
        last: String,
    },
    /// A load address or entry for a format that has its own.
    #[error("only a flat image has it; give the format flat16, flat32 or flat64, or leave this out")]
    NotFlat,
}
