//! The bounds that the policies state.

use super::machine::*;
use crate::sched::*;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

fn any_script() -> impl Strategy<Value = Script> {
    prop_oneof![
        Just(Script::Spin),
        (1..20 * MS, 1..50 * MS).prop_map(|(run, sleep)| Script::Sleep { run, sleep }),
        (MS / 10..20 * MS).prop_map(|run| Script::Yield { run }),
        (MS / 10..20 * MS).prop_map(|run| Script::Interrupted { run }),
        Just(Script::Thief),
    ]
}

fn any_guest() -> impl Strategy<Value = (u64, u8, Script)> {
    (MS..20 * MS, 0..=PRIORITY_MAX, any_script())
}

/// Runs one-vCPU VMs for 3 s.
fn run(kind: PolicyKind, cpus: usize, guests: &[(u64, u8, Script)]) -> Machine {
    let mut machine = Machine::new(kind, cpus);
    for (vm, &(quantum, priority, script)) in (0u32..).zip(guests) {
        machine.add(vm, VmParams { quantum, priority, ..params(100) }, &[script]);
    }
    machine.run_until(3 * HZ);
    machine
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn round_robin_waits_for_the_others_quanta(cpus in 1usize..=4, guests in proptest::collection::vec(any_guest(), 1..10)) {
        let machine = run(PolicyKind::RoundRobin, cpus, &guests);
        let sum: u64 = guests.iter().map(|guest| guest.0).sum();
        for (id, waited) in &machine.longest_wait {
            let others = sum - guests[id.vm as usize].0;
            prop_assert!(*waited <= others / cpus as u64, "{id:?} waited {waited} of {others}");
        }
    }

    #[test]
    fn priority_waits_for_its_age_and_the_others_quanta(cpus in 1usize..=4, guests in proptest::collection::vec(any_guest(), 1..10)) {
        let machine = run(PolicyKind::Priority, cpus, &guests);
        let sum: u64 = guests.iter().map(|guest| guest.0).sum();
        for (id, waited) in &machine.longest_wait {
            let (quantum, priority, _) = guests[id.vm as usize];
            let ageing = u64::from(PRIORITY_MAX - priority) * crate::sched::priority::ageing_step(HZ);
            let bound = ageing + (sum - quantum) / cpus as u64;
            prop_assert!(*waited <= bound, "{id:?} waited {waited}, the bound is {bound}");
        }
    }
}

#[test]
fn round_robin_gives_each_its_quantum() {
    let guests: Vec<_> = [3, 5, 12].map(|quantum| (quantum * MS, 0, Script::Spin)).into();
    let mut machine = run(PolicyKind::RoundRobin, 1, &guests);
    machine.run_until(20 * 200 * MS);
    for (vm, (quantum, ..)) in (0u32..).zip(&guests) {
        assert_eq!(machine.used(vm), 200 * quantum);
        assert_eq!(machine.sched.vm_stats(vm, machine.now).unwrap().runs, 200 + u64::from(vm == 0));
    }
}

#[test]
fn an_interrupted_turn_goes_on_where_it_was() {
    let mut sched = Scheduler::new(PolicyKind::RoundRobin, 1, HZ);
    let run = |vm, until| Decision::Run { vcpu: vcpu(vm, 0), until, call: None };
    for vm in 0..2 {
        sched.add_vm(vm, params(100), 1);
        sched.wake(vcpu(vm, 0), 0);
    }
    assert_eq!(sched.pick_next(CpuId(0), 0), run(0, 10 * MS));
    sched.account(vcpu(0, 0), 4 * MS, Why::Preempted, 4 * MS);
    assert_eq!(sched.pick_next(CpuId(0), 5 * MS), run(0, 11 * MS));
    sched.account(vcpu(0, 0), 6 * MS, Why::Preempted, 11 * MS);
    assert_eq!(sched.pick_next(CpuId(0), 11 * MS), run(1, 21 * MS));
}

#[test]
fn first_come_is_first_served_to_the_end() {
    let mut machine = Machine::new(PolicyKind::Fcfs, 1);
    machine.add(0, params(100), &[Script::Sleep { run: 300 * MS, sleep: 10 * HZ }]);
    machine.add(1, params(100), &[Script::Sleep { run: 50 * MS, sleep: 10 * HZ }]);
    machine.add(2, params(100), &[Script::Spin]);
    machine.run_until(HZ);
    assert_eq!([0, 1, 2].map(|vm| machine.used(vm)), [300 * MS, 50 * MS, 650 * MS]);
    assert_eq!(machine.longest_wait[&vcpu(1, 0)], 300 * MS);
    assert_eq!(machine.longest_wait[&vcpu(2, 0)], 350 * MS);
    // One that yields lets the others go first.
    let mut machine = Machine::new(PolicyKind::Fcfs, 1);
    machine.add(0, params(100), &[Script::Yield { run: MS }]);
    machine.add(1, params(100), &[Script::Sleep { run: 50 * MS, sleep: 10 * HZ }]);
    machine.run_until(HZ);
    assert_eq!(machine.used(1), 50 * MS);
}

#[test]
fn a_waker_of_high_priority_runs_at_once() {
    for cpus in [1, 2, 4] {
        let mut guests = vec![(10 * MS, 20, Script::Spin); 6];
        guests.push((10 * MS, 90, Script::Sleep { run: MS, sleep: 7 * MS }));
        let machine = run(PolicyKind::Priority, cpus, &guests);
        // The others never wait 70 levels long, so nobody passes it.
        assert_eq!(machine.longest_wake[&vcpu(6, 0)], 0);
    }
}

#[test]
fn the_lowest_priority_gets_a_turn_beside_a_spinner_of_the_highest() {
    let machine = run(PolicyKind::Priority, 1, &[(10 * MS, PRIORITY_MAX, Script::Spin), (10 * MS, 0, Script::Spin)]);
    let waited = machine.longest_wait[&vcpu(1, 0)];
    assert!((980 * MS..=1000 * MS).contains(&waited), "{waited}");
    assert_eq!(machine.used(1), 30 * MS, "a turn each second");
}
