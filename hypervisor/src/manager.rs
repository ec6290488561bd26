//! The manager's state: all VMs, the scheduler, what the boot CPU has to see to. Behind the lock of
//! [`crate::hypervisor::Hypervisor`].
//!
//! What every CPU does with it, between two turns: report how its last one ended ([`Manager::report`]), wake whom its timers are
//! due for, and ask what is next ([`Manager::pick`]). What changes a VM's life is in [`crate::vmm`], on the boot CPU.

use crate::cpus::{self, BOOT_CPU};
use crate::machine::{Machine, SliceEnd};
use crate::vm::Vm;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use lamina_core::exit::StopReason;
use lamina_core::memory::GuestPhysAddr;
use lamina_core::resources::Allocator;
use lamina_core::sched::{CpuId, CpuSet, Decision, Scheduler, VcpuId, Why};
use lamina_hw::time;

/// All VMs, and who runs when.
pub(crate) struct Manager {
    /// By rising number.
    pub(crate) vms: Vec<Vm>,
    pub(crate) scheduler: Scheduler,
    /// What the boot CPU has yet to see to.
    pub(crate) news: VecDeque<News>,
    /// (host TSC, VM): when the boot CPU is to look after a VM.
    appointments: BTreeSet<(u64, u32)>,
    /// Who may hold how much.
    pub(crate) allocator: Allocator,
    /// The host TSC at which memory is to be looked after; see `Vmm::look_for_memory`.
    pub(crate) memory_look_at: Option<u64>,
    /// The host TSC at which a window of the exit models ends; see `Vmm::look_at_exits`.
    pub(crate) exits_look_at: u64,
    /// The VM that was looked at last so.
    pub(crate) exits_looked_at: u32,
    /// Microseconds of uptime at which guests' use of memory was last measured.
    pub(crate) sampled_at_us: u64,
    last_id: u32,
}

/// What happened to a VM while it ran.
pub(crate) struct News {
    pub(crate) vm: u32,
    /// The vCPU that it happened to.
    pub(crate) vcpu: u16,
    /// Which of its starts it happened to.
    pub(crate) start: u64,
    pub(crate) what: Happened,
}

/// See [`News`].
pub(crate) enum Happened {
    /// It is over.
    Stopped(StopReason),
    /// It touched a page that could not be backed.
    Starved(GuestPhysAddr),
}

/// A turn of a vCPU on a CPU.
pub(crate) struct Turn {
    pub(crate) vcpu: VcpuId,
    pub(crate) machine: Arc<Machine>,
    pub(crate) cpu: CpuId,
    /// The host TSC at which it began.
    pub(crate) started: u64,
    /// The host TSC at which its slice ends.
    pub(crate) until: u64,
    /// How long the vCPU was ready and did not run, up to this turn, in host ticks.
    pub(crate) steal: u64,
    /// The host TSC at which it ended.
    pub(crate) ended: u64,
    /// How it ended; taken when it is reported.
    pub(crate) end: Option<SliceEnd>,
}

/// What a CPU does next.
pub(crate) enum Next {
    Run(Turn),
    /// Sleep, until this host TSC at the latest.
    Idle {
        until: u64,
    },
}

impl Manager {
    /// A manager without VMs, for this many CPUs.
    pub(crate) fn new(scheduler: Scheduler, allocator: Allocator) -> Self {
        Self {
            vms: Vec::new(),
            scheduler,
            news: VecDeque::new(),
            appointments: BTreeSet::new(),
            allocator,
            memory_look_at: None,
            exits_look_at: 0,
            exits_looked_at: 0,
            sampled_at_us: 0,
            last_id: 0,
        }
    }

    /// The first of `count` numbers that no VM has or had.
    pub(crate) fn reserve_ids(&mut self, count: u32) -> u32 {
        let first = self.last_id + 1;
        self.last_id += count;
        first
    }

    /// The VM with this number.
    pub(crate) fn by_id(&mut self, id: u32) -> Option<&mut Vm> {
        let index = self.vms.binary_search_by_key(&id, |vm| vm.id).ok()?;
        self.vms.get_mut(index)
    }

    /// A turn has ended at `now`: its time is accounted for, and the vCPU waits, or is ready again, as the turn ended.
    pub(crate) fn report(&mut self, turn: &mut Turn, now: u64) {
        let Some(end) = turn.end.take() else { return };
        let vcpu = turn.vcpu;
        turn.machine.set_running_on(vcpu.index, None);
        let why = match &end {
            SliceEnd::Preempted => Why::Preempted,
            SliceEnd::Yielded => Why::Yielded,
            SliceEnd::Halted { .. } | SliceEnd::Starved(_) | SliceEnd::Stopped(_) => Why::Blocked,
        };
        let used = turn.ended.saturating_sub(turn.started);
        if let Some(other) = self.scheduler.account(vcpu, used, why, now) {
            cpus::decide_anew(other);
        }
        match end {
            SliceEnd::Preempted | SliceEnd::Yielded => {}
            // What came after its last look would be waited for in vain.
            SliceEnd::Halted { .. } if turn.machine.is_notified(vcpu.index) => self.wake(vcpu, now),
            SliceEnd::Halted { wake_at } => self.scheduler.set_timer(vcpu, turn.cpu, wake_at),
            SliceEnd::Starved(gpa) => self.happened(vcpu, Happened::Starved(gpa), now),
            SliceEnd::Stopped(reason) => self.happened(vcpu, Happened::Stopped(reason), now),
        }
    }

    /// Stops the VM's vCPUs and has the boot CPU see to it. Of several things that happen before it has, the first end counts.
    fn happened(&mut self, vcpu: VcpuId, what: Happened, now: u64) {
        let VcpuId { vm: id, index } = vcpu;
        self.halt_vcpus(id, now);
        let Some(vm) = self.by_id(id) else { return };
        vm.over = true;
        let start = vm.starts;
        match self.news.iter_mut().find(|news| news.vm == id && news.start == start) {
            Some(News { what: Happened::Stopped(_), .. }) => {}
            Some(news) => (news.vcpu, news.what) = (index, what),
            None => self.news.push_back(News { vm: id, vcpu: index, start, what }),
        }
        cpus::decide_anew(BOOT_CPU);
    }

    /// The VM's vCPUs are not to run. Those that do are kicked; they leave their CPUs once those report.
    pub(crate) fn halt_vcpus(&mut self, id: u32, now: u64) {
        for vcpu in self.vcpus_of(id) {
            if let Some(cpu) = self.scheduler.block(vcpu, now) {
                cpus::decide_anew(cpu);
            }
        }
    }

    /// The CPU time in ticks that the VM's vCPUs have used.
    pub(crate) fn used_by(&self, id: u32) -> u64 {
        self.scheduler.vm_stats(id, time::now()).map_or(0, |stats| stats.used)
    }

    /// The VM's vCPUs.
    pub(crate) fn vcpus_of(&mut self, id: u32) -> impl Iterator<Item = VcpuId> + use<> {
        let count = self.by_id(id).map_or(0, |vm| vm.config.vcpus);
        (0..count).map(move |index| VcpuId { vm: id, index })
    }

    /// The vCPU has something to do, if it may run: it is ready, and no longer waits for a timer.
    pub(crate) fn wake(&mut self, vcpu: VcpuId, now: u64) {
        if !self.by_id(vcpu.vm).is_some_and(|vm| vm.may_run()) {
            return;
        }
        if let Some(cpu) = self.scheduler.wake(vcpu, now) {
            cpus::decide_anew(cpu);
        }
    }

    /// All vCPUs of the VM may run: each looks by itself whether it has something to do.
    pub(crate) fn wake_vm(&mut self, id: u32) {
        let now = time::now();
        for vcpu in self.vcpus_of(id) {
            self.wake(vcpu, now);
        }
    }

    /// Tells the VM's first vCPU, which devices interrupt at first, to look at what waits for it.
    pub(crate) fn notify_vcpu_0(&mut self, id: u32) {
        let machine = self.by_id(id).and_then(|vm| vm.machine.clone());
        if machine.is_some_and(|machine| machine.notify(0)) {
            self.wake(VcpuId { vm: id, index: 0 }, time::now());
        }
    }

    /// Wakes the vCPUs whose timers on this CPU are due.
    pub(crate) fn wake_due(&mut self, cpu: CpuId, now: u64) {
        while let Some((_, vcpu)) = self.scheduler.next_timer(cpu).filter(|(at, _)| *at <= now) {
            self.wake(vcpu, now);
            // One that may not run was not woken.
            self.scheduler.set_timer(vcpu, cpu, None);
        }
    }

    /// Has the boot CPU look after a VM at host TSC `at`.
    pub(crate) fn appoint(&mut self, at: u64, id: u32) {
        self.appointments.insert((at, id));
    }

    /// A VM that is to be looked after by now, once for each appointment.
    pub(crate) fn take_due_appointment(&mut self, now: u64) -> Option<u32> {
        let due = self.appointments.first().copied().filter(|(at, _)| *at <= now)?;
        self.appointments.remove(&due);
        Some(due.1)
    }

    /// A VM has ended: nothing is to be looked after.
    pub(crate) fn cancel_appointments(&mut self, id: u32) {
        self.appointments.retain(|&(_, vm)| vm != id);
        if self.appointments.is_empty() {
            // An emptied set keeps a node, and what a VM held is to be back when it has ended.
            self.appointments = BTreeSet::new();
        }
    }

    /// When the boot CPU has something to look after, though nothing happened.
    pub(crate) fn next_appointment(&self) -> Option<u64> {
        self.appointments
            .first()
            .map(|&(at, _)| at)
            .into_iter()
            .chain(self.memory_look_at)
            .chain([self.exits_look_at])
            .min()
    }

    /// What this CPU does next. A turn ends when another vCPU's timer is due here, too.
    pub(crate) fn pick(&mut self, cpu: CpuId, now: u64) -> Next {
        cpus::decides(cpu);
        if cpu == BOOT_CPU && !self.news.is_empty() {
            cpus::decide_anew(cpu);
        }
        let appointment = self.next_appointment().filter(|_| cpu == BOOT_CPU);
        let timer =
            self.scheduler.next_timer(cpu).map(|(at, _)| at).into_iter().chain(appointment).min().unwrap_or(u64::MAX);
        loop {
            let (vcpu, until) = match self.scheduler.pick_next(cpu, now) {
                Decision::Run { vcpu, until, call } => {
                    call.into_iter().for_each(cpus::decide_anew);
                    (vcpu, until.min(timer))
                }
                Decision::Idle { until } => return Next::Idle { until: until.unwrap_or(u64::MAX).min(timer) },
            };
            match self.by_id(vcpu.vm).and_then(|vm| vm.machine.clone()) {
                Some(machine) => {
                    machine.set_running_on(vcpu.index, Some(cpu));
                    let steal = self.scheduler.steal(vcpu, now);
                    return Next::Run(Turn { vcpu, machine, cpu, started: now, steal, ended: now, until, end: None });
                }
                // A VM without a machine has no vCPU that may run; were one ready, it would be picked for ever.
                None => {
                    self.scheduler.account(vcpu, 0, Why::Blocked, now);
                }
            }
        }
    }

    /// These CPUs are to decide anew.
    pub(crate) fn kick(cpus: &CpuSet) {
        for cpu in cpus.iter() {
            cpus::decide_anew(cpu);
        }
    }
}
