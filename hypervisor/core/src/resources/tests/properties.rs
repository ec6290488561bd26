//! Random sequences of every call. A model counts the host's frames by itself, and after each call all that is promised
//! in the module's documentation is checked.

use super::*;
use crate::resources::allocator::Sums;
use crate::resources::row::Row;
use alloc::vec;
use proptest::prelude::*;
use proptest::strategy::Strategy as Arbitrary;
use std::collections::BTreeMap;

const CPUS: u32 = 2;
const MEMORY: u64 = 48 * MIB;

#[derive(Clone, Debug)]
enum Call {
    Request { request: Request },
    Remove,
    SetMemory { bytes: u64 },
    SetBounds { min: u64, max: u64 },
    SetCpu { percent: u32 },
    SetPriority { priority: u8 },
    SetWeight { weight: u32 },
    SetStrategy { strategy: super::Strategy },
    SetOvercommit { percent: u32 },
    SetCanShrink { can_shrink: bool },
    Inflate { bytes: u64 },
    Touch { bytes: u64 },
    Release { bytes: u64 },
    End,
    CameBack,
    Rebalance { working_set: u64 },
}

fn frames(most: u64) -> impl Arbitrary<Value = u64> {
    (1..=most).prop_map(|frames| frames * PAGE_SIZE)
}

fn any_request() -> impl Arbitrary<Value = Request> {
    let sizes = (frames(500), frames(4000), frames(4000));
    let who = (prop_oneof![4 => Just(None), 1 => (0..4_u32).prop_map(Some)], 0..24_u32);
    (
        who,
        sizes,
        prop_oneof![9 => 1..4_u32, 1 => Just(0)],
        prop_oneof![4 => Just(0), 1 => 1..130_u32],
        0..4_u8,
        1..400_u32,
        0..20_u64,
    )
        .prop_map(|((replicas, name), (min, target, max), vcpus, cpu, priority, weight, tables)| {
            // Some of these are refused for their order: that is to be seen, too.
            let max = if name == 0 { max } else { max.max(target).max(min) };
            Request {
                name: alloc::format!("vm{name}"),
                replicas,
                vcpus,
                cpu_reservation_percent: cpu,
                memory_bytes: if name == 0 { target } else { target.max(min) },
                memory_min_bytes: min,
                memory_max_bytes: max,
                priority,
                weight,
                overhead_bytes: tables * PAGE_SIZE,
            }
        })
}

/// The two that move other VMs' targets for a request come more often.
fn any_strategy() -> impl Arbitrary<Value = super::Strategy> {
    use super::Strategy::{Capacity, Need, Priority, Utilization};
    proptest::sample::select(vec![Need, Utilization, Capacity, Capacity, Priority, Priority, Priority])
}

fn any_call() -> impl Arbitrary<Value = Call> {
    prop_oneof![
        8 => any_request().prop_map(|request| Call::Request { request }),
        2 => Just(Call::Remove),
        4 => frames(5000).prop_map(|bytes| Call::SetMemory { bytes }),
        1 => (frames(2000), frames(5000)).prop_map(|(min, max)| Call::SetBounds { min, max }),
        1 => (0..150_u32).prop_map(|percent| Call::SetCpu { percent }),
        1 => (0..110_u8).prop_map(|priority| Call::SetPriority { priority }),
        1 => (0..500_u32).prop_map(|weight| Call::SetWeight { weight }),
        1 => any_strategy().prop_map(|strategy| Call::SetStrategy { strategy }),
        1 => (100..200_u32).prop_map(|percent| Call::SetOvercommit { percent }),
        5 => proptest::bool::weighted(0.8).prop_map(|can_shrink| Call::SetCanShrink { can_shrink }),
        4 => frames(2000).prop_map(|bytes| Call::Inflate { bytes }),
        12 => frames(2000).prop_map(|bytes| Call::Touch { bytes }),
        3 => frames(2000).prop_map(|bytes| Call::Release { bytes }),
        1 => Just(Call::End),
        4 => Just(Call::CameBack),
        3 => (0..6000 * PAGE_SIZE).prop_map(|working_set| Call::Rebalance { working_set }),
    ]
}

/// The machine: an allocator, and what was really backed for whom.
struct Machine {
    allocator: Allocator,
    backed: BTreeMap<u32, u64>,
    next_vm: u32,
    now_us: u64,
    /// Whether more was ever allowed to be reserved than there is.
    overcommitted: bool,
}

impl Machine {
    fn new(strategy: super::Strategy) -> Self {
        let allocator = Allocator::new(Capacity { cpus: CPUS, memory_bytes: MEMORY }, Overcommit::NONE, strategy);
        Self { allocator, backed: BTreeMap::new(), next_vm: 1, now_us: 0, overcommitted: false }
    }

    fn free(&self) -> u64 {
        let tables: u64 = self.allocator.rows.iter().map(|row| row.overhead).sum();
        MEMORY.saturating_sub(tables + self.backed.values().sum::<u64>())
    }

    fn row(&self, vm: u32) -> Row {
        self.allocator.row(vm).expect("a VM of the model").clone()
    }

    /// Does it to the VM `choice` leads to. A refusal must change nothing.
    fn call(&mut self, call: &Call, choice: usize) {
        let before = self.allocator.clone();
        let vm = self.backed.keys().nth(choice % self.backed.len().max(1)).copied().unwrap_or(0);
        let allocator = &mut self.allocator;
        let refused = match call {
            Call::Request { request } => return self.request(request, &before),
            Call::SetMemory { bytes } => match allocator.set_memory(vm, *bytes) {
                Ok(change) => {
                    assert_eq!((change.own.vm, change.own.to_bytes), (vm, *bytes));
                    check_changes(&before, &change.others);
                    check_lower_only(&before, &change.others, self.row(vm).priority);
                    false
                }
                Err(_) => true,
            },
            Call::SetBounds { min, max } => allocator.set_memory_bounds(vm, *min, *max).is_err(),
            Call::SetCpu { percent } => allocator.set_cpu_reservation(vm, *percent).is_err(),
            Call::SetPriority { priority } => allocator.set_priority(vm, *priority).is_err(),
            Call::SetWeight { weight } => allocator.set_weight(vm, *weight).is_err(),
            Call::SetOvercommit { percent } => {
                self.overcommitted |= *percent > 100;
                allocator.set_overcommit(Overcommit::from_percent(*percent).unwrap()).is_err()
            }
            Call::Touch { bytes } => return self.touch(vm, *bytes),
            Call::Release { bytes } => self.release(vm, *bytes),
            Call::Inflate { bytes } => return self.inflate(vm, *bytes),
            Call::CameBack => return self.came_back(),
            Call::Rebalance { working_set } => return self.rebalance(*working_set, &before),
            Call::SetStrategy { strategy } => {
                allocator.set_strategy(*strategy);
                false
            }
            Call::SetCanShrink { can_shrink } => {
                allocator.set_can_shrink(vm, *can_shrink);
                false
            }
            Call::Remove => {
                assert_eq!(allocator.remove(vm), self.backed.remove(&vm).is_some());
                false
            }
            Call::End => {
                allocator.ended(vm);
                self.backed.entry(vm).and_modify(|bytes| *bytes = 0);
                false
            }
        };
        if refused {
            assert_eq!(self.allocator, before, "refused, but something changed");
        }
    }

    fn request(&mut self, request: &Request, before: &Allocator) {
        match self.allocator.request(request, self.next_vm) {
            Ok(grants) => {
                let names: Vec<String> = request.names().collect();
                let granted: Vec<&str> = grants.vms.iter().map(|grant| grant.name.as_str()).collect();
                assert_eq!(granted, names, "all of it");
                check_changes(before, &grants.changes);
                check_lower_only(before, &grants.changes, request.priority);
                for grant in &grants.vms {
                    self.backed.insert(grant.vm, 0);
                    assert_eq!(self.allocator.may_start(grant.vm).is_ok(), grant.owed_bytes == 0);
                }
                self.next_vm += request.count();
            }
            Err(_) => assert_eq!(self.allocator, *before, "refused, but something changed"),
        }
    }

    fn touch(&mut self, vm: u32, bytes: u64) {
        let free = self.free();
        if !self.backed.contains_key(&vm) {
            assert_eq!(self.allocator.touch(vm, bytes, free), Touch::Wait(WaitReason::Unknown));
            return;
        }
        let row = self.row(vm);
        let within = row.owed == 0 && row.populated + bytes <= row.target;
        match self.allocator.touch(vm, bytes, free) {
            Touch::Back => {
                assert!(bytes <= free, "there is no memory to back it with");
                self.allocator.measured(vm, row.populated + bytes);
                self.backed.entry(vm).and_modify(|backed| *backed += bytes);
            }
            Touch::Wait(reason) => {
                assert!(!within || self.overcommitted, "within its target, but {reason:?}");
                assert!(self.allocator.waiting().iter().any(|waiting| waiting.vm == vm));
            }
        }
    }

    fn release(&mut self, vm: u32, bytes: u64) -> bool {
        let left = self.backed.get(&vm).and_then(|backed| backed.checked_sub(bytes));
        if let Some(left) = left {
            self.allocator.measured(vm, left);
            self.backed.insert(vm, left);
        }
        left.is_none()
    }

    /// The guest's balloon takes pages: first those that are populated.
    fn inflate(&mut self, vm: u32, bytes: u64) {
        let Some(backed) = self.backed.get(&vm).copied() else { return };
        let row = self.row(vm);
        if row.can_shrink {
            let bytes = bytes.min(row.max - row.target.min(row.max) - row.ballooned.min(row.max - row.target));
            self.release(vm, bytes.min(backed));
            self.allocator.ballooned(vm, row.ballooned + bytes);
        }
    }

    fn came_back(&mut self) {
        let free = self.free();
        let line = self.allocator.waiting();
        let rows: BTreeMap<u32, Row> = self.backed.keys().map(|vm| (*vm, self.row(*vm))).collect();
        let headroom = self.allocator.headroom();
        let back = self.allocator.memory_came_back(free);
        let place = |vm: &u32| line.iter().position(|waiting| waiting.vm == *vm).expect("it waited");
        assert!(back.resume.is_sorted_by_key(place), "the oldest first");
        let resumed: u64 = line.iter().filter(|one| back.resume.contains(&one.vm)).map(|one| one.bytes).sum();
        assert!(resumed <= free, "more than there is");
        // Whoever stays behind does so for a reason, and keeps its place.
        let still: Vec<u32> = self.allocator.waiting().iter().map(|waiting| waiting.vm).collect();
        let expected: Vec<u32> = line.iter().map(|one| one.vm).filter(|vm| !back.resume.contains(vm)).collect();
        assert_eq!(still, expected);
        if let Some(oldest) = line.iter().find(|one| rows[&one.vm].may_populate(one.bytes, headroom)) {
            let kept: u64 = rows.values().map(|row| row.kept).sum();
            assert_eq!(back.resume.contains(&oldest.vm), oldest.bytes <= free.saturating_sub(kept));
        }
        for vm in back.ready {
            assert_eq!(self.allocator.may_start(vm), Ok(()));
        }
    }

    fn rebalance(&mut self, working_set: u64, before: &Allocator) {
        self.now_us += REBALANCE_PERIOD_US / 2;
        let sample = |(vm, _): (&u32, &u64)| Sample { vm: *vm, working_set_bytes: working_set * u64::from(*vm % 3) };
        let samples: Vec<Sample> = self.backed.iter().map(sample).collect();
        let changes = self.allocator.rebalance(self.now_us, &samples);
        check_changes(before, &changes);
        if matches!(before.strategy, super::Strategy::Need | super::Strategy::Priority) {
            assert_eq!(changes, []);
        }
        if before.strategy == super::Strategy::Utilization {
            let used = |vm: u32| samples.iter().find(|sample| sample.vm == vm).map_or(0, |one| one.working_set_bytes);
            for change in changes.iter().filter(|change| change.to_bytes < change.from_bytes) {
                assert!(change.to_bytes >= used(change.vm), "below what is in use");
            }
        }
    }

    fn check(&self) {
        let allocator = &self.allocator;
        let rows = &allocator.rows;
        let sum = |of: fn(&Row) -> u64| rows.iter().map(of).sum::<u64>();
        let sums = Sums { claimed: sum(Row::claim), reserved: sum(Row::reserved), kept: sum(|row| row.kept) };
        assert_eq!(allocator.sums, sums);
        assert!(sums.reserved <= allocator.limit(), "more is reserved than may be");
        assert!(sum(|row| row.cpu_percent.into()) <= u64::from(CPUS) * 100);
        assert!(rows.iter().map(|row| row.vm).eq(self.backed.keys().copied()));
        for row in rows {
            assert_eq!(row.populated, self.backed[&row.vm], "populated is exact");
            assert!(row.min <= row.target && row.target <= row.max, "{row:?}");
            assert!(row.populated <= row.max && row.ceiling <= row.max, "{row:?}");
            assert!(row.owed <= row.claim(), "{row:?}");
            let holds = row.reserved().saturating_sub(row.overhead);
            assert!(row.populated <= holds, "populated beyond what is reserved: {row:?}");
            assert!(row.owed != 0 || row.min <= holds, "below its minimum: {row:?}");
            let values = [row.target, row.max, row.min, row.populated, row.claim(), row.owed];
            assert!(values.iter().all(|bytes| bytes.is_multiple_of(PAGE_SIZE)), "{row:?}");
        }
        // Debts are those of balloons, and nobody else's.
        assert!(sums.claimed == sums.reserved || rows.iter().any(|row| row.pending() != 0), "{rows:?}");
        if !self.overcommitted {
            let used = self.backed.values().sum::<u64>() + sum(|row| row.overhead);
            assert!(used <= MEMORY);
            assert_eq!(sums.kept, 0);
        }
        self.check_granted();
        let view = allocator.view();
        assert_eq!(view.memory.reserved, view.vms.iter().map(|vm| vm.reserved_bytes).sum::<u64>());
        assert!(view.memory.available + view.memory.reserved <= view.memory.limit);
    }
}

impl Machine {
    /// Whoever takes what is granted without asking could have asked; and if all do at once, no more is reserved than may be.
    fn check_granted(&self) {
        let mut all = self.allocator.clone();
        for row in &self.allocator.rows {
            let granted = self.allocator.granted_bytes(row.vm).expect("a VM that is there");
            assert!(granted >= row.populated && granted <= row.max.max(row.populated), "{granted} of {row:?}");
            if granted > row.populated {
                let answer = self.allocator.clone().touch(row.vm, granted - row.populated, u64::MAX);
                assert_eq!(answer, Touch::Back, "{granted} of {row:?}");
            }
            all.measured(row.vm, granted);
        }
        assert!(all.sums.reserved <= all.limit(), "{:?}", self.allocator.rows);
    }
}

/// Nobody is sent below its minimum, nor below what it has populated without a balloon to get there.
fn check_changes(before: &Allocator, changes: &[TargetChange]) {
    for change in changes {
        let row = before.row(change.vm).expect("a VM that was there before");
        assert_ne!(change.from_bytes, change.to_bytes);
        assert!(row.min <= change.to_bytes && change.to_bytes <= row.max, "{change:?} of {row:?}");
        let lowered = change.to_bytes < change.from_bytes;
        assert!(!lowered || row.can_shrink || row.populated <= change.to_bytes, "{change:?} of {row:?}");
    }
}

/// `priority` takes from lower ones only, the others take nothing for a request but `capacity`.
fn check_lower_only(before: &Allocator, changes: &[TargetChange], priority: u8) {
    match before.strategy {
        super::Strategy::Need | super::Strategy::Utilization => assert_eq!(changes, []),
        super::Strategy::Priority => {
            let priorities = || changes.iter().filter_map(|change| before.row(change.vm)).map(|row| row.priority);
            assert!(priorities().all(|lower| lower < priority));
            assert!(priorities().is_sorted(), "the lowest first");
        }
        super::Strategy::Capacity => {}
    }
}

proptest! {
    #[test]
    fn every_invariant_holds_whatever_is_called(
        calls in proptest::collection::vec((any_call(), any::<usize>()), 1..120),
        strategy in any_strategy(),
        may_overcommit in any::<bool>(),
    ) {
        let mut machine = Machine::new(strategy);
        if may_overcommit {
            machine.call(&Call::SetOvercommit { percent: 200 }, 0);
        }
        for (call, choice) in &calls {
            if matches!(call, Call::SetOvercommit { .. }) && !may_overcommit {
                continue;
            }
            machine.call(call, *choice);
            machine.check();
        }
        // All that was given comes back.
        for vm in machine.backed.keys().copied().collect::<Vec<_>>() {
            machine.call(&Call::Remove, machine.backed.keys().position(|one| *one == vm).unwrap());
            machine.check();
        }
        let limit = machine.allocator.limit();
        let memory = machine.allocator.view().memory;
        prop_assert_eq!((memory.reserved, memory.available), (0, limit));
        prop_assert_eq!(machine.allocator.sums, Sums::default());
        prop_assert_eq!(machine.free(), MEMORY);
    }
}
