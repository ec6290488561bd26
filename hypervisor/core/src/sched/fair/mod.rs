//! Fair: weighted proportional share of VMs, with caps and reservations.
//!
//! Each VM has a virtual time `v_i = used_i / w_i`, in TSC ticks that its vCPUs really used, whatever ended their turns; a
//! clock tick charges nobody, so there is none to hide from. The VM with the least is next: all that compete advance at one
//! common speed `lambda`, so that `x_i = w_i * lambda`. Together with the bounds below the VMs get
//!
//! `argmax_x sum of U_i(x)`, `U_i = w_i log x_i`, that is `x_i = clamp(w_i * lambda, floor_i, ceiling_i)`
//!
//! (see [`closed_form`](crate::sched::closed_form())), a VM with many vCPUs no more than one with a single one.
//!
//! - *Slices.* A slice is the VM's quantum scaled by its weight over the greatest weight of all, at least an eighth: then
//!   everyone's turn comes equally often, and short-term error is in proportion to the share. It is charged when it begins
//!   and corrected when it ends, so that CPUs that decide at once do not all choose the same VM.
//! - *The common virtual time.* Each CPU notes the greatest `v` that it picked; a mask's is that of the furthest of its CPUs.
//!   A VM stays within four of its own quanta behind it and two ahead. One that cannot use its weight (a single vCPU,
//!   half of all weight, four CPUs) thus does not fall back for ever and then, when others come, take a CPU from them; one
//!   that ran alone does not have to wait for others to catch up.
//!   For the same reason one that is a quantum behind, and whose CPU goes to another at the end of its slice, takes the
//!   CPU of one that is ahead: what it loses now it could never make up for.
//! - *Sleepers.* A VM that wakes is placed at its own `v`, but no further back than half a quantum: that is its credit,
//!   enough to run at once, too little to save up time. It takes a CPU from the VM that is furthest ahead, if that is ahead
//!   by more than an eighth of a quantum.
//! - *Cap.* A bucket filled by time at the cap's rate, with room for 80 ms of it; each tick used is taken out. An empty one
//!   holds the VM back until 20 ms of it have come: `Idle { until }` tells when. It starts empty, so nobody is ever ahead of
//!   its cap by more than the overrun of a slice, counted from when it was set.
//!   At most `floor(cap / 100)` of its vCPUs run at a time, and one more for the rest: as long as 20 ms of the cap are in the
//!   bucket, where there are others. So it uses its budget evenly and not in bursts on many CPUs, for which others could not
//!   make up. The turn goes to those that have waited longest, wherever they are pinned to.
//! - *Reservation.* `paid_until` advances by `used / reservation`. Once it is in the past while the VM is ready, the VM goes
//!   before all whose reservation is not due, earliest first. What it uses counts in `v` too, so a VM whose share is above
//!   its reservation never notices it. It makes up for what it was owed up to one second back.
//!   Reservations that together exceed the machine leave nothing to the others: whoever grants them is to see that they
//!   do not.
//! - *Caches.* Among VMs whose `v` is within a sixteenth of a quantum of the least, and among the first few vCPUs of a VM,
//!   one that ran on the asking CPU last is preferred.
//!
//! All waiting vCPUs of a VM with the same mask are one entry in the ordered structures (a [`group`]), so a decision costs
//! `O(log n)` for `n` VMs, times the number of masks that include the CPU, or that the VM's vCPUs have: one, unless vCPUs
//! are pinned. Of a VM with vCPUs on CPUs of different load each group waits at most one quantum beyond its own CPUs'
//! virtual time: no vCPU starves while its siblings run.

mod account;
mod group;

use super::policy::{AFTER_A_SIBLING, Policy, Put};
use super::queue::{Key, Queue};
use super::table::{Slot, Table, Vm};
use super::{CpuId, PolicyKind, VmParams};
use account::{Account, Charge, virtual_time};
use alloc::vec::Vec;
use group::Groups;

/// The fair policy.
#[derive(Default)]
pub(super) struct Fair {
    /// By the VM's place.
    accounts: Vec<Account>,
    /// By slot: what was charged for the turn that runs.
    charges: Vec<Option<Charge>>,
    groups: Groups,
    /// The greatest virtual time picked by each CPU, and by those of each mask.
    cpu_times: Vec<u128>,
    class_times: Vec<u128>,
    /// Groups that may run, by virtual time.
    ready: Queue,
    /// Those of them with a reservation, by when it is due.
    owed: Queue,
    /// Groups that their cap holds back, by when it ends.
    held: Queue,
}

impl Policy for Fair {
    fn kind(&self) -> PolicyKind {
        PolicyKind::Fair
    }

    fn make_room(&mut self, table: &Table) {
        let slots = table.vcpus.len();
        self.groups.make_room(slots);
        if self.charges.len() < slots {
            self.charges.resize(slots, None);
        }
        if self.accounts.len() < table.vms.len() {
            self.accounts.resize(table.vms.len(), Account::default());
        }
        for queue in [&mut self.ready, &mut self.owed, &mut self.held] {
            queue.make_room(slots, &table.classes);
        }
        self.cpu_times.resize(table.cpus.len(), 0);
        let furthest = |class| {
            let times = table.classes.mask(class);
            times.iter().filter_map(|cpu| self.cpu_times.get(usize::from(cpu.0))).copied().max().unwrap_or(0)
        };
        self.class_times = (0..table.classes.len()).map(furthest).collect();
    }

    fn put(&mut self, table: &Table, slot: Slot, how: Put, now: u64) {
        let (Some(vcpu), Some(vm)) = (table.vcpu(slot), table.vm_of(slot)) else { return };
        let around = self.around(table, vm);
        let own = self.class_times.get(vcpu.class).copied().unwrap_or(0);
        let Some(account) = self.accounts.get_mut(vcpu.vm) else { return };
        if how == Put::Moved {
            // The cap may be another one.
            account.held = None;
        }
        account.refill(&vm.params, table.tsc_hz, now);
        account.bound(&vm.params, around, table.tsc_hz, now);
        if how == Put::Woken && account.queued + account.running == 0 {
            account.arrive(&vm.params, around, now);
        }
        account.queued += 1;
        if self.groups.first(vcpu.leader).is_none() {
            self.groups.set_limit(vcpu.leader, own.saturating_add(quantum(&vm.params)));
        }
        self.groups.insert(vcpu.leader, slot, how == Put::Continues);
        self.order(table, vcpu.vm, vm);
    }

    fn take(&mut self, table: &Table, slot: Slot) {
        let (Some(vcpu), Some(vm)) = (table.vcpu(slot), table.vm_of(slot)) else { return };
        if self.groups.remove(vcpu.leader, slot)
            && let Some(account) = self.accounts.get_mut(vcpu.vm)
        {
            account.queued = account.queued.saturating_sub(1);
        }
        self.order(table, vcpu.vm, vm);
    }

    fn pick(&mut self, table: &Table, cpu: CpuId, now: u64) -> Option<(Slot, u64)> {
        self.release(table, cpu, now);
        let classes = table.classes.of_cpu(cpu);
        let owed = self.owed.first_of(classes).filter(|(key, _)| key.major <= u128::from(now));
        let reserved = owed.is_some();
        let leader = match owed {
            Some((_, leader)) => leader,
            None => self.least(table, cpu)?,
        };
        let (vcpu, vm) = (table.vcpu(leader)?, table.vm_of(leader)?);
        if !reserved {
            let time = self.accounts.get(vcpu.vm)?.v.min(self.groups.limit(leader));
            self.advance(table, cpu, time);
        }
        let slot = self.groups.pick(table, leader, cpu)?;
        let own = self.class_times.get(vcpu.class).copied().unwrap_or(0);
        self.groups.set_limit(leader, own.saturating_add(quantum(&vm.params)));
        let account = self.accounts.get_mut(vcpu.vm)?;
        account.refill(&vm.params, table.tsc_hz, now);
        let slice = slice(table, slot, &vm.params).min(account.allowed(&vm.params)).max(1);
        account.queued = account.queued.saturating_sub(1);
        account.running += 1;
        let charge = account.charge(&vm.params, slice, reserved);
        account.refill(&vm.params, table.tsc_hz, now);
        if let Some(own) = self.charges.get_mut(slot) {
            *own = Some(charge);
        }
        self.order(table, vcpu.vm, vm);
        Some((slot, slice))
    }

    fn preemptive(&self) -> bool {
        true
    }

    fn preempts(&self, table: &Table, slot: Slot, cpu: CpuId, now: u64) -> Option<u128> {
        let record = table.cpu(cpu)?;
        let running = record.running?;
        let (own, other) = (table.vm_of(slot)?, table.vm_of(running)?);
        let (own_place, other_place) = (table.vcpu(slot)?.vm, table.vcpu(running)?.vm);
        if own_place == other_place {
            return None;
        }
        let (account, theirs) = (self.accounts.get(own_place)?, self.accounts.get(other_place)?);
        let charge = self.charges.get(running).copied().flatten();
        // What was charged in advance and is not used yet does not count.
        let ahead = charge.map_or(0, |_| virtual_time(record.until.saturating_sub(now), other.params.weight));
        let time = theirs.v.saturating_sub(ahead);
        if account.is_owed(&own.params, now) {
            let not_owed = charge.is_none_or(|charge| !charge.reserved);
            return not_owed.then(|| time.saturating_add(OWED_FIRST).saturating_sub(account.v));
        }
        if charge.is_some_and(|charge| charge.reserved) {
            return None;
        }
        time.checked_sub(account.v).filter(|margin| *margin > virtual_time(own.params.quantum / 8, own.params.weight))
    }

    fn cannot_wait(&self, table: &Table, slot: Slot) -> bool {
        let (Some(vcpu), Some(vm)) = (table.vcpu(slot), table.vm_of(slot)) else { return false };
        let behind = self.around(table, vm).saturating_sub(quantum(&vm.params));
        self.accounts.get(vcpu.vm).is_some_and(|account| account.v < behind)
    }

    fn steps(&self) -> u64 {
        self.ready.steps() + self.owed.steps() + self.held.steps()
    }

    fn charge(&mut self, table: &Table, slot: Slot, used: u64, now: u64) {
        let (Some(vcpu), Some(vm)) = (table.vcpu(slot), table.vm_of(slot)) else { return };
        let around = self.around(table, vm);
        let Some(account) = self.accounts.get_mut(vcpu.vm) else { return };
        if let Some(charge) = self.charges.get_mut(slot).and_then(Option::take) {
            account.refund(charge);
            account.running = account.running.saturating_sub(1);
        }
        account.charge(&vm.params, used, false);
        account.refill(&vm.params, table.tsc_hz, now);
        account.bound(&vm.params, around, table.tsc_hz, now);
        self.order(table, vcpu.vm, vm);
    }

    fn vm_added(&mut self, table: &Table, place: usize, now: u64) {
        let Some(Some(vm)) = table.vms.get(place) else { return };
        let around = self.around(table, vm);
        if let Some(account) = self.accounts.get_mut(place) {
            *account = Account::new(around, now);
        }
        for &slot in &vm.vcpus {
            if let Some(charge) = self.charges.get_mut(slot) {
                *charge = None;
            }
        }
    }

    fn next_due(&self, table: &Table, cpu: CpuId) -> Option<u64> {
        let due = |class: &usize| self.held.first(*class).map(|(key, _)| time(key.major));
        table.classes.of_cpu(cpu).iter().filter_map(due).min()
    }

    fn held_until(&self, table: &Table, slot: Slot) -> Option<u64> {
        let (vcpu, vm) = (table.vcpu(slot)?, table.vm_of(slot)?);
        let first = self.groups.first(vcpu.leader).and_then(|first| table.vcpu(first));
        let account = self.accounts.get(vcpu.vm)?;
        if first.is_some_and(|first| first.place > self.last_admitted(table, account, vm)) {
            return Some(AFTER_A_SIBLING);
        }
        account.held
    }

    fn wanted_from(&self, class: usize) -> Option<u64> {
        match self.ready.first(class) {
            Some(_) => Some(0),
            None => self.held.first(class).map(|(key, _)| time(key.major)),
        }
    }

    fn heir(&self, table: &Table, slot: Slot) -> Option<Slot> {
        let vm = table.vm_of(slot)?;
        let account = self.accounts.get(table.vcpu(slot)?.vm)?;
        vm.params.cap_percent?;
        let last = self.last_admitted(table, account, vm);
        let firsts = vm.leaders.iter().filter_map(|&leader| self.groups.first(leader));
        let admitted =
            firsts.filter_map(|first| Some((table.vcpu(first)?.place, first))).filter(|first| first.0 <= last);
        admitted.max().map(|(_, first)| first)
    }
}

/// Puts those whose reservation is due before all others.
const OWED_FIRST: u128 = 1 << 100;

impl Fair {
    /// The virtual time that a VM is measured by: of its masks' the furthest.
    fn around(&self, table: &Table, vm: &Vm) -> u128 {
        let class = |&leader: &Slot| table.vcpu(leader).map(|vcpu| vcpu.class);
        vm.leaders.iter().filter_map(class).filter_map(|class| self.class_times.get(class)).copied().max().unwrap_or(0)
    }

    /// The greatest place in the order of arrival with which a group's first may run now: of a VM that is capped as many
    /// groups may as its cap lets vCPUs run besides those that do.
    fn last_admitted(&self, table: &Table, account: &Account, vm: &Vm) -> u64 {
        let free = account.free(&vm.params);
        if free >= vm.leaders.len() {
            return u64::MAX;
        }
        let place = |&leader: &Slot| Some(table.vcpu(self.groups.first(leader)?)?.place);
        let mut last = 0;
        for _ in 0..free {
            let next = vm.leaders.iter().filter_map(place).filter(|place| *place > last).min();
            last = next.unwrap_or(u64::MAX);
        }
        last
    }

    /// The group to run: the one with the least virtual time, or one close to it whose caches are here.
    fn least(&mut self, table: &Table, cpu: CpuId) -> Option<Slot> {
        let classes = table.classes.of_cpu(cpu);
        let (least, leader) = self.ready.first_of(classes)?;
        if self.groups.is_warm(table, leader, cpu) {
            return Some(leader);
        }
        let close = |(key, leader): &(Key, Slot)| {
            let reach = table.params_of(*leader).map_or(0, |params| virtual_time(params.quantum / 16, params.weight));
            key.major <= least.major.saturating_add(reach) && self.groups.is_warm(table, *leader, cpu)
        };
        let warm = classes.iter().flat_map(|&class| self.ready.foremost(class)).filter(close).min();
        Some(warm.map_or(leader, |(_, leader)| leader))
    }

    /// Notes that a CPU has come to this virtual time.
    fn advance(&mut self, table: &Table, cpu: CpuId, time: u128) {
        if let Some(own) = self.cpu_times.get_mut(usize::from(cpu.0)) {
            *own = time.max(*own);
        }
        for &class in table.classes.of_cpu(cpu) {
            if let Some(own) = self.class_times.get_mut(class) {
                *own = time.max(*own);
            }
        }
    }

    /// Lets those run again whose cap allows it by now: a few in each decision, more only while there is nothing to run.
    fn release(&mut self, table: &Table, cpu: CpuId, now: u64) {
        const A_FEW: usize = 3;
        let classes = table.classes.of_cpu(cpu);
        let mut released = 0;
        while released < A_FEW || self.ready.first_of(classes).is_none() {
            let Some((_, leader)) = self.held.first_of(classes).filter(|(key, _)| key.major <= u128::from(now)) else {
                return;
            };
            released += 1;
            self.held.remove(leader);
            let (Some(vcpu), Some(vm)) = (table.vcpu(leader), table.vm_of(leader)) else { continue };
            let Some(account) = self.accounts.get_mut(vcpu.vm) else { continue };
            account.held = None;
            account.refill(&vm.params, table.tsc_hz, now);
            self.order(table, vcpu.vm, vm);
        }
    }

    /// Puts a VM's groups where they belong, after anything about it changed.
    fn order(&mut self, table: &Table, place: usize, vm: &Vm) {
        let Some(account) = self.accounts.get(place) else { return };
        let last = self.last_admitted(table, account, vm);
        for &leader in &vm.leaders {
            let first = self.groups.first(leader).and_then(|slot| table.vcpu(slot)).filter(|vcpu| vcpu.place <= last);
            let Some(vcpu) = first else {
                self.ready.remove(leader);
                self.owed.remove(leader);
                self.held.remove(leader);
                continue;
            };
            let key = |major| Key { major, minor: vcpu.place };
            if let Some(until) = account.held {
                self.ready.remove(leader);
                self.owed.remove(leader);
                self.held.insert(leader, vcpu.class, key(u128::from(until)));
                continue;
            }
            self.held.remove(leader);
            self.ready.insert(leader, vcpu.class, key(account.v.min(self.groups.limit(leader))));
            if vm.params.reservation_percent > 0 {
                self.owed.insert(leader, vcpu.class, key(u128::from(account.paid_until)));
            } else {
                self.owed.remove(leader);
            }
        }
    }
}

/// A vCPU's slice: what is left of it, else the quantum scaled by the weight.
fn slice(table: &Table, slot: Slot, params: &VmParams) -> u64 {
    let left = table.vcpu(slot).map_or(0, |vcpu| vcpu.remaining);
    if left > 0 {
        return left.min(params.quantum);
    }
    let scaled = u128::from(params.quantum) * u128::from(params.weight) / u128::from(table.weight_max.max(1));
    time(scaled).clamp(params.quantum.div_ceil(8), params.quantum)
}

/// A quantum of the VM's virtual time.
fn quantum(params: &VmParams) -> u128 {
    virtual_time(params.quantum, params.weight)
}

fn time(ticks: u128) -> u64 {
    u64::try_from(ticks).unwrap_or(u64::MAX)
}
