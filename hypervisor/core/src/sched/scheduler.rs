//! [`Scheduler`]: states, turns and CPUs; the policy chooses.

use super::control::new_policy;
use super::policy::{AFTER_A_SIBLING, Policy, Put};
use super::table::{Slot, Table, Vcpu};
use super::timers::Timers;
use super::{CpuId, CpuSet, Decision, MAX_CPUS, PolicyKind, RunState, VcpuId, Why};
use alloc::boxed::Box;

/// Decides for all CPUs of the machine. See the [module](super) for what it promises and what it is owed.
pub struct Scheduler {
    pub(super) table: Table,
    pub(super) policy: Box<dyn Policy>,
    pub(super) timers: Timers,
    /// The latest time that a call named.
    pub(super) clock: u64,
    /// When the window began over which shares are measured.
    pub(super) window_at: u64,
}

impl Scheduler {
    /// A scheduler for CPUs 0 to `cpus`, without any VM. `tsc_hz`: ticks per second.
    #[must_use]
    pub fn new(kind: PolicyKind, cpus: usize, tsc_hz: u64) -> Self {
        let cpus = cpus.clamp(1, MAX_CPUS);
        let table = Table::new(cpus, tsc_hz.max(1));
        Self { table, policy: new_policy(kind), timers: Timers::new(cpus), clock: 0, window_at: 0 }
    }

    /// A blocked vCPU has something to do: it is queued, and waits for no timer. Does nothing to one that is ready; one that
    /// runs and was to be stopped goes on instead. Answers the CPU that should decide anew: it idles, or runs something less urgent.
    pub fn wake(&mut self, vcpu: VcpuId, now: u64) -> Option<CpuId> {
        let now = self.see(now);
        let slot = self.table.slot(vcpu)?;
        self.timers.clear(slot);
        let vcpu = self.table.vcpu_mut(slot)?;
        match vcpu.state {
            RunState::Ready => None,
            RunState::Running => {
                vcpu.stopping = false;
                None
            }
            RunState::Blocked => {
                vcpu.woken = true;
                vcpu.remaining = 0;
                self.queue(slot, Put::Woken, now);
                self.call(slot, now)
            }
        }
    }

    /// A vCPU is not to run for now, nor to wait for a timer: the operator paused or stopped its VM. Answers the CPU that should decide anew: the one
    /// that it runs on, and it is not queued again when it is accounted for; or one for another vCPU whose turn it is now.
    pub fn block(&mut self, vcpu: VcpuId, now: u64) -> Option<CpuId> {
        let now = self.see(now);
        let slot = self.table.slot(vcpu)?;
        self.timers.clear(slot);
        self.unqueue(slot);
        let vcpu = self.table.vcpu_mut(slot)?;
        match vcpu.state {
            RunState::Blocked => None,
            RunState::Ready => {
                vcpu.figures.waited_in_vain += now.saturating_sub(vcpu.ready_since);
                vcpu.state = RunState::Blocked;
                vcpu.woken = false;
                self.call_heir(slot)
            }
            RunState::Running => {
                vcpu.stopping = true;
                let cpu = vcpu.cpu?;
                self.kick(cpu);
                Some(cpu)
            }
        }
    }

    /// What a CPU does from `now` on.
    pub fn pick_next(&mut self, cpu: CpuId, now: u64) -> Decision {
        let now = self.see(now);
        // Accounting was forgotten: better a guess than a vCPU lost.
        if let Some(record) = self.table.cpu(cpu)
            && let Some(vcpu) = record.running.and_then(|slot| self.table.vcpu(slot))
        {
            self.account(vcpu.id, now.saturating_sub(record.started), Why::Preempted, now);
        }
        self.table.idle.remove(cpu);
        let Some(record) = self.table.cpu_mut(cpu) else { return Decision::Idle { until: None } };
        record.kicked = false;
        record.expected_by = None;
        record.idle_until = None;
        if let Some(since) = record.idle_since.take() {
            record.idle = record.idle.saturating_add(now.saturating_sub(since));
        }
        if let Some((slot, slice)) = self.policy.pick(&self.table, cpu, now) {
            return self.start(cpu, slot, slice, now);
        }
        let until = self.policy.next_due(&self.table, cpu).map(|due| due.max(now.saturating_add(1)));
        self.table.idle.insert(cpu);
        if let Some(record) = self.table.cpu_mut(cpu) {
            record.idle_since = Some(now);
            record.idle_until = until;
        }
        Decision::Idle { until }
    }

    /// The vCPU that was picked has left its CPU at `now` after using `used` ticks of it. Answers another CPU that should
    /// decide anew, since this one has other things to do. One that does not run is ignored.
    pub fn account(&mut self, vcpu: VcpuId, used: u64, why: Why, now: u64) -> Option<CpuId> {
        let now = self.see(now);
        let slot = self.table.slot(vcpu)?;
        let vcpu = self.table.vcpu_mut(slot).filter(|vcpu| vcpu.state == RunState::Running)?;
        let cpu = vcpu.cpu.take()?;
        vcpu.figures.used = vcpu.figures.used.saturating_add(used);
        vcpu.remaining = vcpu.remaining.saturating_sub(used);
        vcpu.yielded = why == Why::Yielded;
        let stays = why != Why::Blocked && !vcpu.stopping;
        let how = if why == Why::Preempted && vcpu.remaining > 0 { Put::Continues } else { Put::Again };
        if how == Put::Again || !stays {
            vcpu.remaining = 0;
        }
        vcpu.stopping = false;
        vcpu.state = RunState::Blocked;
        if let Some(record) = self.table.cpu_mut(cpu) {
            record.running = None;
            record.busy = record.busy.saturating_add(used);
        }
        self.policy.charge(&self.table, slot, used, now);
        if stays {
            self.queue(slot, how, now);
        }
        let called = if stays { self.call_from(cpu, slot, now) } else { None };
        called.or_else(|| self.call_heir(slot))
    }

    /// A CPU, whose turn was accounted for, does something else for a while before it asks again. What waits for it is others'
    /// now: the timers there go to another CPU, and the vCPU that counts on it is given one. Answers the CPUs that should
    /// decide anew.
    pub fn leave(&mut self, cpu: CpuId, now: u64) -> CpuSet {
        let now = self.see(now);
        self.table.idle.remove(cpu);
        let mut called = CpuSet::EMPTY;
        let helper =
            self.table.idle.iter().next().or_else(|| self.table.classes.all().iter().find(|&other| other != cpu));
        let Some(helper) = helper else { return called };
        while let Some((at, slot)) = self.timers.first(cpu) {
            self.timers.set(slot, helper, at);
            called.insert(helper);
        }
        let expected_by = self.table.cpu_mut(cpu).and_then(|record| record.expected_by.take());
        let ready = |slot: &Slot| self.table.vcpu(*slot).is_some_and(|vcpu| vcpu.state == RunState::Ready);
        let other = expected_by.filter(ready).and_then(|slot| self.call(slot, now));
        other.or_else(|| self.call_stand_in(cpu, now)).into_iter().for_each(|other| called.insert(other));
        called
    }

    /// Comparisons and moves made so far in the ordered structures of the policy: the cost of its decisions.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.policy.steps()
    }

    pub(super) fn see(&mut self, now: u64) -> u64 {
        self.clock = self.clock.max(now);
        now
    }

    pub(super) fn queue(&mut self, slot: Slot, how: Put, now: u64) {
        let place = if matches!(how, Put::Woken | Put::Again) { Some(self.table.next_place()) } else { None };
        let Some(vcpu) = self.table.vcpu_mut(slot) else { return };
        if let Some(place) = place {
            vcpu.place = place;
            vcpu.placed_at = now;
        }
        if how != Put::Moved {
            vcpu.ready_since = now;
        }
        vcpu.state = RunState::Ready;
        let class = vcpu.class;
        self.table.classes.ready(class);
        self.policy.put(&self.table, slot, how, now);
    }

    /// Takes a vCPU out of the queue, if it is ready. Its state stays.
    pub(super) fn unqueue(&mut self, slot: Slot) {
        let Some(vcpu) = self.table.vcpu(slot).filter(|vcpu| vcpu.state == RunState::Ready) else { return };
        let class = vcpu.class;
        self.table.classes.unready(class);
        self.policy.take(&self.table, slot);
    }

    fn start(&mut self, cpu: CpuId, slot: Slot, slice: u64, now: u64) -> Decision {
        let slice = slice.max(1);
        let until = now.saturating_add(slice);
        let Some(id) = self.table.vcpu(slot).map(|vcpu| vcpu.id) else { return Decision::Idle { until: None } };
        let mut switched = false;
        if let Some(record) = self.table.cpu_mut(cpu) {
            switched = record.last.is_some_and(|last| last != id);
            record.last = Some(id);
            record.switches += u64::from(switched);
            record.running = Some(slot);
            record.started = now;
            record.until = until;
        }
        if let Some(vcpu) = self.table.vcpu_mut(slot) {
            vcpu.picked(cpu, switched, now);
            vcpu.remaining = slice;
            let class = vcpu.class;
            self.table.classes.unready(class);
        }
        Decision::Run { vcpu: id, until, call: self.call_stand_in(cpu, now) }
    }

    /// A CPU has something to run. Where others wait for it besides, or will once their cap lets them, and CPUs idle of which
    /// none asks by then, calls one of these.
    fn call_stand_in(&mut self, cpu: CpuId, now: u64) -> Option<CpuId> {
        if self.table.idle.is_empty() {
            return None;
        }
        let Self { table, policy, .. } = &*self;
        let idle_for = |&class: &usize| {
            let from = policy.wanted_from(class)?.max(now);
            let mask = table.classes.mask(class);
            let asks = |cpu: CpuId| table.cpu(cpu).is_some_and(|record| record.asks_by(from));
            if mask.iter().any(asks) { None } else { mask.and(&table.idle).iter().next() }
        };
        let found = table.classes.of_cpu(cpu).iter().find_map(idle_for)?;
        self.kick(found);
        Some(found)
    }

    pub(super) fn kick(&mut self, cpu: CpuId) {
        self.table.idle.remove(cpu);
        if let Some(record) = self.table.cpu_mut(cpu) {
            record.kicked = true;
        }
    }

    fn kick_for(&mut self, cpu: CpuId, slot: Slot) {
        self.kick(cpu);
        if let Some(record) = self.table.cpu_mut(cpu) {
            record.expected_by = Some(slot);
        }
    }

    /// Finds a CPU for a ready vCPU: an idle one, else the one whose turn is the least urgent.
    pub(super) fn call(&mut self, slot: Slot, now: u64) -> Option<CpuId> {
        if let Some(cpu) = self.call_idle(slot) {
            return Some(cpu);
        }
        if !self.policy.preemptive() || self.policy.held_until(&self.table, slot).is_some() {
            return None;
        }
        let (mask, last) = self.table.vcpu(slot).map(|vcpu| (self.table.classes.mask(vcpu.class), vcpu.last_cpu))?;
        let margin = |cpu: CpuId| {
            self.table.cpu(cpu).filter(|record| !record.kicked && record.running.is_some())?;
            let margin = self.policy.preempts(&self.table, slot, cpu, now)?;
            Some((margin, last == Some(cpu), cpu))
        };
        let (_, _, cpu) = mask.iter().filter_map(margin).max()?;
        self.kick_for(cpu, slot);
        Some(cpu)
    }

    /// Finds another CPU for a vCPU that was queued when it left this one.
    fn call_from(&mut self, cpu: CpuId, slot: Slot, now: u64) -> Option<CpuId> {
        // This CPU asks next. Where nothing else waits for it, it takes this one itself.
        let mask = self.table.vcpu(slot).map(|vcpu| self.table.classes.mask(vcpu.class))?;
        let found = if mask.contains(cpu) && self.table.classes.ready_for(cpu) == 1 {
            None
        } else if self.policy.cannot_wait(&self.table, slot) {
            self.call(slot, now)
        } else {
            self.call_idle(slot)
        };
        if found.is_none()
            && let Some(record) = self.table.cpu_mut(cpu)
        {
            record.expected_by.get_or_insert(slot);
        }
        found
    }

    /// Finds an idle CPU for the vCPU that may run because this one of the same VM no longer does.
    fn call_heir(&mut self, slot: Slot) -> Option<CpuId> {
        if self.table.idle.is_empty() {
            return None;
        }
        let heir = self.policy.heir(&self.table, slot)?;
        self.call_idle(heir)
    }

    /// Finds an idle CPU for a ready vCPU: where it ran last, else the first.
    fn call_idle(&mut self, slot: Slot) -> Option<CpuId> {
        let vcpu = self.table.vcpu(slot)?;
        let mask = self.table.classes.mask(vcpu.class);
        let idle = mask.and(&self.table.idle);
        let held = self.policy.held_until(&self.table, slot);
        if held == Some(AFTER_A_SIBLING) {
            return None;
        }
        // One that is held back needs a CPU that asks again by then.
        let late = |until: Option<u64>| held.is_none_or(|due| until.is_none_or(|until| until > due));
        let of_use = |cpu: &CpuId| self.table.cpu(*cpu).is_some_and(|record| late(record.idle_until));
        let last = vcpu.last_cpu.filter(|cpu| idle.contains(*cpu) && of_use(cpu));
        let mut found = last.or_else(|| idle.iter().find(of_use));
        if found.is_none() && held.is_none() && !self.table.idle.is_empty() && mask.iter().any(|cpu| self.decides(cpu))
        {
            // A CPU that was called for another vCPU may take this one; then an idle one must see to the other.
            found = self.table.idle.iter().find(|&cpu| self.table.classes.ready_for(cpu) > 0);
        }
        let cpu = found?;
        self.kick_for(cpu, slot);
        Some(cpu)
    }

    /// Whether the CPU neither runs a vCPU nor idles: it is about to ask.
    fn decides(&self, cpu: CpuId) -> bool {
        !self.table.idle.contains(cpu) && self.table.cpu(cpu).is_some_and(|record| record.running.is_none())
    }
}

impl Vcpu {
    /// Counts a run that begins.
    fn picked(&mut self, cpu: CpuId, switched: bool, now: u64) {
        let waited = now.saturating_sub(self.ready_since);
        self.figures.waits.add(waited);
        if self.woken {
            self.woken = false;
            self.figures.wakes.add(waited);
        }
        self.figures.runs += 1;
        self.figures.switches += u64::from(switched);
        self.figures.migrations += u64::from(self.last_cpu.is_some_and(|last| last != cpu));
        self.state = RunState::Running;
        self.yielded = false;
        self.cpu = Some(cpu);
        self.last_cpu = Some(cpu);
    }
}
