//! Tests of the policies against a machine of one CPU whose guests are scripts.

use super::*;
use alloc::boxed::Box;
use alloc::vec::Vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

const A: VcpuId = VcpuId { vm: 1, index: 0 };
const B: VcpuId = VcpuId { vm: 2, index: 0 };
const C: VcpuId = VcpuId { vm: 3, index: 0 };

fn round_robin(quanta: &[(VcpuId, u64)]) -> RoundRobin {
    let mut policy = RoundRobin::new();
    for &(vcpu, quantum) in quanta {
        policy.add(vcpu, quantum);
        policy.wake(vcpu, 0);
    }
    policy
}

fn run(vcpu: VcpuId, until: u64) -> Decision {
    Decision::Run { vcpu, until }
}

#[test]
fn the_next_time_is_the_current_time_and_the_quantum() {
    let mut policy = round_robin(&[(A, 100), (B, 30)]);
    assert_eq!(policy.pick_next(1000), run(A, 1100));
    policy.account(A, 100, Why::Preempted, 1100);
    assert_eq!(policy.pick_next(1100), run(B, 1130));
    policy.account(B, 30, Why::Preempted, 1130);
    assert_eq!(policy.pick_next(1130), run(A, 1230));
}

#[test]
fn host_work_costs_a_vcpu_neither_its_slice_nor_its_place() {
    let mut policy = round_robin(&[(A, 100), (B, 100)]);
    assert_eq!(policy.pick_next(0), run(A, 100));
    policy.account(A, 30, Why::Preempted, 30);
    // 20 ticks of host work.
    assert_eq!(policy.pick_next(50), run(A, 120));
    policy.account(A, 70, Why::Preempted, 120);
    assert_eq!(policy.pick_next(120), run(B, 220));
    assert_eq!(policy.counters(A).unwrap().used, 100);
}

#[test]
fn yielding_gives_the_rest_away_and_blocking_leaves_the_queue() {
    let mut policy = round_robin(&[(A, 100), (B, 100), (C, 100)]);
    policy.pick_next(0);
    policy.account(A, 1, Why::Yielded, 1);
    assert_eq!(policy.pick_next(1), run(B, 101));
    policy.account(B, 1, Why::Blocked, 2);
    assert_eq!(policy.pick_next(2), run(C, 102));
    policy.account(C, 100, Why::Preempted, 102);
    assert_eq!(policy.pick_next(102), run(A, 202));
    policy.account(A, 1, Why::Blocked, 103);
    policy.block(C);
    assert_eq!(policy.pick_next(103), Decision::Idle);
    policy.wake(B, 110);
    assert_eq!(policy.pick_next(115), run(B, 215));
    let counters = policy.counters(B).unwrap();
    assert_eq!((counters.runs, counters.used, counters.waits), (2, 1, 2));
    assert_eq!((counters.wait_total, counters.wait_max), (1 + 5, 5));
}

#[test]
fn waking_twice_queues_once_and_waking_a_runner_nothing() {
    let mut policy = round_robin(&[(A, 10)]);
    policy.wake(A, 0);
    assert_eq!(policy.pick_next(0), run(A, 10));
    policy.wake(A, 1);
    policy.account(A, 5, Why::Blocked, 5);
    assert_eq!(policy.pick_next(5), Decision::Idle);
}

#[test]
fn who_is_blocked_or_removed_while_running_is_not_queued_again() {
    let mut policy = round_robin(&[(A, 10), (B, 10)]);
    policy.pick_next(0);
    policy.block(A);
    policy.account(A, 4, Why::Preempted, 4);
    assert_eq!(policy.counters(A).unwrap().used, 4);
    assert_eq!(policy.pick_next(4), run(B, 14));
    policy.remove(B);
    policy.account(B, 10, Why::Preempted, 14);
    assert_eq!(policy.pick_next(14), Decision::Idle);
    assert_eq!(policy.counters(B), None);
    policy.wake(B, 15);
    policy.set_quantum(B, 1);
    assert_eq!(policy.pick_next(15), Decision::Idle);
}

#[test]
fn a_new_quantum_counts_from_the_next_slice_on() {
    let mut policy = round_robin(&[(A, 100)]);
    policy.pick_next(0);
    policy.set_quantum(A, 40);
    policy.account(A, 60, Why::Preempted, 60);
    assert_eq!(policy.pick_next(60), run(A, 100));
    policy.account(A, 40, Why::Preempted, 100);
    assert_eq!(policy.pick_next(100), run(A, 140));
    policy.set_quantum(A, 0);
    policy.account(A, 40, Why::Preempted, 140);
    assert_eq!(policy.pick_next(140), run(A, 141), "a slice is never empty");
}

/// What a guest does with each slice it gets, in turn: this much of it, then this.
#[derive(Clone, Debug)]
struct Guest {
    quantum: u64,
    script: Vec<(u64, Step)>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Spin,
    Yield,
    /// Block, and be woken that many ticks later.
    Sleep(u64),
    /// Be interrupted by host work of that many ticks.
    HostWork(u64),
}

fn guest() -> impl Strategy<Value = Guest> {
    let step = prop_oneof![
        Just(Step::Spin),
        Just(Step::Yield),
        (1u64..2000).prop_map(Step::Sleep),
        (0u64..20).prop_map(Step::HostWork),
    ];
    (1u64..500, proptest::collection::vec((1u64..500, step), 1..6))
        .prop_map(|(quantum, script)| Guest { quantum, script })
}

fn vcpu(index: usize) -> VcpuId {
    VcpuId { vm: u32::try_from(index).unwrap(), index: 0 }
}

/// One CPU that runs guests under a policy, and checks what must hold whatever the policy.
struct Machine {
    policy: Box<dyn Policy>,
    guests: Vec<Guest>,
    turn: Vec<usize>,
    sleeping: BTreeMap<VcpuId, u64>,
    now: u64,
    /// Ticks that others used since each ready vCPU became ready.
    waited_for: BTreeMap<VcpuId, u64>,
    longest_wait: BTreeMap<VcpuId, u64>,
}

impl Machine {
    fn new(mut policy: Box<dyn Policy>, guests: Vec<Guest>) -> Self {
        for (index, guest) in guests.iter().enumerate() {
            policy.add(vcpu(index), guest.quantum);
            policy.wake(vcpu(index), 0);
        }
        let waited_for = (0..guests.len()).map(|index| (vcpu(index), 0)).collect();
        let turn = alloc::vec![0; guests.len()];
        Self { policy, guests, turn, sleeping: BTreeMap::new(), now: 0, waited_for, longest_wait: BTreeMap::new() }
    }

    fn wake_due(&mut self) {
        let due: Vec<VcpuId> = self.sleeping.iter().filter(|(_, at)| **at <= self.now).map(|(vcpu, _)| *vcpu).collect();
        for vcpu in due {
            self.sleeping.remove(&vcpu);
            self.policy.wake(vcpu, self.now);
            self.waited_for.insert(vcpu, 0);
        }
    }

    fn step(&mut self) {
        self.wake_due();
        let Decision::Run { vcpu, until } = self.policy.pick_next(self.now) else {
            assert!(self.waited_for.is_empty(), "idle with {:?} ready", self.waited_for);
            self.now = *self.sleeping.values().min().expect("a guest sleeps or is ready");
            return;
        };
        let index = vcpu.vm as usize;
        let waited = self.waited_for.remove(&vcpu).expect("only a ready vCPU is picked");
        let longest = self.longest_wait.entry(vcpu).or_default();
        *longest = (*longest).max(waited);
        let slice = until.checked_sub(self.now).filter(|slice| *slice > 0).expect("a slice is never empty");
        assert!(slice <= self.guests[index].quantum);
        let script = &self.guests[index].script;
        let (wants, step) = script[self.turn[index] % script.len()];
        self.turn[index] += 1;
        let (used, why) = match step {
            Step::Spin => (slice, Why::Preempted),
            _ if wants >= slice => (slice, Why::Preempted),
            Step::Yield => (wants, Why::Yielded),
            Step::Sleep(_) => (wants, Why::Blocked),
            Step::HostWork(_) => (wants, Why::Preempted),
        };
        self.now += used;
        self.waited_for.values_mut().for_each(|waited| *waited += used);
        self.policy.account(vcpu, used, why, self.now);
        match (why, step) {
            (Why::Blocked, Step::Sleep(ticks)) => {
                self.sleeping.insert(vcpu, self.now + ticks);
            }
            _ => {
                self.waited_for.insert(vcpu, 0);
            }
        }
        if let Step::HostWork(ticks) = step {
            self.now += ticks;
        }
    }
}

proptest! {
    #[test]
    fn nobody_waits_longer_than_the_others_quanta(guests in proptest::collection::vec(guest(), 1..8), steps in 1usize..400) {
        let sum: u64 = guests.iter().map(|guest| guest.quantum).sum();
        let mut machine = Machine::new(Box::new(RoundRobin::new()), guests);
        for _ in 0..steps {
            machine.step();
        }
        for (vcpu, waited) in machine.longest_wait.iter().chain(&machine.waited_for) {
            let others = sum - machine.guests[vcpu.vm as usize].quantum;
            prop_assert!(*waited <= others, "{vcpu:?} waited {waited}, the others have {others}");
        }
    }

    #[test]
    fn spinners_share_as_their_quanta(quanta in proptest::collection::vec(1u64..1000, 1..8), rounds in 1u64..50) {
        let guests = quanta.iter().map(|&quantum| Guest { quantum, script: [(1, Step::Spin)].into() }).collect();
        let mut machine = Machine::new(Box::new(RoundRobin::new()), guests);
        for _ in 0..rounds * quanta.len() as u64 {
            machine.step();
        }
        for (index, quantum) in quanta.iter().enumerate() {
            let counters = machine.policy.counters(vcpu(index)).unwrap();
            prop_assert_eq!(counters.used, quantum * rounds);
            prop_assert_eq!(counters.runs, rounds);
            prop_assert_eq!(counters.waits, rounds);
        }
    }

    #[test]
    fn the_counters_account_for_every_tick(guests in proptest::collection::vec(guest(), 1..6), steps in 1usize..300) {
        let mut machine = Machine::new(Box::new(RoundRobin::new()), guests);
        let mut idle_and_host = 0;
        for _ in 0..steps {
            let (before, used_before) = (machine.now, used(&machine));
            machine.step();
            idle_and_host += machine.now - before - (used(&machine) - used_before);
        }
        prop_assert_eq!(used(&machine) + idle_and_host, machine.now);
        for index in 0..machine.guests.len() {
            let counters = machine.policy.counters(vcpu(index)).unwrap();
            prop_assert!(counters.wait_max <= counters.wait_total);
            prop_assert!(counters.used + counters.wait_total <= machine.now);
        }
    }

    /// Any calls in any order, on a model of who may be picked.
    #[test]
    fn only_the_ready_are_picked(calls in proptest::collection::vec((0u8..7, 0u32..4, 1u64..50), 0..300)) {
        let mut policy = RoundRobin::new();
        let mut model: BTreeMap<VcpuId, RunState> = BTreeMap::new();
        let mut running: Option<VcpuId> = None;
        let mut now = 0;
        for (call, vm, ticks) in calls {
            let vcpu = VcpuId { vm, index: 0 };
            now += ticks;
            match call {
                0 => {
                    policy.add(vcpu, ticks);
                    model.entry(vcpu).or_insert(RunState::Blocked);
                }
                1 => {
                    policy.remove(vcpu);
                    model.remove(&vcpu);
                }
                2 => {
                    policy.wake(vcpu, now);
                    // A vCPU blocked while it runs is not woken before it is accounted for: the caller's order.
                    if let Some(state) = model.get_mut(&vcpu).filter(|state| **state == RunState::Blocked) {
                        *state = RunState::Ready;
                    }
                }
                3 => {
                    policy.block(vcpu);
                    if let Some(state) = model.get_mut(&vcpu) {
                        *state = RunState::Blocked;
                    }
                }
                _ => {
                    if let Some(vcpu) = running.take() {
                        let why = [Why::Preempted, Why::Yielded, Why::Blocked][usize::from(call - 4)];
                        policy.account(vcpu, ticks, why, now);
                        if let Some(state) = model.get_mut(&vcpu).filter(|state| **state == RunState::Running) {
                            *state = if why == Why::Blocked { RunState::Blocked } else { RunState::Ready };
                        }
                    }
                    match policy.pick_next(now) {
                        Decision::Run { vcpu, until } => {
                            prop_assert_eq!(model.insert(vcpu, RunState::Running), Some(RunState::Ready));
                            prop_assert!(until > now);
                            running = Some(vcpu);
                        }
                        Decision::Idle => prop_assert!(!model.values().any(|state| *state == RunState::Ready)),
                    }
                }
            }
            for (vcpu, state) in &model {
                prop_assert_eq!(policy.counters(*vcpu).map(|counters| counters.state), Some(*state));
            }
        }
    }
}

fn used(machine: &Machine) -> u64 {
    (0..machine.guests.len()).map(|index| machine.policy.counters(vcpu(index)).unwrap().used).sum()
}
