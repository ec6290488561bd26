//! The values of keys: from text to what is in a [`VmConfig`](super::VmConfig), with the ranges of each.

use super::ValueError;
use super::units::{parse_duration_us, parse_number, parse_size};
use crate::fault::{OnFault, RestartLimit};
use crate::loader::Format;
use crate::memory::PAGE_SIZE;
use crate::sched::PRIORITY_MAX;
use alloc::string::{String, ToString};

/// The longest name of a VM, in bytes.
pub(super) const NAME_LEN_MAX: usize = 31;
/// The longest path of a file in the ramdisk: what a ustar header holds.
pub(super) const PATH_LEN_MAX: usize = 255;
/// The least memory of a VM: everything below 1 MiB has its fixed place on a PC.
pub(super) const MEMORY_MIN_BYTES: u64 = 1 << 20;
/// The most memory of a VM. Far above any host's, and far below what 4-level EPT reaches.
pub(super) const MEMORY_MAX_BYTES: u64 = 1 << 40;
/// The shortest time slice: a switch must stay a small part of it.
pub(super) const QUANTUM_MIN_US: u64 = 100;
/// The longest time slice: the others wait that long.
pub(super) const QUANTUM_MAX_US: u64 = 1_000_000;

/// The most vCPUs of a VM.
pub const VCPUS_MAX: u16 = 64;
/// The most replicas of a description.
pub const REPLICAS_MAX: u32 = 1000;
/// How many accesses in a row to memory that is not there are a fault unless the VM says otherwise: some tens of megabytes read
/// or written there word by word, with nothing in between.
pub(super) const ACCESS_LOOP: u64 = 10_000_000;
/// The fewest that can be: who looks for the end of memory or for a device makes some dozens.
const ACCESS_LOOP_MIN: u32 = 1000;
/// The longest grace time of a stop.
pub(super) const GRACE_MAX_US: u64 = 3_600_000_000;
/// The shortest heartbeat limit: a vCPU that runs is looked at every 100 ms at the latest, and some looks are needed.
pub(super) const WATCHDOG_MIN_US: u64 = 1_000_000;
/// The longest heartbeat limit.
pub(super) const WATCHDOG_MAX_US: u64 = 3_600_000_000;
/// The highest cap and reservation: all vCPUs that a VM can have, in percent of a CPU.
pub(super) const PERCENT_MAX: u32 = VCPUS_MAX as u32 * 100;

pub(super) fn in_range(number: u32, what: &'static str, min: u32, max: u32) -> Result<u32, ValueError> {
    if (min..=max).contains(&number) { Ok(number) } else { Err(ValueError::Range { what, min, max }) }
}

pub(super) fn vcpus(text: &str) -> Result<u16, ValueError> {
    let number = in_range(parse_number(text)?, "the number of vCPUs", 1, VCPUS_MAX.into())?;
    Ok(u16::try_from(number).unwrap_or(VCPUS_MAX))
}

pub(super) fn priority(text: &str) -> Result<u8, ValueError> {
    let number = in_range(parse_number(text)?, "a priority", 0, PRIORITY_MAX.into())?;
    Ok(u8::try_from(number).unwrap_or(PRIORITY_MAX))
}

pub(super) fn cap(text: &str) -> Result<Option<u32>, ValueError> {
    if text == "none" { Ok(None) } else { percent(text, "a cap", 1).map(Some) }
}

/// Percent of a CPU, with or without the sign.
pub(super) fn percent(text: &str, what: &'static str, min: u32) -> Result<u32, ValueError> {
    in_range(parse_number(text.strip_suffix('%').unwrap_or(text))?, what, min, PERCENT_MAX)
}

/// A grace time of a stop, in microseconds.
///
/// # Errors
/// What is wrong with it.
pub fn grace(text: &str) -> Result<u64, ValueError> {
    let us = parse_duration_us(text)?;
    if us <= GRACE_MAX_US { Ok(us) } else { Err(ValueError::GraceRange) }
}

pub(super) fn on_fault(text: &str) -> Result<OnFault, ValueError> {
    let named = OnFault::ALL.into_iter().find(|policy| policy.name() == text);
    named.ok_or(ValueError::NotOneOf { allowed: "restart, stop, pause, preserve" })
}

pub(super) fn restart_limit(text: &str) -> Result<RestartLimit, ValueError> {
    RestartLimit::parse(text).ok_or(ValueError::NotARestartLimit)
}

pub(super) fn access_loop(text: &str) -> Result<Option<u64>, ValueError> {
    if text == "none" {
        return Ok(None);
    }
    let count = in_range(parse_number(text)?, "the number of accesses", ACCESS_LOOP_MIN, u32::MAX)?;
    Ok(Some(count.into()))
}

pub(super) fn watchdog(text: &str) -> Result<Option<u64>, ValueError> {
    if text == "none" {
        return Ok(None);
    }
    let us = parse_duration_us(text)?;
    if (WATCHDOG_MIN_US..=WATCHDOG_MAX_US).contains(&us) { Ok(Some(us)) } else { Err(ValueError::WatchdogRange) }
}

pub(super) fn name(text: &str) -> Result<String, ValueError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if text.is_empty() || text.len() > NAME_LEN_MAX || text.starts_with('-') || !text.bytes().all(allowed) {
        return Err(ValueError::NotAName);
    }
    Ok(text.to_string())
}

/// A path in the ramdisk has no spaces: in `modules` a space ends it.
pub(super) fn file(text: &str) -> Result<String, ValueError> {
    let bad = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
    let part_ok = |part: &str| !part.is_empty() && part != "." && part != "..";
    if text.len() > PATH_LEN_MAX || text.contains(bad) || !text.split('/').all(part_ok) {
        return Err(ValueError::NotAFile);
    }
    Ok(text.to_string())
}

pub(super) fn one_line(text: &str) -> Result<String, ValueError> {
    if text.contains(char::is_control) { Err(ValueError::NotOneLine) } else { Ok(text.to_string()) }
}

pub(super) fn memory(text: &str) -> Result<u64, ValueError> {
    let bytes = parse_size(text)?;
    if !(MEMORY_MIN_BYTES..=MEMORY_MAX_BYTES).contains(&bytes) {
        return Err(ValueError::MemoryRange);
    }
    if !bytes.is_multiple_of(PAGE_SIZE) {
        return Err(ValueError::MemoryNotPages);
    }
    Ok(bytes)
}

/// Whether a VM can have this much memory while it runs.
pub(super) fn memory_between(bytes: u64, min_bytes: u64, max_bytes: u64) -> Result<(), ValueError> {
    if (min_bytes..=max_bytes).contains(&bytes) {
        Ok(())
    } else {
        Err(ValueError::MemoryBounds { min_bytes, max_bytes })
    }
}

pub(super) fn quantum(text: &str) -> Result<u64, ValueError> {
    let us = parse_duration_us(text)?;
    if (QUANTUM_MIN_US..=QUANTUM_MAX_US).contains(&us) { Ok(us) } else { Err(ValueError::QuantumRange) }
}

pub(super) fn format(text: &str) -> Result<Format, ValueError> {
    Ok(match text {
        "auto" => Format::Auto,
        "linux" => Format::Linux,
        "pvh" => Format::Pvh,
        "multiboot" => Format::Multiboot,
        "flat16" => Format::Flat16,
        "flat32" => Format::Flat32,
        "flat64" => Format::Flat64,
        _ => return Err(ValueError::NotOneOf { allowed: "auto, linux, pvh, multiboot, flat16, flat32, flat64" }),
    })
}
