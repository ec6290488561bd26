//! Long random workloads, changed while they run, under every policy: [`Machine`] checks all the while that no vCPU runs
//! twice, that masks are kept, and that no CPU idles while somebody could use it.

use super::machine::*;
use crate::sched::*;
use alloc::vec::Vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Act {
    Pass(u64),
    Wake(u32, u16),
    Block(u32, u16),
    Pin(u32, u16, u8),
    Params(u32, u32, Option<u32>, u32, u8),
    Policy(usize),
    Replace(u32, Vec<Script>),
}

fn any_script() -> impl Strategy<Value = Script> {
    prop_oneof![
        Just(Script::Spin),
        (MS / 10..30 * MS, MS / 10..60 * MS).prop_map(|(run, sleep)| Script::Sleep { run, sleep }),
        (MS / 10..20 * MS).prop_map(|run| Script::Yield { run }),
        (MS / 10..20 * MS).prop_map(|run| Script::Interrupted { run }),
        Just(Script::Thief),
        Just(Script::Off),
    ]
}

fn any_act() -> impl Strategy<Value = Act> {
    let (vm, index) = (0u32..6, 0u16..4);
    prop_oneof![
        6 => (1..60 * MS).prop_map(Act::Pass),
        2 => (vm.clone(), index.clone()).prop_map(|(vm, index)| Act::Wake(vm, index)),
        1 => (vm.clone(), index.clone()).prop_map(|(vm, index)| Act::Block(vm, index)),
        2 => (vm.clone(), index, any::<u8>()).prop_map(|(vm, index, mask)| Act::Pin(vm, index, mask)),
        1 => (vm.clone(), 50u32..1000, proptest::option::of(10u32..200), 0u32..15, 0..=PRIORITY_MAX)
            .prop_map(|(vm, weight, cap, reservation, priority)| Act::Params(vm, weight, cap, reservation, priority)),
        1 => (0usize..4).prop_map(Act::Policy),
        1 => (vm, proptest::collection::vec(any_script(), 1..5)).prop_map(|(vm, scripts)| Act::Replace(vm, scripts)),
    ]
}

fn perform(machine: &mut Machine, act: Act) {
    match act {
        Act::Pass(ticks) => machine.run_until(machine.now + ticks),
        Act::Wake(vm, index) if machine.sched.vcpu_stats(vcpu(vm, index)).is_some() => machine.wake(vcpu(vm, index)),
        Act::Block(vm, index) if machine.sched.vcpu_stats(vcpu(vm, index)).is_some() => machine.block(vcpu(vm, index)),
        Act::Wake(..) | Act::Block(..) => {}
        Act::Pin(vm, index, mask) => {
            let mut cpus = CpuSet::EMPTY;
            (0..8).filter(|cpu| mask & 1 << cpu != 0).for_each(|cpu| cpus.insert(CpuId(cpu)));
            if let Ok(kicked) = machine.sched.set_affinity(vcpu(vm, index), cpus, machine.now) {
                machine.kick(kicked.iter());
            }
        }
        Act::Params(vm, weight, cap_percent, reservation_percent, priority) => {
            let params = VmParams { quantum: 10 * MS, weight, cap_percent, reservation_percent, priority };
            let kicked = machine.sched.set_params(vm, params, machine.now);
            machine.kick(kicked.iter());
        }
        Act::Policy(kind) => {
            let kicked = machine.sched.set_policy(PolicyKind::ALL[kind], machine.now);
            machine.kick(kicked.iter());
        }
        Act::Replace(vm, scripts) => {
            machine.remove(vm);
            machine.add(vm, params(100), &scripts);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_happens_the_machine_is_used_rightly(
        kind in 0usize..4,
        cpus in 1usize..=8,
        vms in proptest::collection::vec(proptest::collection::vec(any_script(), 1..5), 1..6),
        acts in proptest::collection::vec(any_act(), 0..60),
    ) {
        let mut machine = Machine::new(PolicyKind::ALL[kind], cpus);
        for (vm, scripts) in (0u32..).zip(&vms) {
            machine.add(vm, params(100), scripts);
        }
        for act in acts {
            perform(&mut machine, act);
        }
        // Nobody is lost: whoever is ready now gets a turn, unless the policy lets another go on for ever.
        if machine.sched.policy() != PolicyKind::Fcfs {
            let (waiting, runs) = (machine.ready(), |machine: &Machine, id| machine.sched.vcpu_stats(id).unwrap().runs);
            let before: Vec<u64> = waiting.iter().map(|&id| runs(&machine, id)).collect();
            machine.checks = false;
            machine.run_until(machine.now + 5 * HZ);
            for (&id, before) in waiting.iter().zip(&before) {
                prop_assert!(runs(&machine, id) > *before, "{id:?} is lost");
            }
        }
        // Every tick is somebody's.
        for cpu in 0..cpus {
            let stats = machine.sched.cpu_stats(CpuId(u16::try_from(cpu).unwrap()), machine.now).unwrap();
            prop_assert!(stats.busy + stats.idle <= machine.now);
        }
    }
}
