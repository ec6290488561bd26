//! A started VM: its RAM, its devices, its vCPUs.
//!
//! What the vCPUs of a VM have in common is in [`Machine`]: the RAM, which has a lock of its own, and [`Shared`], behind the
//! VM's lock. What is one vCPU's is in [`VcpuTask`] (`vcpu`), which belongs to the CPU that runs it. A vCPU is told of what
//! others did for it by its [`Slot`]: who puts something into its inbox sets `notified` first and looks then whether the vCPU
//! runs; the vCPU that is about to wait clears `running_on` first and looks then whether it was notified. So nothing is missed.
//!
//! Locks are taken in this order: the manager's, a VM's (`shared`), its serial port's, its RAM's. A vCPU's own (`Slot::task`) is
//! held by its CPU for the whole turn, and the other locks within it: who holds one of them only tries to take it, except for
//! the CPU that takes the vCPU out after its turn, when nobody else can want it. `build` makes a machine of a
//! configuration and its image, `exits` and `interrupts` are the path of a VM exit, `heartbeat` looks whether its vCPUs go on,
//! and `inject` is for tests of what follows a fault.

mod build;
mod exits;
mod heartbeat;
mod inject;
mod interrupts;
mod vcpu;
mod watch;

pub(crate) use build::BuildRequest;
pub(crate) use vcpu::{SliceEnd, VcpuTask};
use watch::Watch;

use crate::hypervisor::Hypervisor;
use crate::manager::Turn;
use crate::serial_port::SerialPort;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use lamina_core::device::board::Board;
use lamina_core::device::lapic::{ApicBus, VcpuMask};
use lamina_core::exit::ExitCounters;
use lamina_core::fault::{Capture, FaultKind};
use lamina_core::sched::{CpuId, VcpuId};
use lamina_core::vm::Heartbeat;
use lamina_hw::mem::GuestRam;
use lamina_hw::vmx::VmxRoot;
use lamina_hw::{apic, time};
use spin::{Mutex, MutexGuard};

/// A VM that was started.
pub(crate) struct Machine {
    /// The VM's number.
    vm: u32,
    ram: GuestRam,
    shared: Mutex<Shared>,
    slots: Vec<Slot>,
    /// Whether its vCPUs go on, where that is watched. Locked after `shared`, or alone.
    heartbeat: Mutex<Option<Heartbeat>>,
    watch: Mutex<Watch>,
    /// Host ticks that a vCPU waits which has written more than the host's serial line takes.
    line_wait: u64,
    /// For how long a guest whose exits are answered at once runs on with the timer as it was set, in host ticks.
    timer_slack: u64,
}

/// What the vCPUs share, beside the RAM.
pub(crate) struct Shared {
    board: Board,
    apics: ApicBus,
    /// The exits of each vCPU.
    counters: Vec<ExitCounters>,
    port: Arc<Mutex<SerialPort>>,
    /// Host TSC at which the guest's clock stood at 0.
    origin: u64,
    /// vCPU 0 knows that the PIC has an interrupt for it.
    pic_told: bool,
    /// The guest tick until which vCPU 0 waits for the board's timers; `u64::MAX` while it does not wait.
    board_wait: u64,
    /// A fault that the next VM entry is to have.
    injected: Option<FaultKind>,
}

/// The place of a vCPU in its VM.
struct Slot {
    task: Mutex<VcpuTask>,
    /// Something was put into its inbox, or happened to it, since it last looked.
    notified: AtomicBool,
    /// The VM's clock was set: its TSC offset is to follow.
    clock_changed: AtomicBool,
    /// The CPU that has it, or [`NOWHERE`]. Changed under the manager's lock.
    running_on: AtomicU32,
}

const NOWHERE: u32 = u32::MAX;

impl Machine {
    /// Its RAM.
    pub(crate) const fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Runs the turn's vCPU on this CPU until the host TSC reaches `until`, or something else ends its turn.
    pub(crate) fn run(&self, hypervisor: &Hypervisor, turn: &Turn, root: &mut VmxRoot, until: u64) -> SliceEnd {
        let Some(slot) = self.slots.get(usize::from(turn.vcpu.index)) else {
            return SliceEnd::Halted { wake_at: None };
        };
        let mut told = 0;
        let end = slot.task.lock().run(self, hypervisor, turn, root, until, &mut told);
        self.tell(hypervisor, told);
        end
    }

    /// Takes a vCPU's state out of this CPU, if it is in it.
    pub(crate) fn unload(&self, index: u16, root: &mut VmxRoot) {
        if let Some(slot) = self.slots.get(usize::from(index)) {
            slot.task.lock().unload(root);
        }
    }

    /// A vCPU that no CPU runs, as it is now. `None` where it cannot be looked at.
    pub(crate) fn capture(&self, index: u16, root: &mut VmxRoot) -> Option<Capture> {
        let mut task = self.slots.get(usize::from(index))?.task.try_lock()?;
        let capture = task.capture(self, root);
        // The next CPU may be another one.
        task.unload(root);
        capture
    }

    /// A CPU has the vCPU from now on, or none. Under the manager's lock.
    pub(crate) fn set_running_on(&self, index: u16, cpu: Option<CpuId>) {
        if let Some(slot) = self.slots.get(usize::from(index)) {
            slot.running_on.store(cpu.map_or(NOWHERE, |cpu| u32::from(cpu.0)), Ordering::SeqCst);
        }
    }

    /// Has the next VM entry of any of its vCPUs bring about a fault of this kind. One is to be notified.
    pub(crate) fn inject_fault(&self, kind: FaultKind) {
        self.shared.lock().injected = Some(kind);
    }

    /// Whether any vCPU is on a CPU.
    pub(crate) fn is_running(&self) -> bool {
        self.slots.iter().any(|slot| slot.running_on.load(Ordering::SeqCst) != NOWHERE)
    }

    /// Whether something waits for the vCPU that it has not looked at.
    pub(crate) fn is_notified(&self, index: u16) -> bool {
        self.slots.get(usize::from(index)).is_some_and(|slot| slot.notified.load(Ordering::SeqCst))
    }

    /// Tells a vCPU to look at what waits for it. Where it runs, its CPU is kicked out of the guest; `true` where it does not run
    /// and the manager is to wake it.
    #[must_use]
    pub(crate) fn notify(&self, index: u16) -> bool {
        let Some(slot) = self.slots.get(usize::from(index)) else { return false };
        if slot.notified.swap(true, Ordering::SeqCst) {
            // Whoever was first has seen to it.
            return false;
        }
        match u16::try_from(slot.running_on.load(Ordering::SeqCst)) {
            Ok(cpu) => {
                apic::kick(CpuId(cpu));
                false
            }
            Err(_) => true,
        }
    }

    /// Tells all these vCPUs; the manager's lock must not be held, nor any of this VM's.
    fn tell(&self, hypervisor: &Hypervisor, mut told: VcpuMask) {
        while told != 0 {
            let index = told.trailing_zeros() as u16;
            told &= told - 1;
            if self.notify(index) {
                let vcpu = VcpuId { vm: self.vm, index };
                hypervisor.manager.lock().wake(vcpu, time::now());
            }
        }
    }

    /// Gives the guest's serial port as many of `bytes` as it has room for; answers with how many: none while a vCPU is at the
    /// devices. vCPU 0 is to be notified.
    pub(crate) fn type_bytes(&self, bytes: &[u8]) -> usize {
        self.shared.try_lock().map_or(0, |mut shared| shared.board.serial_input(bytes))
    }

    /// Presses the ACPI power button. vCPU 0 is to be notified.
    pub(crate) fn press_power_button(&self) {
        let mut shared = self.shared.lock();
        let now = time::now().wrapping_sub(shared.origin);
        shared.board.power_button(now);
    }

    /// Whether the vCPU waits for its start-up IPI. One that is running does not.
    pub(crate) fn waits_for_sipi(&self, index: u16) -> bool {
        self.slots
            .get(usize::from(index))
            .and_then(|slot| slot.task.try_lock())
            .is_some_and(|task| task.waits_for_sipi())
    }

    /// Whether a driver in the guest runs its balloon, and how many pages it has given; `None` where there is no balloon, or a
    /// vCPU is at the devices: a balloon that takes pages in takes its time, and the next look tells.
    pub(crate) fn balloon(&self) -> Option<(bool, u64)> {
        let status = self.shared.try_lock()?.board.balloon_status()?;
        Some((status.driver_ready, u64::from(status.actual_pages)))
    }

    /// Sets how many pages the guest shall have given; whether that is new, so that vCPU 0 is to be notified.
    pub(crate) fn set_balloon_target(&self, pages: u64) -> bool {
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        let Some(mut shared) = self.shared.try_lock() else { return false };
        let old = shared.board.balloon_status().map(|status| status.target_pages);
        old.is_some_and(|old| old != pages) && shared.board.balloon_set_target_pages(pages)
    }

    /// The guest's clock stood still for so many ticks. No vCPU may be running.
    pub(crate) fn skip_time(&self, ticks: u64) {
        let mut shared = self.shared.lock();
        shared.origin = shared.origin.wrapping_add(ticks);
        drop(shared);
        for slot in &self.slots {
            slot.clock_changed.store(true, Ordering::SeqCst);
        }
    }

    /// Watches from now on whether the vCPUs go on, with this limit in microseconds, or no more. They are to be woken: one that
    /// waits is looked at after a turn.
    pub(crate) fn watch_heartbeat(&self, hypervisor: &Hypervisor, limit_us: Option<u64>) {
        let heartbeat = |us| Heartbeat::new(hypervisor.us_to_ticks(us), self.slots.len());
        *self.heartbeat.lock() = limit_us.map(heartbeat);
    }

    /// Takes it back that the guest's watchdog has fired, until the guest feeds it again.
    pub(crate) fn forgive_watchdog(&self) {
        self.shared.lock().board.forgive_watchdog();
    }

    /// Whether the guest's watchdog has fired.
    pub(crate) fn watchdog_fired(&self) -> bool {
        self.shared.lock().board.watchdog_fired().is_some()
    }

    /// What was counted of all vCPUs' exits.
    pub(crate) fn counters(&self) -> ExitCounters {
        let shared = self.shared.lock();
        let mut sum = ExitCounters::new();
        for counters in &shared.counters {
            sum.merge(counters);
        }
        sum
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock()
    }
}
