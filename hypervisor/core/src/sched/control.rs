//! What the operator changes while VMs run: VMs come and go, parameters, masks, the policy.

use super::fair::Fair;
use super::fcfs::Fcfs;
use super::policy::{Policy, Put};
use super::priority::Priority;
use super::round_robin::RoundRobin;
use super::table::Slot;
use super::{CpuSet, PolicyKind, RunState, Scheduler, VcpuId, VmParams};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// A mask of CPUs of which none exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no such CPU: {asked}; this machine has {present}")]
pub struct NoSuchCpu {
    /// What was asked for.
    pub asked: CpuSet,
    /// The CPUs there are.
    pub present: CpuSet,
}

impl Scheduler {
    /// The policy.
    #[must_use]
    pub fn policy(&self) -> PolicyKind {
        self.policy.kind()
    }

    /// Changes the policy. Counters stay, and who is ready stays so in the same order, each with a fresh slice. Answers the
    /// CPUs that are to decide anew, so that it takes effect at once.
    pub fn set_policy(&mut self, kind: PolicyKind, now: u64) -> CpuSet {
        let now = self.see(now);
        if kind == self.policy.kind() {
            return CpuSet::EMPTY;
        }
        self.policy = new_policy(kind);
        self.policy.make_room(&self.table);
        for place in 0..self.table.vms.len() {
            self.policy.vm_added(&self.table, place, now);
        }
        let ready = self.ready_in_order(0..self.table.vcpus.len());
        self.table.vcpus.iter_mut().for_each(|vcpu| vcpu.remaining = 0);
        for slot in ready {
            self.policy.put(&self.table, slot, Put::Moved, now);
        }
        self.begin_window(now);
        let mut kicked = CpuSet::EMPTY;
        for cpu in self.table.classes.all().iter() {
            let idle = self.table.idle.contains(cpu);
            let running = self.table.cpu(cpu).is_some_and(|record| record.running.is_some());
            if running || idle && self.table.classes.ready_for(cpu) > 0 {
                self.kick(cpu);
                kicked.insert(cpu);
            }
        }
        kicked
    }

    /// Takes a VM in, with all of its vCPUs blocked and allowed on every CPU. One that is there already is left as it is.
    pub fn add_vm(&mut self, vm: u32, params: VmParams, vcpus: u16) {
        if self.table.vm_place(vm).is_some() {
            return;
        }
        self.table.add(vm, params, vcpus, self.clock);
        self.policy.make_room(&self.table);
        self.timers.make_room(self.table.vcpus.len());
        if let Some(place) = self.table.vm_place(vm) {
            self.policy.vm_added(&self.table, place, self.clock);
        }
        self.begin_window(self.clock);
    }

    /// Forgets a VM; its vCPUs are not picked again. Where one runs, the caller ends its turn; to account for it is
    /// allowed and changes nothing.
    pub fn remove_vm(&mut self, vm: u32) {
        let Some(slots) = self.table.vm(vm).map(|vm| vm.vcpus.clone()) else { return };
        for slot in slots {
            self.unqueue(slot);
            self.timers.clear(slot);
            if let Some(cpu) = self.table.vcpu(slot).and_then(|vcpu| vcpu.cpu)
                && let Some(record) = self.table.cpu_mut(cpu)
            {
                record.running = None;
            }
        }
        self.table.remove(vm);
        self.begin_window(self.clock);
    }

    /// A VM's parameters.
    #[must_use]
    pub fn params(&self, vm: u32) -> Option<VmParams> {
        self.table.vm(vm).map(|vm| vm.params)
    }

    /// Changes a VM's parameters, for its waiting vCPUs at once. Answers the CPUs that are to decide anew.
    pub fn set_params(&mut self, vm: u32, params: VmParams, now: u64) -> CpuSet {
        let now = self.see(now);
        let Some(place) = self.table.vm_place(vm) else { return CpuSet::EMPTY };
        let slots = self.table.vm(vm).map(|vm| vm.vcpus.clone()).unwrap_or_default();
        let ready = self.ready_in_order(slots.iter().copied());
        ready.iter().for_each(|&slot| self.policy.take(&self.table, slot));
        self.table.set_params(place, params);
        ready.iter().for_each(|&slot| self.policy.put(&self.table, slot, Put::Moved, now));
        self.begin_window(now);
        let mut kicked = CpuSet::EMPTY;
        for cpu in slots.iter().filter_map(|&slot| self.table.vcpu(slot)?.cpu).collect::<Vec<_>>() {
            self.kick(cpu);
            kicked.insert(cpu);
        }
        for slot in ready {
            self.call(slot, now).into_iter().for_each(|cpu| kicked.insert(cpu));
        }
        kicked
    }

    /// The CPUs that a vCPU may run on.
    #[must_use]
    pub fn affinity(&self, vcpu: VcpuId) -> Option<CpuSet> {
        Some(self.table.vcpu(self.table.slot(vcpu)?)?.affinity)
    }

    /// Says which CPUs a vCPU may run on. Answers the CPUs that are to decide anew.
    ///
    /// # Errors
    /// The machine has none of these CPUs; nothing is changed.
    pub fn set_affinity(&mut self, vcpu: VcpuId, cpus: CpuSet, now: u64) -> Result<CpuSet, NoSuchCpu> {
        let now = self.see(now);
        let present = self.table.classes.all();
        if cpus.and(&present).is_empty() {
            return Err(NoSuchCpu { asked: cpus, present });
        }
        let Some(slot) = self.table.slot(vcpu) else { return Ok(CpuSet::EMPTY) };
        let siblings = self.table.vm(vcpu.vm).map(|vm| vm.vcpus.clone()).unwrap_or_default();
        let ready = self.ready_in_order(siblings.into_iter());
        // Who leads whom changes with the mask: all of the VM's leave the queue and come back.
        ready.iter().for_each(|&slot| self.unqueue(slot));
        self.table.set_affinity(slot, cpus);
        self.policy.make_room(&self.table);
        ready.iter().for_each(|&slot| self.queue(slot, Put::Moved, now));
        self.begin_window(now);
        let mut kicked = CpuSet::EMPTY;
        let on = self.table.vcpu(slot).and_then(|vcpu| vcpu.cpu);
        if let Some(cpu) = on.filter(|cpu| !cpus.contains(*cpu)) {
            self.kick(cpu);
            kicked.insert(cpu);
        }
        for slot in ready {
            self.call(slot, now).into_iter().for_each(|cpu| kicked.insert(cpu));
        }
        Ok(kicked)
    }

    /// Those of the slots that are ready, first come first.
    fn ready_in_order(&self, slots: impl Iterator<Item = Slot>) -> Vec<Slot> {
        let place = |slot: &Slot| self.table.vcpu(*slot).map_or(0, |vcpu| vcpu.place);
        let ready = |slot: &Slot| self.table.vcpu(*slot).is_some_and(|vcpu| vcpu.state == RunState::Ready);
        let mut slots: Vec<Slot> = slots.filter(ready).collect();
        slots.sort_unstable_by_key(place);
        slots
    }
}

pub(super) fn new_policy(kind: PolicyKind) -> Box<dyn Policy> {
    match kind {
        PolicyKind::Fair => Box::new(Fair::default()),
        PolicyKind::RoundRobin => Box::new(RoundRobin::default()),
        PolicyKind::Fcfs => Box::new(Fcfs::default()),
        PolicyKind::Priority => Box::new(Priority::default()),
    }
}
