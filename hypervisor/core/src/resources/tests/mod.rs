//! Tests of the allocator: figures worked out by hand, and random sequences of every call against the invariants.

use super::*;
use crate::memory::PAGE_SIZE;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

mod memory;
mod properties;
mod refusals;
mod share;
mod strategies;
mod textbook;
mod touch;

const MIB: u64 = 1 << 20;

/// An allocator with so many CPUs and MiB, without overcommit.
fn machine(cpus: u32, mib: u64, strategy: Strategy) -> Allocator {
    Allocator::new(Capacity { cpus, memory_bytes: mib * MIB }, Overcommit::NONE, strategy)
}

/// A VM of so many MiB that may go from none (but a frame) to all of them.
fn vm(name: &str, mib: u64) -> Request {
    Request {
        name: name.into(),
        replicas: None,
        vcpus: 1,
        cpu_reservation_percent: 0,
        memory_bytes: mib * MIB,
        memory_min_bytes: PAGE_SIZE,
        memory_max_bytes: mib * MIB,
        priority: 50,
        weight: 100,
        overhead_bytes: 0,
    }
}

/// The refusal's line, after checking that nothing was changed.
fn refused<T: core::fmt::Debug>(
    allocator: &mut Allocator,
    call: impl FnOnce(&mut Allocator) -> Result<T, Refusal>,
) -> String {
    let before = allocator.clone();
    let line = call(allocator).expect_err("to be refused").to_string();
    assert_eq!(*allocator, before, "a refusal changed something");
    line
}

fn flexible(name: &str, mib: u64, max_mib: u64) -> Request {
    Request { memory_min_bytes: 4 * MIB, memory_max_bytes: max_mib * MIB, ..vm(name, mib) }
}

/// Backs `mib` MiB of a VM, which must be allowed.
fn populate(allocator: &mut Allocator, vm: u32, mib: u64) {
    assert_eq!(allocator.touch(vm, mib * MIB, u64::MAX), Touch::Back);
    back(allocator, vm, mib * MIB);
}

/// `bytes` more of a VM are backed.
fn back(allocator: &mut Allocator, vm: u32, bytes: u64) {
    let populated = allocator.populated_bytes(vm).unwrap();
    allocator.measured(vm, populated + bytes);
}

/// Takes `bytes` of what is backed of a VM, as its balloon gives them back.
fn release(allocator: &mut Allocator, vm: u32, bytes: u64) {
    let populated = allocator.populated_bytes(vm).unwrap();
    allocator.measured(vm, populated - bytes);
}

/// The targets in MiB, by number.
fn targets(allocator: &Allocator) -> Vec<u64> {
    allocator.view().vms.iter().map(|row| row.target_bytes / MIB).collect()
}

/// The lowered or raised targets, as (VM, from, to, pending) in MiB.
fn in_mib(changes: &[TargetChange]) -> Vec<(u32, u64, u64, u64)> {
    changes
        .iter()
        .map(|change| (change.vm, change.from_bytes / MIB, change.to_bytes / MIB, change.pending_bytes / MIB))
        .collect()
}
