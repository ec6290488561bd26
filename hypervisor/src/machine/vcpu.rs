//! A vCPU and its turn on a CPU: deliver what is due, enter the guest, decide and apply. It allocates and formats nothing but
//! a crash report.

use super::{Machine, Shared};
use crate::cpus;
use crate::hypervisor::Hypervisor;
use crate::manager::Turn;
use crate::vmm::has_room_for_report;
use alloc::format;
use alloc::string::{String, ToString};
use core::ops::ControlFlow;
use core::sync::atomic::Ordering;
use lamina_core::device::lapic::VcpuMask;
use lamina_core::exit::local::LocalExits;
use lamina_core::exit::{Event, StopReason};
use lamina_core::fault::{Capture, ExitTrail, FaultKind, Subject};
use lamina_core::loader::EntryState;
use lamina_core::memory::GuestPhysAddr;
use lamina_core::sched::CpuId;
use lamina_core::vm::{Activity, Signal};
use lamina_core::x86::{CpuState, Gprs};
use lamina_hw::time;
use lamina_hw::vmx::{CurrentVmcs, EntryFailure, Vcpu, VmxRoot};

/// Why a vCPU's turn ended.
#[derive(Debug)]
pub(crate) enum SliceEnd {
    /// Its time was up, or the CPU is to decide anew.
    Preempted,
    /// The guest gave the rest of its slice away.
    Yielded,
    /// The vCPU waits for an interrupt or a start-up IPI.
    Halted {
        /// The host TSC at which a timer of its own ends the wait.
        wake_at: Option<u64>,
    },
    /// The page could not be backed: the VM has what it may have, or the host's memory is used up.
    Starved(GuestPhysAddr),
    /// The VM is over.
    Stopped(StopReason),
}

/// A vCPU: the part that is in the hardware while it runs, and the rest.
pub(crate) struct VcpuTask {
    pub(super) hw: Vcpu,
    pub(super) context: Context,
}

/// All of a vCPU that is neither in its VMCS nor shared with the others.
pub(super) struct Context {
    pub(super) index: u16,
    pub(super) cpu: CpuState,
    pub(super) gprs: Gprs,
    pub(super) activity: Activity,
    /// To be delivered before anything else: an exception, or an event whose delivery an exit cut short.
    pub(super) pending: Option<Event>,
    /// An interrupt whose delivery raised an exception, which goes first.
    pub(super) deferred: Option<Event>,
    /// Its last exits.
    pub(super) trail: ExitTrail,
    /// Exits that were answered at once, yet to be counted.
    pub(super) local_exits: LocalExits,
    /// IA32_APIC_BASE, and the host TSC at which the guest's clock began, as it last looked.
    pub(super) apic_base: u64,
    pub(super) origin: u64,
    /// Exits that are yet to be printed as records.
    pub(super) traced_exits: u32,
    /// The page's IRR or ISR may differ from the VMCS's guest interrupt status.
    pub(super) interrupt_status_stale: bool,
    /// The scheduler's figure of its steal time at its first turn: the scheduler counts on from start to start of a VM.
    pub(super) steal_before: Option<u64>,
    /// For how many nanoseconds since then it was ready and did not run.
    pub(super) steal_ns: u64,
    /// Since its heartbeat was looked at, it exited of its own accord or took an event.
    pub(super) sign: bool,
}

/// What a vCPU is to do, once what is due was seen to.
#[expect(clippy::large_enum_variant, reason = "it lives for a moment, and the way to an entry allocates nothing")]
pub(super) enum Next {
    /// Enter the guest.
    Enter,
    /// Take these registers first: it was reset by INIT, or starts by a start-up IPI.
    Restart(EntryState),
    /// Wait for an interrupt or a start-up IPI.
    Wait {
        /// The host TSC at which a timer of its own ends that.
        wake_at: Option<u64>,
    },
    /// The VM is over.
    Stop(StopReason),
}

impl VcpuTask {
    /// Runs the vCPU until the host TSC reaches `until`, or something else ends its turn. vCPUs in `told` are yet to be told of
    /// what waits for them.
    pub(super) fn run(
        &mut self,
        machine: &Machine,
        hypervisor: &Hypervisor,
        turn: &Turn,
        root: &mut VmxRoot,
        until: u64,
        told: &mut VcpuMask,
    ) -> SliceEnd {
        self.context.kept_waiting(turn.steal, hypervisor);
        let mut end = self.turn(machine, hypervisor, turn.cpu, root, until, told);
        if matches!(end, SliceEnd::Preempted | SliceEnd::Yielded) {
            // Where it cannot be written, the guest does without.
            let _ = self.context.cpu.msrs.steal_time.preempted(&mut &machine.ram);
        }
        end = self.beat(machine, hypervisor, turn, root, end);
        if let SliceEnd::Stopped(StopReason::Fault(fault)) = &mut end {
            fault.capture = self.capture(machine, root);
        }
        end
    }

    /// The turn. The VM's lock is held from each exit to the next entry.
    fn turn(
        &mut self,
        machine: &Machine,
        hypervisor: &Hypervisor,
        cpu: CpuId,
        root: &mut VmxRoot,
        until: u64,
        told: &mut VcpuMask,
    ) -> SliceEnd {
        let Self { hw, context } = self;
        let mut shared = machine.lock();
        let mut next = context.look(machine, &mut shared, told);
        if let Next::Wait { wake_at } = next {
            // Woken for nothing: it waits on without having been loaded.
            return SliceEnd::Halted { wake_at };
        }
        let mut vmcs = root.load(hw);
        loop {
            match next {
                Next::Enter => {}
                Next::Restart(state) => {
                    context.restart(&state, &mut vmcs);
                    next = context.next(&mut shared);
                    continue;
                }
                Next::Wait { wake_at } => return SliceEnd::Halted { wake_at },
                Next::Stop(reason) => return SliceEnd::Stopped(reason),
            }
            let host_now = time::now();
            if host_now >= until || cpus::is_to_decide(cpu) {
                return SliceEnd::Preempted;
            }
            if let Err(reason) = context.apply_changes(machine, &shared, &mut vmcs) {
                return SliceEnd::Stopped(reason);
            }
            if let Some(kind) = shared.injected.take() {
                drop(shared);
                if let Some(end) = context.inject_fault(kind, &mut vmcs, machine) {
                    return end;
                }
                shared = machine.lock();
            }
            // As above: a guest that named no RAM, or one for which memory is short, is not told.
            let _ = context.cpu.msrs.steal_time.tell(&mut &machine.ram, context.steal_ns);
            context.deliver(&mut shared, &mut vmcs);
            let due = shared.next_deadline(context.index).map_or(until, |deadline| until.min(deadline));
            drop(shared);
            if *told != 0 {
                machine.tell(hypervisor, core::mem::take(told));
            }

            shared = match context.enter(machine, cpu, &mut vmcs, host_now, due) {
                Ok(Some(exit)) => match context.handle(&exit, &mut vmcs, machine) {
                    ControlFlow::Continue(shared) => shared,
                    ControlFlow::Break(end) => return end,
                },
                Ok(None) => machine.lock(),
                Err(failure) => {
                    let detail = explain_entry_failure(failure);
                    return SliceEnd::Stopped(StopReason::fault(FaultKind::EntryFailure, detail));
                }
            };
            next = context.look(machine, &mut shared, told);
        }
    }

    /// Looks at the vCPU as it is now, which brings it to this CPU. `None` where the hypervisor's heap is nearly full.
    #[cold]
    pub(super) fn capture(&mut self, machine: &Machine, root: &mut VmxRoot) -> Option<Capture> {
        if !has_room_for_report() {
            return None;
        }
        let Self { hw, context } = self;
        let tick = time::now().wrapping_sub(machine.lock().origin);
        let vmcs = root.load(hw);
        Some(Capture::of(&Subject {
            vcpu: context.index,
            state: &vmcs,
            gprs: &context.gprs,
            cr2: vmcs.cr2(),
            physical_bits: context.cpu.cpuid.physical_bits(),
            memory: &&machine.ram,
            trail: &context.trail,
            tick,
        }))
    }

    /// Takes the vCPU's state out of this CPU, if it is in it.
    pub(super) fn unload(&mut self, root: &mut VmxRoot) {
        root.unload(&mut self.hw);
    }

    /// Whether it waits for its start-up IPI.
    pub(super) fn waits_for_sipi(&self) -> bool {
        self.context.activity == Activity::WaitForSipi
    }
}

impl Context {
    /// A turn begins, before which the scheduler counted so many host ticks of steal time in all.
    fn kept_waiting(&mut self, steal: u64, hypervisor: &Hypervisor) {
        let before = *self.steal_before.get_or_insert(steal);
        self.steal_ns = hypervisor.clock.ticks_to_ns(steal.saturating_sub(before));
    }

    /// Sees to what is due and what waits for the vCPU, and says what is next.
    fn look(&mut self, machine: &Machine, shared: &mut Shared, told: &mut VcpuMask) -> Next {
        if let Some(slot) = machine.slots.get(usize::from(self.index)) {
            slot.notified.store(false, Ordering::SeqCst);
            if slot.clock_changed.load(Ordering::Relaxed) {
                slot.clock_changed.store(false, Ordering::Relaxed);
                self.cpu.set_tsc_adjust(self.cpu.tsc_adjust());
            }
        }
        let now = time::now().wrapping_sub(shared.origin);
        *told |= self.service(shared, now);
        self.origin = shared.origin;
        self.apic_base = shared.apics.local(usize::from(self.index)).map_or(0, |apic| apic.base_msr());
        if let Some(period_ms) = shared.board.watchdog_fired() {
            return Next::Stop(explain_watchdog(period_ms));
        }
        self.next(shared)
    }

    fn next(&mut self, shared: &mut Shared) -> Next {
        let bootstrap = self.index == 0;
        let Some(apic) = shared.apics.local(usize::from(self.index)) else { return Next::Wait { wake_at: None } };
        match self.activity.signal(bootstrap, apic.take_init(), apic.take_sipi()) {
            Signal::None => {}
            Signal::ResetVm => return Next::Stop(StopReason::Reset),
            Signal::Reset => {
                apic.init();
                return Next::Restart(EntryState::reset());
            }
            Signal::Start(vector) => {
                apic.init();
                return Next::Restart(EntryState::startup_ipi(vector));
            }
        }
        if self.activity != Activity::Active && !self.wakes(shared) {
            return Next::Wait { wake_at: self.wait(shared) };
        }
        self.activity = Activity::Active;
        Next::Enter
    }

    /// The processor's registers become those of `state`. The caller sees to its local APIC.
    fn restart(&mut self, state: &EntryState, vmcs: &mut CurrentVmcs<'_>) {
        self.gprs = state.gprs;
        self.pending = None;
        self.deferred = None;
        self.interrupt_status_stale = true;
        self.cpu.msrs.steal_time.reset();
        vmcs.set_entry_state(state);
        vmcs.flush_tlb();
    }
}

#[cold]
fn explain_watchdog(period_ms: u32) -> StopReason {
    StopReason::fault(FaultKind::Watchdog, format!("watchdog: the guest did not feed it within {period_ms} ms"))
}

#[cold]
fn explain_entry_failure(failure: EntryFailure) -> String {
    match failure {
        EntryFailure::Invalid => "VM entry failed: no current VMCS; this is a bug of the hypervisor's".to_string(),
        EntryFailure::InstructionError(number) => {
            let text = lamina_core::vmx::instruction_error(number).unwrap_or("not in the manual");
            format!("VM entry failed: VM-instruction error {number}: {text}; this is a bug of the hypervisor's")
        }
    }
}
