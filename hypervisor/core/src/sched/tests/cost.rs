//! What a decision costs, counted in comparisons and moves in the ordered structures: deterministic, and the same on every
//! machine.

use super::machine::*;
use crate::sched::*;
use alloc::vec::Vec;

const CPUS: u16 = 64;

/// The steps of one turn (`pick_next`, `account`, and a wake for one in four): the mean and the most.
fn steps_of_a_turn(kind: PolicyKind, vms: u32) -> (u64, u64) {
    let mut sched = Scheduler::new(kind, usize::from(CPUS), HZ);
    for vm in 0..vms {
        let cap_percent = (vm % 10 == 0).then_some(3);
        let reservation_percent = u32::from(vm % 10 == 1);
        sched.add_vm(vm, VmParams { cap_percent, reservation_percent, ..params(100 + vm % 300) }, 1);
        sched.wake(vcpu(vm, 0), u64::from(vm));
    }
    let mut now = u64::from(vms);
    let mut asleep: Vec<VcpuId> = Vec::new();
    let (mut all, mut most, turns) = (0, 0, u64::from(vms) * 4);
    for turn in 0..turns {
        now += MS / 8;
        let before = sched.steps();
        let cpu = CpuId(u16::try_from(turn % u64::from(CPUS)).unwrap());
        if let Some(vcpu) = sched.cpu_stats(cpu, now).unwrap().running {
            let why =
                [Why::Preempted, Why::Preempted, Why::Yielded, Why::Blocked][usize::try_from(turn / 7 % 4).unwrap()];
            sched.account(vcpu, 8 * MS, why, now);
            if why == Why::Blocked {
                asleep.push(vcpu);
            }
        }
        sched.pick_next(cpu, now);
        if asleep.len() > 3 {
            sched.wake(asleep.remove(0), now);
        }
        let steps = sched.steps() - before;
        all += steps;
        most = most.max(steps);
    }
    (all / turns, most)
}

#[test]
fn a_decision_grows_no_faster_than_the_logarithm() {
    for kind in PolicyKind::ALL {
        for vms in [10, 100, 1_000, 10_000] {
            let (mean, most) = steps_of_a_turn(kind, vms);
            let log = u64::from(vms.ilog2()) + 1;
            // A turn takes an entry out and puts one in, at three steps a level; fair's caps move a few more.
            assert!(mean <= 4 * log, "{kind:?} with {vms} VMs: {mean} steps");
            assert!(most <= 12 * log, "{kind:?} with {vms} VMs: up to {most} steps");
        }
    }
}

#[test]
fn sixty_four_cpus_and_a_thousand_vms_share_fairly() {
    let mut machine = Machine::new(PolicyKind::Fair, usize::from(CPUS));
    machine.checks = false;
    for vm in 0..1000 {
        machine.add(vm, params(100), &[Script::Spin]);
    }
    machine.run_until(3 * HZ);
    let summary = machine.sched.summary(machine.now);
    assert!(summary.jain >= 995_000, "{summary:?}");
    assert_eq!(summary.vms, 1000);
}
