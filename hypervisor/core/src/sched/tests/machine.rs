//! [`Machine`]: CPUs that run scripted guests as the scheduler says, from event to event.

use crate::sched::policy::AFTER_A_SIBLING;
use crate::sched::*;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

pub(super) const HZ: u64 = 1_000_000_000;
pub(super) const MS: u64 = HZ / 1000;
/// The old clock tick that a thief hides from.
pub(super) const TICK: u64 = 10 * MS;

/// What a vCPU does all day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Script {
    /// Never stops.
    Spin,
    /// Works for `run`, then sleeps for `sleep`.
    Sleep { run: u64, sleep: u64 },
    /// Yields after `run`, always.
    Yield { run: u64 },
    /// Leaves the CPU just before each 10 ms mark and is back just after it.
    Thief,
    /// Never stops, but the host interrupts it after `run`.
    Interrupted { run: u64 },
    /// Never wakes.
    Off,
}

pub(super) fn params(weight: u32) -> VmParams {
    VmParams { quantum: 10 * MS, weight, cap_percent: None, reservation_percent: 0, priority: PRIORITY_DEFAULT }
}

struct Guest {
    script: Script,
    /// Work left before it blocks or yields.
    left: u64,
    wake_at: Option<u64>,
    ready_since: Option<u64>,
    used: u64,
}

#[derive(Clone, Copy)]
enum Cpu {
    /// Was told to decide, has not asked.
    Asks,
    Idle {
        until: Option<u64>,
    },
    Runs {
        vcpu: VcpuId,
        started: u64,
        ends: u64,
        why: Why,
    },
}

pub(super) struct Machine {
    pub(super) sched: Scheduler,
    cpus: Vec<Cpu>,
    guests: BTreeMap<VcpuId, Guest>,
    pub(super) now: u64,
    /// The longest wait that ended in a run.
    pub(super) longest_wait: BTreeMap<VcpuId, u64>,
    pub(super) decisions: u64,
    /// Whether to look after each event that nobody waits in vain.
    pub(super) checks: bool,
    /// The longest from a wake to the run.
    pub(super) longest_wake: BTreeMap<VcpuId, u64>,
    woken: BTreeMap<VcpuId, u64>,
}

pub(super) fn vcpu(vm: u32, index: u16) -> VcpuId {
    VcpuId { vm, index }
}

impl Machine {
    pub(super) fn new(kind: PolicyKind, cpus: usize) -> Self {
        Self {
            sched: Scheduler::new(kind, cpus, HZ),
            cpus: (0..cpus).map(|_| Cpu::Asks).collect(),
            guests: BTreeMap::new(),
            now: 0,
            longest_wait: BTreeMap::new(),
            decisions: 0,
            checks: true,
            longest_wake: BTreeMap::new(),
            woken: BTreeMap::new(),
        }
    }

    /// Adds a VM with a vCPU per script, and starts it.
    pub(super) fn add(&mut self, vm: u32, params: VmParams, scripts: &[Script]) {
        self.sched.add_vm(vm, params, u16::try_from(scripts.len()).unwrap());
        for (index, &script) in scripts.iter().enumerate() {
            let id = vcpu(vm, u16::try_from(index).unwrap());
            let wake_at = (script != Script::Off).then_some(self.now);
            self.guests.insert(id, Guest { script, left: 0, wake_at, ready_since: None, used: 0 });
        }
    }

    pub(super) fn remove(&mut self, vm: u32) {
        self.sched.remove_vm(vm);
        self.guests.retain(|id, _| id.vm != vm);
        for cpu in &mut self.cpus {
            if matches!(cpu, Cpu::Runs { vcpu, .. } if vcpu.vm == vm) {
                *cpu = Cpu::Asks;
            }
        }
        self.settle();
    }

    pub(super) fn used(&self, vm: u32) -> u64 {
        let running = self.cpus.iter().map(|cpu| match cpu {
            Cpu::Runs { vcpu, started, .. } if vcpu.vm == vm => self.now - started,
            _ => 0,
        });
        self.guests.range(vcpu(vm, 0)..=vcpu(vm, u16::MAX)).map(|(_, guest)| guest.used).chain(running).sum()
    }

    pub(super) fn run_until(&mut self, end: u64) {
        self.settle();
        while let Some(next) = self.next_event().filter(|next| *next <= end) {
            assert!(next >= self.now);
            self.now = next;
            let due = |guest: &Guest| guest.wake_at.is_some_and(|at| at <= next);
            let woken: Vec<VcpuId> = self.guests.iter().filter(|(_, guest)| due(guest)).map(|(id, _)| *id).collect();
            for id in woken {
                self.wake(id);
            }
            for cpu in 0..self.cpus.len() {
                match self.cpus[cpu] {
                    Cpu::Runs { ends, .. } if ends <= next => self.end_turn(cpu),
                    Cpu::Idle { until: Some(until) } if until <= next => self.cpus[cpu] = Cpu::Asks,
                    _ => {}
                }
            }
            self.settle();
        }
        self.now = end;
    }

    pub(super) fn wake(&mut self, id: VcpuId) {
        let guest = self.guests.get_mut(&id).unwrap();
        guest.wake_at = None;
        if self.sched.vcpu_stats(id).unwrap().state == RunState::Blocked {
            guest.ready_since = Some(self.now);
            self.woken.insert(id, self.now);
        }
        let kicked = self.sched.wake(id, self.now);
        self.kick(kicked);
    }

    /// The operator's pause.
    pub(super) fn block(&mut self, id: VcpuId) {
        let guest = self.guests.get_mut(&id).unwrap();
        (guest.wake_at, guest.ready_since) = (None, None);
        self.woken.remove(&id);
        let on = self.sched.vcpu_stats(id).filter(|stats| stats.state == RunState::Running).and_then(|stats| stats.cpu);
        let kicked = self.sched.block(id, self.now);
        assert!(on.is_none() || kicked == on);
        self.kick(kicked);
    }

    pub(super) fn kick(&mut self, cpus: impl IntoIterator<Item = CpuId>) {
        for cpu in cpus {
            let cpu = usize::from(cpu.0);
            match self.cpus[cpu] {
                Cpu::Runs { .. } => self.end_turn(cpu),
                Cpu::Idle { .. } => self.cpus[cpu] = Cpu::Asks,
                Cpu::Asks => {}
            }
        }
    }

    fn next_event(&self) -> Option<u64> {
        let cpus = self.cpus.iter().filter_map(|cpu| match cpu {
            Cpu::Runs { ends, .. } => Some(*ends),
            Cpu::Idle { until } => *until,
            Cpu::Asks => None,
        });
        cpus.chain(self.guests.values().filter_map(|guest| guest.wake_at)).min()
    }

    /// Everyone who is to ask, asks; then what must hold is checked.
    fn settle(&mut self) {
        while let Some(cpu) = self.cpus.iter().position(|cpu| matches!(cpu, Cpu::Asks)) {
            self.ask(cpu);
        }
        if self.checks {
            self.ready().into_iter().for_each(|id| self.check_waiting(id));
            self.check_caps();
        }
    }

    /// Nobody waits while a CPU idles that it may use; unless its cap holds it back, and then one of these asks in time.
    fn check_waiting(&self, id: VcpuId) {
        let held = self.held_until(id);
        if held == Some(AFTER_A_SIBLING) {
            return;
        }
        let due = held.map_or(self.now, |due| due.max(self.now + 1));
        let mask = self.sched.affinity(id).unwrap();
        let idle = (0u16..).zip(&self.cpus).filter_map(|(cpu, state)| match state {
            Cpu::Idle { until } if mask.contains(CpuId(cpu)) => Some(until.unwrap_or(u64::MAX)),
            _ => None,
        });
        let first = idle.min();
        assert!(first.is_none_or(|first| first <= due), "{id:?} waits at {}, held until {held:?}", self.now);
    }

    /// A capped VM has no more vCPUs running than its cap has CPUs, rounded up; and others wait for as many as that, rounded
    /// down, that run or are about to.
    fn check_caps(&self) {
        let vms: BTreeSet<u32> = self.guests.keys().map(|id| id.vm).collect();
        for vm in vms.into_iter().filter(|_| self.sched.policy() == PolicyKind::Fair) {
            let Some(cap) = self.sched.params(vm).unwrap().cap_percent else { continue };
            let most = cap.max(1).div_ceil(100) as usize;
            let of_vm = self.guests.range(vcpu(vm, 0)..=vcpu(vm, u16::MAX)).map(|(id, _)| *id);
            let ids: Vec<_> = of_vm.map(|id| (id, self.sched.vcpu_stats(id).unwrap().state)).collect();
            let running = ids.iter().filter(|(_, state)| *state == RunState::Running).count();
            assert!(running <= most, "{running} of VM {vm}'s vCPUs run at {}, its cap is {cap} %", self.now);
            let ready = ids.iter().filter(|(_, state)| *state == RunState::Ready);
            let (after, free): (Vec<&(VcpuId, RunState)>, Vec<_>) =
                ready.partition(|(id, _)| self.held_until(*id) == Some(AFTER_A_SIBLING));
            let least = (cap / 100).max(1) as usize;
            assert!(after.is_empty() || running + free.len() >= least, "{after:?} wait at {} for nobody", self.now);
        }
    }

    /// Those that wait for a CPU.
    pub(super) fn ready(&self) -> Vec<VcpuId> {
        let ready = |id: &VcpuId| self.sched.vcpu_stats(*id).unwrap().state == RunState::Ready;
        self.guests.keys().copied().filter(ready).collect()
    }

    /// Until when the vCPU's cap holds it back.
    fn held_until(&self, id: VcpuId) -> Option<u64> {
        let slot = self.sched.table.slot(id).unwrap();
        self.sched.policy.held_until(&self.sched.table, slot)
    }

    fn ask(&mut self, cpu: usize) {
        let id = CpuId(u16::try_from(cpu).unwrap());
        self.decisions += 1;
        let (vcpu, until, call) = match self.sched.pick_next(id, self.now) {
            Decision::Idle { until } => {
                assert!(until.is_none_or(|until| until > self.now));
                self.cpus[cpu] = Cpu::Idle { until };
                return;
            }
            Decision::Run { vcpu, until, call } => (vcpu, until, call),
        };
        assert!(until > self.now, "a slice is never empty");
        assert!(self.sched.affinity(vcpu).unwrap().contains(id), "{vcpu:?} may not run on {id:?}");
        let twice = |cpu: &Cpu| matches!(cpu, Cpu::Runs { vcpu: other, .. } if *other == vcpu);
        assert!(!self.cpus.iter().any(twice), "{vcpu:?} runs twice");
        let guest = self.guests.get_mut(&vcpu).expect("only vCPUs that exist are picked");
        let since = guest.ready_since.take().expect("only a ready vCPU is picked");
        let longest = self.longest_wait.entry(vcpu).or_default();
        *longest = (*longest).max(self.now - since);
        if let Some(woken) = self.woken.remove(&vcpu) {
            let longest = self.longest_wake.entry(vcpu).or_default();
            *longest = (*longest).max(self.now - woken);
        }
        let (wants, why) = match guest.script {
            Script::Spin | Script::Off => (u64::MAX, Why::Preempted),
            Script::Sleep { run, .. } => {
                guest.left = if guest.left == 0 { run } else { guest.left };
                (guest.left, Why::Blocked)
            }
            Script::Yield { run } => (run, Why::Yielded),
            Script::Thief => ((TICK - MS / 10).saturating_sub(self.now % TICK).max(1), Why::Blocked),
            Script::Interrupted { run } => (run, Why::Preempted),
        };
        let ends = self.now.saturating_add(wants);
        let (ends, why) = if ends < until { (ends, why) } else { (until, Why::Preempted) };
        self.cpus[cpu] = Cpu::Runs { vcpu, started: self.now, ends, why };
        self.kick(call);
    }

    fn end_turn(&mut self, cpu: usize) {
        let Cpu::Runs { vcpu, started, ends, why } = self.cpus[cpu] else { return };
        let used = self.now - started;
        let why = if ends <= self.now { why } else { Why::Preempted };
        let guest = self.guests.get_mut(&vcpu).unwrap();
        guest.used += used;
        guest.left = guest.left.saturating_sub(used);
        self.cpus[cpu] = Cpu::Asks;
        let kicked = self.sched.account(vcpu, used, why, self.now);
        let guest = self.guests.get_mut(&vcpu).unwrap();
        match self.sched.vcpu_stats(vcpu).unwrap().state {
            RunState::Ready => guest.ready_since = Some(self.now),
            RunState::Blocked if why == Why::Blocked => {
                guest.wake_at = match guest.script {
                    Script::Sleep { sleep, .. } => Some(self.now + sleep),
                    Script::Thief => Some((self.now / TICK + 1) * TICK + MS / 10),
                    _ => None,
                };
            }
            RunState::Blocked => {}
            RunState::Running => panic!("{vcpu:?} runs on after it was accounted for"),
        }
        // This CPU asks before the other hears of it.
        self.ask(cpu);
        self.kick(kicked);
    }
}
