//! The manager: all VMs, and every verb that changes one. A verb happens whole or not at all.

use crate::guest::Guest;
use crate::vm::Vm;
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use lamina_core::boot::ramdisk::Ramdisk;
use lamina_core::boot::tsc::TscFrequency;
use lamina_core::config::{HostConfig, VmConfig};
use lamina_core::exit::{ExitCounters, StopReason};
use lamina_core::memory::Owner;
use lamina_core::sched::Policy;
use lamina_core::time::TickClock;
use lamina_core::vm::{Event, State, Verb, transition};
use lamina_hw::acpi::Platform;
use lamina_hw::vmx::VmxRoot;
use lamina_hw::{mem, time};

/// The hypervisor's state: nothing about a VM lives anywhere else.
pub(crate) struct Vmm {
    pub(crate) root: VmxRoot,
    pub(crate) vms: Vec<Vm>,
    pub(crate) policy: Box<dyn Policy>,
    /// (host TSC, VM number): when blocked VMs have a timer due.
    pub(crate) timers: BTreeSet<(u64, u32)>,
    pub(crate) host: HostConfig,
    pub(crate) ramdisk: Option<Ramdisk<'static>>,
    pub(crate) platform: Platform,
    pub(crate) tsc: TscFrequency,
    pub(crate) clock: TickClock,
    /// Host TSC when the hypervisor started, and the RTC's time then, in seconds since 1970.
    pub(crate) boot_tsc: u64,
    pub(crate) boot_time_unix_s: u64,
    /// The firmware that the machine was started by.
    pub(crate) firmware: &'static str,
    next_id: u32,
}

/// What the manager is made of.
pub(crate) struct Parts {
    pub(crate) root: VmxRoot,
    pub(crate) policy: Box<dyn Policy>,
    pub(crate) host: HostConfig,
    pub(crate) ramdisk: Option<Ramdisk<'static>>,
    pub(crate) platform: Platform,
    pub(crate) tsc: TscFrequency,
    pub(crate) boot_tsc: u64,
    pub(crate) boot_time_unix_s: u64,
    pub(crate) firmware: &'static str,
}

impl Vmm {
    /// A manager without VMs.
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { root, policy, host, ramdisk, platform, tsc, boot_tsc, boot_time_unix_s, firmware } = parts;
        let clock = TickClock::new(tsc.hz);
        Self {
            root,
            vms: Vec::new(),
            policy,
            timers: BTreeSet::new(),
            host,
            ramdisk,
            platform,
            tsc,
            clock,
            boot_tsc,
            boot_time_unix_s,
            firmware,
            next_id: 1,
        }
    }

    /// Microseconds since the hypervisor started.
    pub(crate) fn uptime_us(&self) -> u64 {
        self.ticks_to_us(time::now().saturating_sub(self.boot_tsc))
    }

    /// Host ticks in microseconds.
    pub(crate) fn ticks_to_us(&self, ticks: u64) -> u64 {
        self.clock.ticks_to_periods(ticks, 1_000_000)
    }

    /// The VM called `name`.
    ///
    /// # Errors
    /// One line that names the VMs there are.
    pub(crate) fn find(&mut self, name: &str) -> Result<&mut Vm, String> {
        let names: Vec<&str> = self.vms.iter().map(|vm| vm.config.name.as_str()).collect();
        let there =
            if names.is_empty() { "there is none".to_string() } else { format!("there are: {}", names.join(", ")) };
        self.vms.iter_mut().find(|vm| vm.config.name == name).ok_or_else(|| format!("no VM is called {name}; {there}"))
    }

    /// The VM with this number.
    pub(crate) fn by_id(&mut self, id: u32) -> Option<&mut Vm> {
        self.vms.iter_mut().find(|vm| vm.id == id)
    }

    /// Whether the hypervisor's heap has room for another VM or another start, besides what the console's answers take.
    fn check_heap() -> Result<(), String> {
        const RESERVE_BYTES: usize = 1 << 20;
        let (used, all) = mem::heap_usage();
        if all.saturating_sub(used) < RESERVE_BYTES {
            return Err(format!(
                "the hypervisor's heap is nearly full ({used} of {all} bytes): destroy VMs that are not needed"
            ));
        }
        Ok(())
    }

    /// Defines a VM. Its files must be there; its memory is taken when it starts.
    ///
    /// # Errors
    /// One line; no VM was defined.
    pub(crate) fn create(&mut self, config: VmConfig) -> Result<(), String> {
        if self.vms.iter().any(|vm| vm.config.name == config.name) {
            return Err(format!("there is a VM called {} already; choose another name or destroy it", config.name));
        }
        let files = self.ramdisk.as_ref().map(Ramdisk::names).unwrap_or_default();
        for (key, file) in config.files() {
            if !files.iter().any(|name| name == file) {
                let there = files.join(", ");
                return Err(format!(
                    "vm {}: {} = \"{file}\" is not in the ramdisk; it has: {there}",
                    config.name,
                    key.name()
                ));
            }
        }
        Self::check_heap()?;
        let slot = (0..Owner::VM_SLOTS)
            .find(|slot| self.vms.iter().all(|vm| vm.slot != *slot))
            .ok_or_else(|| format!("no room for another VM: {} is the most", Owner::VM_SLOTS))?;
        let vm = Vm::new(self.next_id, slot, config, self.host.tee_serial);
        self.next_id += 1;
        let quantum = self.clock.periods_to_ticks(vm.config.quantum_us, 1_000_000);
        self.policy.add(vm.vcpu(), quantum);
        self.vms.push(vm);
        Ok(())
    }

    /// Does what the operator asks of a VM.
    ///
    /// # Errors
    /// One line; the VM is as it was.
    pub(crate) fn verb(&mut self, name: &str, verb: Verb) -> Result<(), String> {
        let vm = self.find(name)?;
        let id = vm.id;
        let next = transition(vm.state, verb).map_err(|refusal| refusal.line(name))?;
        match verb {
            Verb::Start | Verb::Reset => self.power_on(id)?,
            Verb::Stop => self.press_power_button(id),
            Verb::ForceStop => self.end(id, next, "stopped by the operator".to_string()),
            Verb::Pause => self.pause(id),
            Verb::Resume => self.resume(id),
            Verb::Destroy => self.destroy(id),
        }
        if let Some(vm) = self.by_id(id) {
            vm.state = next;
        }
        Ok(())
    }

    /// Builds the VM anew: image and scrubbed memory, devices as at power-on.
    fn power_on(&mut self, id: u32) -> Result<(), String> {
        self.take_off_cpu(id);
        let now = time::now();
        let boot_time = self.boot_time_unix_s + self.uptime_us() / 1_000_000;
        let Some(vm) = self.vms.iter_mut().find(|vm| vm.id == id) else { return Ok(()) };
        // The old machine's memory goes first: the new one may need it.
        vm.guest = None;
        let guest = Self::check_heap().and_then(|()| {
            Guest::new(&mut self.root, vm.slot, &vm.config, self.ramdisk.as_ref(), self.clock, boot_time)
        });
        match guest {
            Ok(mut guest) => {
                guest.trace(core::mem::take(&mut vm.trace_exits));
                vm.guest = Some(guest);
            }
            Err(error) => {
                let error = format!("vm {}: {error}", vm.config.name);
                if vm.state.is_alive() {
                    self.end(id, State::Crashed, error.clone());
                }
                return Err(error);
            }
        }
        vm.started_at = now;
        vm.starts += 1;
        vm.counters = ExitCounters::new();
        log::info!("vm {}: started", vm.config.name);
        let vcpu = vm.vcpu();
        self.policy.wake(vcpu, now);
        Ok(())
    }

    fn press_power_button(&mut self, id: u32) {
        if let Some(guest) = self.by_id(id).and_then(|vm| vm.guest.as_mut()) {
            guest.press_power_button();
        }
        self.wake(id);
    }

    fn pause(&mut self, id: u32) {
        self.take_off_cpu(id);
        if let Some(vm) = self.by_id(id) {
            vm.paused_at = time::now();
        }
    }

    fn resume(&mut self, id: u32) {
        let now = time::now();
        if let Some(vm) = self.by_id(id) {
            let stood_still = now.saturating_sub(vm.paused_at);
            if let Some(guest) = vm.guest.as_mut() {
                guest.skip_time(stood_still);
            }
            let vcpu = vm.vcpu();
            self.policy.wake(vcpu, now);
        }
    }

    fn destroy(&mut self, id: u32) {
        self.take_off_cpu(id);
        if let Some(index) = self.vms.iter().position(|vm| vm.id == id) {
            let vm = self.vms.remove(index);
            self.policy.remove(vm.vcpu());
        }
    }

    /// Ends a VM: its memory is given back, its log stays.
    fn end(&mut self, id: u32, state: State, how: String) {
        self.take_off_cpu(id);
        let Some(vm) = self.by_id(id) else { return };
        vm.guest = None;
        vm.state = state;
        vm.port.guest_ended();
        if state == State::Crashed {
            log::error!("vm {}: crashed: {how}", vm.config.name);
        } else {
            log::info!("vm {}: stopped ({how})", vm.config.name);
        }
        vm.last_stop = Some(how);
    }

    /// What follows when a guest's turn ended for good.
    pub(crate) fn guest_stopped(&mut self, id: u32, reason: StopReason) {
        let Some(vm) = self.by_id(id) else { return };
        let (event, how) = match reason {
            StopReason::PowerOff => (Event::PowerOff, "powered off".to_string()),
            StopReason::Exit(code) => (Event::Exit, format!("exit code {code}")),
            StopReason::Reset => (Event::Reset, "reset".to_string()),
            StopReason::Crashed(report) => (Event::Crash, report),
        };
        // A guest that runs is in a state that allows each of its events.
        let Ok(next) = transition(vm.state, event) else { return };
        if event == Event::Reset {
            log::info!("vm {}: reset by the guest", vm.config.name);
            let (before, ran) = (time::now(), time::now().saturating_sub(vm.started_at));
            match self.power_on(id) {
                Ok(()) => {
                    if let Some(vm) = self.by_id(id) {
                        vm.state = next;
                    }
                    self.hold_back(id, before, ran);
                }
                Err(error) => log::error!("{error}"),
            }
        } else {
            self.end(id, next, how);
        }
    }

    /// Keeps a VM that resets itself again and again from the CPU for a while: building it anew is work of the host that no time
    /// slice bounds. `before` is when that began, `ran` for how long the VM had run.
    fn hold_back(&mut self, id: u32, before: u64, ran: u64) {
        const OFTEN_US: u64 = 100_000;
        let often = self.clock.periods_to_ticks(OFTEN_US, 1_000_000);
        let Some(vm) = self.vms.iter_mut().find(|vm| vm.id == id).filter(|_| ran < often) else { return };
        let now = time::now();
        let due = now.saturating_add(often).saturating_add(now.saturating_sub(before));
        self.policy.block(vm.vcpu());
        vm.wake_at = Some(due);
        self.timers.insert((due, id));
    }

    /// The VM has something to do: it no longer waits for its timer.
    pub(crate) fn wake(&mut self, id: u32) {
        let now = time::now();
        let Some(vm) = self.vms.iter_mut().find(|vm| vm.id == id) else { return };
        let runnable = vm.state.is_runnable() && vm.guest.as_mut().is_some_and(|guest| guest.wake_if_due(now));
        let due = vm.guest.as_ref().and_then(Guest::next_deadline);
        if let Some(old) = vm.wake_at.take() {
            self.timers.remove(&(old, id));
        }
        let vcpu = vm.vcpu();
        if runnable {
            self.policy.wake(vcpu, now);
        } else if let Some(due) = due.filter(|_| vm.state.is_runnable()) {
            vm.wake_at = Some(due);
            self.timers.insert((due, id));
        }
    }

    /// The VM's vCPU is not to run: out of the scheduler, the timers and the CPU.
    fn take_off_cpu(&mut self, id: u32) {
        let Some(vm) = self.vms.iter_mut().find(|vm| vm.id == id) else { return };
        self.policy.block(vm.vcpu());
        if let Some(old) = vm.wake_at.take() {
            self.timers.remove(&(old, id));
        }
        if let Some(guest) = vm.guest.as_mut() {
            guest.unload(&mut self.root);
        }
    }
}
