//! The scheduler's figures, computed when somebody asks.

use super::closed_form::{Claim, closed_form};
use super::histogram::Histogram;
use super::stats::{CpuStats, Latency, Summary, VcpuStats, VmStats};
use super::table::{Vcpu, Vm};
use super::{CpuId, RunState, Scheduler, VcpuId};
use alloc::vec::Vec;

/// One CPU, or one per second, in the unit of the figures.
const MILLION: u64 = 1_000_000;

impl Scheduler {
    /// What was counted for a vCPU.
    #[must_use]
    pub fn vcpu_stats(&self, vcpu: VcpuId) -> Option<VcpuStats> {
        let vcpu = self.table.vcpu(self.table.slot(vcpu)?)?;
        let figures = &vcpu.figures;
        Some(VcpuStats {
            state: vcpu.state,
            cpu: vcpu.last_cpu,
            used: figures.used,
            steal: vcpu.steal(self.clock),
            runs: figures.runs,
            switches: figures.switches,
            migrations: figures.migrations,
            waits: Latency::of(&figures.waits),
            wakes: Latency::of(&figures.wakes),
        })
    }

    /// How long a vCPU was ready and did not run, up to `now`, in ticks: what [`VcpuStats::steal`] has. Costs little.
    #[must_use]
    pub fn steal(&self, vcpu: VcpuId, now: u64) -> u64 {
        self.table.slot(vcpu).and_then(|slot| self.table.vcpu(slot)).map_or(0, |vcpu| vcpu.steal(now))
    }

    /// What was counted for a VM. Where all are wanted, [`Self::all_vm_stats`] costs less.
    #[must_use]
    pub fn vm_stats(&self, vm: u32, now: u64) -> Option<VmStats> {
        let place = self.table.vm_place(vm)?;
        let present = self.table.vms.iter().take(place).flatten().count();
        let share = self.shares(now).get(present).copied()?;
        Some(self.stats_of(self.table.vm(vm)?, share, now))
    }

    /// What was counted for every VM, by number.
    #[must_use]
    pub fn all_vm_stats(&self, now: u64) -> Vec<(u32, VmStats)> {
        let shares = self.shares(now);
        let vms = self.table.vms.iter().flatten().zip(shares);
        let mut stats: Vec<_> = vms.map(|(vm, share)| (vm.number, self.stats_of(vm, share, now))).collect();
        stats.sort_unstable_by_key(|(number, _)| *number);
        stats
    }

    /// What was counted for a CPU.
    #[must_use]
    pub fn cpu_stats(&self, cpu: CpuId, now: u64) -> Option<CpuStats> {
        let record = self.table.cpu(cpu)?;
        let idling = record.idle_since.map_or(0, |since| now.saturating_sub(since));
        Some(CpuStats {
            running: record.running.and_then(|slot| self.table.vcpu(slot)).map(|vcpu| vcpu.id),
            busy: record.busy,
            idle: record.idle.saturating_add(idling),
            switches: record.switches,
        })
    }

    /// The time over which shares are measured, in ticks.
    #[must_use]
    pub fn window(&self, now: u64) -> u64 {
        now.saturating_sub(self.window_at)
    }

    /// The figures over all VMs.
    #[must_use]
    pub fn summary(&self, now: u64) -> Summary {
        let hz = u128::from(self.table.tsc_hz);
        let (mut vms, mut latency, mut throughput, mut rate) = (0_usize, 0_u128, 0_u128, 0_u128);
        for vm in self.table.vms.iter().flatten() {
            let (runs, turns) = self.table_sum(vm, |vcpu| (vcpu.figures.runs, vcpu.steal(now) + self.used(vcpu, now)));
            let age = now.saturating_sub(vm.added_at);
            if runs == 0 || turns == 0 || age == 0 {
                continue;
            }
            vms += 1;
            let used = self.table_sum(vm, |vcpu| (self.used(vcpu, now), 0)).0;
            // 1/t = runs / (waits + runs' time), in seconds.
            let per_second = u128::from(MILLION) * u128::from(runs) * hz / u128::from(turns);
            let received = u128::from(MILLION) * u128::from(used) / u128::from(age);
            latency += per_second;
            throughput += received;
            rate += per_second * received / u128::from(MILLION);
        }
        let mean = |sum: u128| u64::try_from(sum / (vms.max(1) as u128)).unwrap_or(u64::MAX);
        Summary {
            vms,
            mean_latency: mean(latency),
            mean_throughput: mean(throughput),
            mean_rate: mean(rate),
            jain: jain(&self.shares(now)),
        }
    }

    /// Begins the window anew over which shares are measured.
    pub(super) fn begin_window(&mut self, now: u64) {
        // Begun at this very tick already: nobody has used any since. (Many VMs are added at once when the machine starts.)
        if self.window_at == now {
            return;
        }
        self.window_at = now;
        for place in 0..self.table.vms.len() {
            let Some(Some(vm)) = self.table.vms.get(place) else { continue };
            let (used, wanted) = self.used_and_wanted(vm, now);
            if let Some(Some(vm)) = self.table.vms.get_mut(place) {
                vm.used_before = used;
                vm.wanted_before = wanted;
            }
        }
    }

    /// Each VM's share and due, in millionths of a CPU, in the order of the table.
    fn shares(&self, now: u64) -> Vec<(u64, u64)> {
        let window = u128::from(now.saturating_sub(self.window_at)).max(1);
        let part = |ticks: u64| u64::try_from(u128::from(ticks) * u128::from(MILLION) / window).unwrap_or(u64::MAX);
        let (mut received, mut claims) = (Vec::new(), Vec::new());
        for vm in self.table.vms.iter().flatten() {
            let (used, wanted) = self.used_and_wanted(vm, now);
            received.push(part(used.saturating_sub(vm.used_before)));
            let cap = vm.params.cap_percent.map_or(u64::MAX, |percent| u64::from(percent) * (MILLION / 100));
            let most = (vm.vcpus.len() as u64 * MILLION).min(part(wanted.saturating_sub(vm.wanted_before))).min(cap);
            let floor = u64::from(vm.params.reservation_percent) * (MILLION / 100);
            claims.push(Claim { weight: vm.params.weight, floor, ceiling: most });
        }
        let due = closed_form(&claims, self.table.cpus.len() as u64 * MILLION);
        received.into_iter().zip(due).collect()
    }

    fn stats_of(&self, vm: &Vm, (share, due): (u64, u64), now: u64) -> VmStats {
        let (mut waits, mut wakes) = (Histogram::default(), Histogram::default());
        for vcpu in vm.vcpus.iter().filter_map(|&slot| self.table.vcpu(slot)) {
            waits.merge(&vcpu.figures.waits);
            wakes.merge(&vcpu.figures.wakes);
        }
        let (used, steal) = self.table_sum(vm, |vcpu| (self.used(vcpu, now), vcpu.steal(now)));
        let (runs, switches) = self.table_sum(vm, |vcpu| (vcpu.figures.runs, vcpu.figures.switches));
        VmStats {
            vcpus: u16::try_from(vm.vcpus.len()).unwrap_or(u16::MAX),
            used,
            steal,
            runs,
            switches,
            migrations: self.table_sum(vm, |vcpu| (vcpu.figures.migrations, 0)).0,
            waits: Latency::of(&waits),
            wakes: Latency::of(&wakes),
            age: now.saturating_sub(vm.added_at),
            share,
            due,
        }
    }

    fn used_and_wanted(&self, vm: &Vm, now: u64) -> (u64, u64) {
        self.table_sum(vm, |vcpu| {
            let used = self.used(vcpu, now);
            (used, used.saturating_add(vcpu.steal(now)))
        })
    }

    /// What a vCPU has used, with what runs now.
    fn used(&self, vcpu: &Vcpu, now: u64) -> u64 {
        let started = vcpu.cpu.and_then(|cpu| self.table.cpu(cpu)).map(|record| record.started);
        vcpu.figures.used.saturating_add(started.map_or(0, |started| now.saturating_sub(started)))
    }

    /// Two sums over a VM's vCPUs.
    fn table_sum(&self, vm: &Vm, of: impl Fn(&Vcpu) -> (u64, u64)) -> (u64, u64) {
        let vcpus = vm.vcpus.iter().filter_map(|&slot| self.table.vcpu(slot));
        vcpus.map(of).fold((0, 0), |sum, more| (sum.0.saturating_add(more.0), sum.1.saturating_add(more.1)))
    }
}

impl Vcpu {
    /// How long it was ready and did not run.
    fn steal(&self, now: u64) -> u64 {
        let waiting = if self.state == RunState::Ready { now.saturating_sub(self.ready_since) } else { 0 };
        self.figures.waits.total().saturating_add(self.figures.waited_in_vain).saturating_add(waiting)
    }
}

/// Jain's index over `share / due`, in millionths.
fn jain(shares: &[(u64, u64)]) -> u64 {
    let ratio = |(share, due): &(u64, u64)| u128::from(*share) * u128::from(MILLION) / u128::from(*due);
    let ratios: Vec<u128> = shares.iter().filter(|(_, due)| *due > 0).map(ratio).collect();
    let (sum, squares): (u128, u128) = ratios.iter().fold((0, 0), |(sum, squares), x| (sum + x, squares + x * x));
    if squares == 0 {
        return MILLION;
    }
    u64::try_from(sum * sum * u128::from(MILLION) / (squares * ratios.len() as u128)).unwrap_or(MILLION)
}

#[cfg(test)]
mod tests {
    use super::super::{Decision, PRIORITY_DEFAULT, PolicyKind, VmParams, WEIGHT_DEFAULT, Why};
    use super::*;

    const VCPUS: [VcpuId; 2] = [VcpuId { vm: 1, index: 0 }, VcpuId { vm: 2, index: 0 }];

    /// Two VMs on one CPU, a thousand ticks a second.
    fn two() -> Scheduler {
        let mut scheduler = Scheduler::new(PolicyKind::RoundRobin, 1, 1000);
        let params = VmParams {
            quantum: 10,
            weight: WEIGHT_DEFAULT,
            cap_percent: None,
            reservation_percent: 0,
            priority: PRIORITY_DEFAULT,
        };
        for vcpu in VCPUS {
            scheduler.add_vm(vcpu.vm, params, 1);
        }
        scheduler
    }

    fn pick(scheduler: &mut Scheduler, now: u64) -> VcpuId {
        match scheduler.pick_next(CpuId(0), now) {
            Decision::Run { vcpu, .. } => vcpu,
            Decision::Idle { .. } => panic!("somebody is ready at {now}"),
        }
    }

    #[test]
    fn steal_is_the_time_ready_without_a_cpu() {
        let mut scheduler = two();
        let [a, b] = VCPUS;
        scheduler.wake(a, 100);
        scheduler.wake(b, 100);
        assert_eq!(pick(&mut scheduler, 100), a);
        assert_eq!((scheduler.steal(a, 105), scheduler.steal(b, 105)), (0, 5), "one runs, the other waits");
        scheduler.account(a, 10, Why::Preempted, 110);
        assert_eq!(pick(&mut scheduler, 110), b);
        assert_eq!((scheduler.steal(a, 117), scheduler.steal(b, 117)), (7, 10));
        // Blocked is idle, however long.
        scheduler.account(b, 10, Why::Blocked, 120);
        assert_eq!(pick(&mut scheduler, 120), a);
        assert_eq!((scheduler.steal(a, 9000), scheduler.steal(b, 9000)), (10, 10));
        for vcpu in VCPUS {
            assert_eq!(scheduler.vcpu_stats(vcpu).map(|stats| stats.steal), Some(10));
        }
        assert_eq!(scheduler.steal(VcpuId { vm: 3, index: 0 }, 9000), 0, "no such vCPU");
    }

    #[test]
    fn a_pause_is_not_stolen() {
        let mut scheduler = two();
        let [a, b] = VCPUS;
        scheduler.wake(a, 100);
        scheduler.wake(b, 100);
        assert_eq!(pick(&mut scheduler, 100), a);
        // The operator pauses both: one waits, one runs.
        assert_eq!((scheduler.block(b, 104), scheduler.block(a, 104)), (None, Some(CpuId(0))));
        scheduler.account(a, 5, Why::Preempted, 105);
        assert_eq!(scheduler.pick_next(CpuId(0), 105), Decision::Idle { until: None });
        assert_eq!((scheduler.steal(a, 9000), scheduler.steal(b, 9000)), (0, 4));
        scheduler.wake(b, 9000);
        assert_eq!(pick(&mut scheduler, 9001), b);
        assert_eq!(scheduler.steal(b, 9005), 5);
    }
}
