//! The contract with the run loops, call by call.

use super::machine::*;
use crate::sched::*;

const A: VcpuId = VcpuId { vm: 1, index: 0 };
const B: VcpuId = VcpuId { vm: 2, index: 0 };
const CPU0: CpuId = CpuId(0);
const CPU1: CpuId = CpuId(1);

fn two_vms(kind: PolicyKind, cpus: usize) -> Scheduler {
    let mut sched = Scheduler::new(kind, cpus, HZ);
    sched.add_vm(1, params(100), 1);
    sched.add_vm(2, params(100), 1);
    sched
}

#[test]
fn a_woken_vcpu_gets_the_cpu_where_it_ran_last_if_that_idles() {
    for kind in PolicyKind::ALL {
        let mut sched = two_vms(kind, 2);
        assert_eq!(sched.pick_next(CPU0, 0), Decision::Idle { until: None });
        assert_eq!(sched.wake(A, 1), Some(CPU0));
        assert_eq!(sched.pick_next(CPU1, 1), Decision::Run { vcpu: A, until: sched.table.cpus[1].until, call: None });
        assert_eq!(sched.pick_next(CPU0, 1), Decision::Idle { until: None });
        sched.account(A, 5, Why::Blocked, 6);
        assert_eq!(sched.pick_next(CPU1, 6), Decision::Idle { until: None });
        assert_eq!(sched.wake(A, 7), Some(CPU1), "{kind:?}");
        // That one is called already: the next goes to the other.
        assert_eq!(sched.wake(B, 7), Some(CPU0));
    }
}

#[test]
fn one_that_was_stopped_and_started_while_it_ran_goes_on() {
    for kind in PolicyKind::ALL {
        let mut sched = two_vms(kind, 2);
        sched.wake(A, 0);
        sched.pick_next(CPU0, 0);
        assert_eq!(sched.block(A, 1), Some(CPU0));
        assert_eq!(sched.wake(A, 2), None);
        // It is not given to another CPU before the first let go of it.
        assert_eq!(sched.pick_next(CPU1, 2), Decision::Idle { until: None });
        sched.account(A, 3, Why::Preempted, 3);
        assert!(matches!(sched.pick_next(CPU1, 3), Decision::Run { vcpu: A, .. }));
        sched.block(A, 4);
        sched.account(A, 1, Why::Preempted, 4);
        assert_eq!(sched.pick_next(CPU1, 4), Decision::Idle { until: None });
        assert_eq!(sched.vcpu_stats(A).unwrap().state, RunState::Blocked);
        assert_eq!(sched.vcpu_stats(A).unwrap().used, 4);
    }
}

#[test]
fn some_idle_cpu_asks_when_a_cap_lets_go() {
    let mut sched = two_vms(PolicyKind::Fair, 2);
    sched.set_params(1, VmParams { cap_percent: Some(50), ..params(100) }, 0);
    assert_eq!(sched.pick_next(CPU0, 0), Decision::Idle { until: None });
    assert_eq!(sched.pick_next(CPU1, 0), Decision::Idle { until: None });
    // A cap's budget starts empty: one CPU is to ask when there is some.
    assert_eq!(sched.wake(A, 1), Some(CPU0));
    let Decision::Idle { until: Some(due) } = sched.pick_next(CPU0, 1) else { panic!("A is held back") };
    // That CPU gets other work before: the other one takes its duty over.
    assert_eq!(sched.wake(B, 2), Some(CPU0));
    assert!(matches!(sched.pick_next(CPU0, 2), Decision::Run { vcpu: B, call: Some(CPU1), .. }));
    assert_eq!(sched.pick_next(CPU1, 2), Decision::Idle { until: Some(due) });
    assert!(matches!(sched.pick_next(CPU1, due), Decision::Run { vcpu: A, call: None, .. }));
}

#[test]
fn who_waits_for_a_cpu_that_leaves_is_given_another() {
    let mut sched = two_vms(PolicyKind::Priority, 2);
    sched.set_params(2, VmParams { priority: PRIORITY_MAX, ..params(100) }, 0);
    sched.set_timer(B, CPU0, Some(50));
    // It idles, and B's timer is set there.
    assert_eq!(sched.pick_next(CPU0, 0), Decision::Idle { until: None });
    assert_eq!(sched.pick_next(CPU1, 0), Decision::Idle { until: None });
    assert_eq!(sched.leave(CPU0, 1), CpuSet::only(CPU1));
    assert_eq!((sched.next_timer(CPU0), sched.next_timer(CPU1)), (None, Some((50, B))));
    // An idle CPU that left is not called.
    assert_eq!(sched.wake(A, 2), Some(CPU1));
    assert!(matches!(sched.pick_next(CPU1, 2), Decision::Run { vcpu: A, .. }));
    // It is back, and called for B, the more urgent; but leaves again.
    assert_eq!(sched.pick_next(CPU0, 3), Decision::Idle { until: None });
    assert_eq!(sched.wake(B, 4), Some(CPU0));
    assert_eq!(sched.leave(CPU0, 5), CpuSet::only(CPU1), "B takes the CPU that runs A");
    sched.account(A, 3, Why::Preempted, 5);
    assert!(matches!(sched.pick_next(CPU1, 5), Decision::Run { vcpu: B, .. }));
    // What it ran itself goes to one that idles.
    assert!(matches!(sched.pick_next(CPU0, 6), Decision::Run { vcpu: A, .. }));
    sched.account(B, 2, Why::Blocked, 7);
    assert_eq!(sched.pick_next(CPU1, 7), Decision::Idle { until: None });
    sched.account(A, 2, Why::Preempted, 8);
    assert_eq!(sched.leave(CPU0, 8), CpuSet::only(CPU1));
    assert!(matches!(sched.pick_next(CPU1, 9), Decision::Run { vcpu: A, .. }));
    // Or takes a CPU that runs something less urgent, though a third one waits too.
    sched.add_vm(3, params(100), 1);
    sched.wake(VcpuId { vm: 3, index: 0 }, 10);
    sched.wake(B, 11);
    assert!(matches!(sched.pick_next(CPU0, 11), Decision::Run { vcpu: B, .. }));
    sched.account(A, 2, Why::Preempted, 11);
    assert!(matches!(sched.pick_next(CPU1, 11), Decision::Run { vcpu: A, .. }));
    sched.account(B, 1, Why::Preempted, 12);
    assert_eq!(sched.leave(CPU0, 12), CpuSet::only(CPU1));
    sched.account(A, 1, Why::Preempted, 12);
    assert!(matches!(sched.pick_next(CPU1, 12), Decision::Run { vcpu: B, .. }));
    // Alone it has nobody to leave anything to.
    let mut alone = two_vms(PolicyKind::Fair, 1);
    alone.set_timer(A, CPU0, Some(5));
    assert_eq!(alone.leave(CPU0, 1), CpuSet::EMPTY);
    assert_eq!(alone.next_timer(CPU0), Some((5, A)));
}

#[test]
fn what_nobody_knows_is_ignored() {
    let mut sched = Scheduler::new(PolicyKind::Fair, 1, HZ);
    assert_eq!(sched.wake(A, 0), None);
    assert_eq!(sched.block(A, 0), None);
    assert_eq!(sched.account(A, 1, Why::Yielded, 1), None);
    assert_eq!(sched.set_params(1, params(1), 0), CpuSet::EMPTY);
    assert_eq!(sched.set_affinity(A, CpuSet::ALL, 0), Ok(CpuSet::EMPTY));
    assert_eq!(sched.pick_next(CpuId(7), 0), Decision::Idle { until: None });
    assert!(sched.vm_stats(1, 0).is_none() && sched.vcpu_stats(A).is_none() && sched.cpu_stats(CpuId(7), 0).is_none());
    sched.add_vm(1, params(100), 1);
    sched.wake(A, 0);
    sched.pick_next(CPU0, 0);
    sched.remove_vm(1);
    assert_eq!(sched.account(A, 5, Why::Preempted, 5), None);
    assert_eq!(sched.pick_next(CPU0, 5), Decision::Idle { until: None });
}

#[test]
fn a_mask_without_a_cpu_of_the_machine_is_refused() {
    let mut sched = two_vms(PolicyKind::Fair, 2);
    let asked = CpuSet::only(CpuId(5));
    let refused = sched.set_affinity(A, asked, 0).unwrap_err();
    assert_eq!(alloc::format!("{refused}"), "no such CPU: 5; this machine has 0-1");
    assert_eq!(sched.affinity(A), Some(CpuSet::ALL));
    sched.wake(A, 0);
    sched.pick_next(CPU0, 0);
    assert_eq!(sched.set_affinity(A, CpuSet::only(CPU1), 1), Ok(CpuSet::only(CPU0)));
    sched.pick_next(CPU1, 1);
    assert_eq!(sched.account(A, 1, Why::Preempted, 1), Some(CPU1));
}

#[test]
fn a_new_policy_keeps_counters_and_order_and_acts_at_once() {
    for from in PolicyKind::ALL {
        for to in PolicyKind::ALL.into_iter().filter(|to| *to != from) {
            let mut machine = Machine::new(from, 2);
            for vm in 0..5 {
                machine.add(vm, params(100), &[Script::Spin]);
            }
            machine.run_until(HZ + 3 * MS);
            let before: alloc::vec::Vec<u64> = (0..5).map(|vm| machine.used(vm)).collect();
            let kicked = machine.sched.set_policy(to, machine.now);
            assert_eq!(kicked.iter().count(), 2, "both run, both are to decide anew");
            machine.kick(kicked.iter());
            assert_eq!(machine.sched.policy(), to);
            assert_eq!((0..5).map(|vm| machine.used(vm)).collect::<alloc::vec::Vec<_>>(), before);
            // All that were ready are: within a quantum each CPU has turned, and soon all had a turn.
            machine.run_until(machine.now + 100 * MS);
            let moved = (0..5).filter(|vm| machine.used(*vm) > before[*vm as usize]).count();
            assert_eq!(moved, if to == PolicyKind::Fcfs { 2 } else { 5 }, "{from:?} to {to:?}");
        }
    }
}

#[test]
fn the_counters_say_what_happened() {
    let mut sched = two_vms(PolicyKind::RoundRobin, 2);
    sched.wake(A, 0);
    sched.wake(B, 0);
    sched.pick_next(CPU0, 1000);
    sched.account(A, 10 * MS, Why::Preempted, 1000 + 10 * MS);
    sched.pick_next(CPU0, 1000 + 10 * MS);
    sched.pick_next(CPU1, 3000 + 10 * MS);
    let (a, b) = (sched.vcpu_stats(A).unwrap(), sched.vcpu_stats(B).unwrap());
    assert_eq!((a.used, a.runs, a.switches, a.migrations, a.steal), (10 * MS, 2, 0, 1, 3000));
    assert_eq!((a.waits.count, a.waits.max, a.wakes.count, a.wakes.max), (2, 2000, 1, 1000));
    assert_eq!(a.cpu, Some(CPU1));
    assert_eq!((b.runs, b.switches, b.wakes.max, b.cpu), (1, 1, 1000 + 10 * MS, Some(CPU0)));
    let cpu = sched.cpu_stats(CPU0, 20 * MS).unwrap();
    assert_eq!((cpu.busy, cpu.idle, cpu.switches, cpu.running), (10 * MS, 0, 1, Some(B)));
    let vm = sched.vm_stats(1, 20 * MS).unwrap();
    assert_eq!((vm.used, vm.age), (10 * MS + 20 * MS - 3000 - 10 * MS, 20 * MS));
}

#[test]
fn the_summary_has_the_stated_units() {
    // One CPU, two spinners, 10 ms each: a turn takes 20 ms from ready to done, so 1/t = 50/s; p = 1/2.
    let mut machine = Machine::new(PolicyKind::RoundRobin, 1);
    machine.add(0, params(100), &[Script::Spin]);
    machine.add(1, params(100), &[Script::Spin]);
    machine.run_until(100 * HZ);
    let summary = machine.sched.summary(machine.now);
    assert_eq!((summary.vms, summary.mean_throughput), (2, 500_000));
    assert!(summary.mean_latency.abs_diff(50_000_000) < 50_000, "{summary:?}");
    assert!(summary.mean_rate.abs_diff(25_000_000) < 25_000, "{summary:?}");
}
