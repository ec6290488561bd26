//! [`Table`]: what the policies share: the VMs, their vCPUs, the CPUs.

use super::classes::Classes;
use super::histogram::Histogram;
use super::{CpuId, CpuSet, RunState, VcpuId, VmParams, WEIGHT_MAX};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// A vCPU's place in [`Table::vcpus`].
pub(super) type Slot = usize;

/// A vCPU.
pub(super) struct Vcpu {
    pub(super) id: VcpuId,
    /// Its VM's place in [`Table::vms`].
    pub(super) vm: usize,
    /// The CPUs it may run on, as the operator said it.
    pub(super) affinity: CpuSet,
    /// The number of that mask.
    pub(super) class: usize,
    /// The first vCPU of the same VM with the same mask; it stands for all of them where a policy queues by VM.
    pub(super) leader: Slot,
    pub(super) state: RunState,
    /// It runs, and is not to be queued when accounted for.
    pub(super) stopping: bool,
    /// Where it runs.
    pub(super) cpu: Option<CpuId>,
    /// Where it ran last.
    pub(super) last_cpu: Option<CpuId>,
    /// What is left of its slice; 0 means a fresh one.
    pub(super) remaining: u64,
    /// Its place among all that were ever queued. Kept while its slice lasts.
    pub(super) place: u64,
    /// When it got that place.
    pub(super) placed_at: u64,
    /// The last that it did was yield: others go first.
    pub(super) yielded: bool,
    /// Since when it is ready.
    pub(super) ready_since: u64,
    /// It became ready by a wake.
    pub(super) woken: bool,
    pub(super) figures: VcpuFigures,
}

/// What is counted for a vCPU.
#[derive(Default)]
pub(super) struct VcpuFigures {
    pub(super) used: u64,
    pub(super) runs: u64,
    pub(super) switches: u64,
    pub(super) migrations: u64,
    pub(super) waits: Histogram,
    /// Waits that ended without a run.
    pub(super) waited_in_vain: u64,
    pub(super) wakes: Histogram,
}

/// A VM.
pub(super) struct Vm {
    pub(super) number: u32,
    pub(super) params: VmParams,
    /// Its vCPUs, by index.
    pub(super) vcpus: Vec<Slot>,
    /// Those of them that lead: one for each mask.
    pub(super) leaders: Vec<Slot>,
    pub(super) added_at: u64,
    /// What it had used, and what it had wanted, when the window of shares began.
    pub(super) used_before: u64,
    pub(super) wanted_before: u64,
}

/// A CPU.
#[derive(Default)]
pub(super) struct Cpu {
    pub(super) running: Option<Slot>,
    pub(super) started: u64,
    pub(super) until: u64,
    /// Told to decide anew, has not asked yet.
    pub(super) kicked: bool,
    /// The vCPU that counts on its asking: it was told for that one, or had it and is to take it again.
    pub(super) expected_by: Option<Slot>,
    /// The vCPU that ran last.
    pub(super) last: Option<VcpuId>,
    /// Since when it idles.
    pub(super) idle_since: Option<u64>,
    /// When it asks again by itself.
    pub(super) idle_until: Option<u64>,
    pub(super) busy: u64,
    pub(super) idle: u64,
    pub(super) switches: u64,
}

impl Cpu {
    /// Whether it is going to ask by then: it was told to, or idles no longer than that.
    pub(super) fn asks_by(&self, time: u64) -> bool {
        self.kicked || self.idle_since.is_some() && self.idle_until.is_some_and(|until| until <= time)
    }
}

/// All of it.
pub(super) struct Table {
    pub(super) vcpus: Vec<Vcpu>,
    free_vcpus: Vec<Slot>,
    pub(super) vms: Vec<Option<Vm>>,
    numbers: BTreeMap<u32, usize>,
    pub(super) classes: Classes,
    pub(super) cpus: Vec<Cpu>,
    /// CPUs that idle and were not told to decide anew.
    pub(super) idle: CpuSet,
    pub(super) tsc_hz: u64,
    /// The greatest weight of all VMs, at least 1.
    pub(super) weight_max: u32,
    next_place: u64,
}

impl Table {
    pub(super) fn new(cpus: usize, tsc_hz: u64) -> Self {
        Self {
            vcpus: Vec::new(),
            free_vcpus: Vec::new(),
            vms: Vec::new(),
            numbers: BTreeMap::new(),
            classes: Classes::new(cpus),
            cpus: (0..cpus).map(|_| Cpu::default()).collect(),
            idle: CpuSet::EMPTY,
            tsc_hz,
            weight_max: 1,
            next_place: 0,
        }
    }

    /// A vCPU's slot.
    pub(super) fn slot(&self, id: VcpuId) -> Option<Slot> {
        self.vm(id.vm)?.vcpus.get(usize::from(id.index)).copied()
    }

    pub(super) fn vcpu(&self, slot: Slot) -> Option<&Vcpu> {
        self.vcpus.get(slot)
    }

    pub(super) fn vcpu_mut(&mut self, slot: Slot) -> Option<&mut Vcpu> {
        self.vcpus.get_mut(slot)
    }

    pub(super) fn cpu(&self, cpu: CpuId) -> Option<&Cpu> {
        self.cpus.get(usize::from(cpu.0))
    }

    pub(super) fn cpu_mut(&mut self, cpu: CpuId) -> Option<&mut Cpu> {
        self.cpus.get_mut(usize::from(cpu.0))
    }

    /// A VM's place, by its number.
    pub(super) fn vm_place(&self, number: u32) -> Option<usize> {
        self.numbers.get(&number).copied()
    }

    /// A VM, by its number.
    pub(super) fn vm(&self, number: u32) -> Option<&Vm> {
        self.vms.get(self.vm_place(number)?)?.as_ref()
    }

    /// The VM that a vCPU belongs to.
    pub(super) fn vm_of(&self, slot: Slot) -> Option<&Vm> {
        self.vms.get(self.vcpu(slot)?.vm)?.as_ref()
    }

    /// The parameters that a vCPU goes by.
    pub(super) fn params_of(&self, slot: Slot) -> Option<&VmParams> {
        Some(&self.vm_of(slot)?.params)
    }

    /// A new place in the order of arrival.
    pub(super) fn next_place(&mut self) -> u64 {
        self.next_place += 1;
        self.next_place
    }

    /// Takes a VM in, all of its vCPUs blocked.
    pub(super) fn add(&mut self, number: u32, params: VmParams, vcpus: u16, now: u64) {
        let place = self.vms.iter().position(Option::is_none).unwrap_or_else(|| {
            self.vms.push(None);
            self.vms.len() - 1
        });
        let slots: Vec<Slot> = (0..vcpus).map(|index| self.new_vcpu(VcpuId { vm: number, index }, place)).collect();
        let vm = Vm {
            number,
            params: sound(params),
            leaders: Vec::with_capacity(slots.len()),
            vcpus: slots,
            added_at: now,
            used_before: 0,
            wanted_before: 0,
        };
        if let Some(free) = self.vms.get_mut(place) {
            *free = Some(vm);
        }
        self.numbers.insert(number, place);
        self.elect(place);
        self.weight_max = self.weight_max.max(params.weight.clamp(1, WEIGHT_MAX));
    }

    fn new_vcpu(&mut self, id: VcpuId, vm: usize) -> Slot {
        let class = self.classes.join(CpuSet::ALL);
        let fresh = Vcpu {
            id,
            vm,
            affinity: CpuSet::ALL,
            class,
            leader: 0,
            state: RunState::Blocked,
            stopping: false,
            cpu: None,
            last_cpu: None,
            remaining: 0,
            place: 0,
            placed_at: 0,
            yielded: false,
            ready_since: 0,
            woken: false,
            figures: VcpuFigures::default(),
        };
        if let Some(slot) = self.free_vcpus.pop() {
            if let Some(vcpu) = self.vcpus.get_mut(slot) {
                *vcpu = fresh;
            }
            return slot;
        }
        self.vcpus.push(fresh);
        self.vcpus.len() - 1
    }

    /// Forgets a VM. Its vCPUs are in no queue any more.
    pub(super) fn remove(&mut self, number: u32) {
        let Some(place) = self.numbers.remove(&number) else { return };
        let Some(vm) = self.vms.get_mut(place).and_then(Option::take) else { return };
        for slot in vm.vcpus {
            if let Some(vcpu) = self.vcpus.get_mut(slot) {
                self.classes.leave(vcpu.class);
                (vcpu.state, vcpu.cpu) = (RunState::Blocked, None);
            }
            self.free_vcpus.push(slot);
        }
        self.weigh();
    }

    /// Changes a vCPU's mask. It is in no queue.
    pub(super) fn set_affinity(&mut self, slot: Slot, affinity: CpuSet) {
        let Some(vcpu) = self.vcpus.get_mut(slot) else { return };
        let class = self.classes.join(affinity);
        self.classes.leave(vcpu.class);
        vcpu.affinity = affinity;
        vcpu.class = class;
        let vm = vcpu.vm;
        self.elect(vm);
    }

    /// Changes a VM's parameters.
    pub(super) fn set_params(&mut self, place: usize, params: VmParams) {
        if let Some(Some(vm)) = self.vms.get_mut(place) {
            vm.params = sound(params);
        }
        self.weigh();
    }

    /// Finds the VM's leaders.
    fn elect(&mut self, place: usize) {
        let Some(Some(vm)) = self.vms.get_mut(place) else { return };
        vm.leaders.clear();
        for &slot in &vm.vcpus {
            let Some(class) = self.vcpus.get(slot).map(|vcpu| vcpu.class) else { continue };
            let same = |&leader: &Slot| self.vcpus.get(leader).is_some_and(|vcpu| vcpu.class == class);
            let leader = vm.leaders.iter().copied().find(same).unwrap_or(slot);
            if leader == slot {
                vm.leaders.push(slot);
            }
            if let Some(vcpu) = self.vcpus.get_mut(slot) {
                vcpu.leader = leader;
            }
        }
    }

    fn weigh(&mut self) {
        self.weight_max = self.vms.iter().flatten().map(|vm| vm.params.weight).max().unwrap_or(1);
    }
}

/// The parameters with every figure in its range.
fn sound(params: VmParams) -> VmParams {
    VmParams {
        quantum: params.quantum.max(1),
        weight: params.weight.clamp(1, WEIGHT_MAX),
        priority: params.priority.min(super::PRIORITY_MAX),
        ..params
    }
}
