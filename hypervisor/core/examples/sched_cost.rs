//! What the scheduler's decisions cost: a table of steps and nanoseconds by policy and number of VMs, on 64 CPUs.
//!
//!     cargo run --release -p lamina-core --example sched_cost
//!
//! A step is one comparison or move in an ordered structure: the same on every machine. The time is that of this one.

use lamina_core::sched::{
    CpuId, Decision, PRIORITY_DEFAULT, PolicyKind, Scheduler, VcpuId, VmParams, WEIGHT_DEFAULT, Why,
};
use std::time::Instant;

const CPUS: u16 = 64;
const HZ: u64 = 1_000_000_000;
const SLICE: u64 = HZ / 100;
const TURNS: u64 = 200_000;

fn main() {
    println!("{:12} {:>6} {:>14} {:>12}", "policy", "VMs", "steps a turn", "ns a turn");
    for kind in PolicyKind::ALL {
        for vms in [10, 100, 1_000, 10_000] {
            let (steps, ns) = turns(kind, vms);
            println!("{:12} {vms:>6} {steps:>14.1} {ns:>12.0}", kind.name());
        }
    }
}

/// The mean cost of a turn: one `pick_next` and one `account`; every fourth ends blocked and takes a `wake` as well.
fn turns(kind: PolicyKind, vms: u32) -> (f64, f64) {
    let mut sched = Scheduler::new(kind, usize::from(CPUS), HZ);
    for vm in 0..vms {
        let params = VmParams {
            quantum: SLICE,
            weight: WEIGHT_DEFAULT + vm % 300,
            cap_percent: None,
            reservation_percent: 0,
            priority: PRIORITY_DEFAULT,
        };
        sched.add_vm(vm, params, 1);
        sched.wake(VcpuId { vm, index: 0 }, 0);
    }
    let mut running = vec![None; usize::from(CPUS)];
    let (mut now, before, start) = (0, sched.steps(), Instant::now());
    for turn in 0..TURNS {
        now += SLICE / u64::from(CPUS);
        let cpu = u16::try_from(turn % u64::from(CPUS)).unwrap_or(0);
        let own = &mut running[usize::from(cpu)];
        if let Some(vcpu) = own.take() {
            let why = if turn % 4 == 0 { Why::Blocked } else { Why::Preempted };
            sched.account(vcpu, SLICE, why, now);
            if why == Why::Blocked {
                sched.wake(vcpu, now);
            }
        }
        if let Decision::Run { vcpu, .. } = sched.pick_next(CpuId(cpu), now) {
            *own = Some(vcpu);
        }
    }
    let ns = start.elapsed().as_nanos();
    ((sched.steps() - before) as f64 / TURNS as f64, ns as f64 / TURNS as f64)
}
