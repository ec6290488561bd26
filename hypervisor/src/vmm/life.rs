//! A VM's life: what the operator's verbs do, and what follows when a guest comes to its end. What may follow what is said by
//! [`transition`] alone.

use super::{HEAP_PER_MACHINE, Vmm, check_heap};
use crate::cpus::BOOT_CPU;
use crate::machine::{BuildRequest, Machine};
use crate::manager::{Happened, Manager, News};
use crate::vm::Vm;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use lamina_core::config::{VmConfig, check_set, start_order};
use lamina_core::exit::StopReason;
use lamina_core::fault::Recovery;
use lamina_core::memory::PAGE_SIZE;
use lamina_core::vm::{Event, State, Targets, Verb, transition};
use lamina_hw::time;

impl Vmm<'_> {
    /// Does what the operator asks of VMs. `grace_us` is how long [`Verb::Stop`] waits for a guest to end by itself. Answers with
    /// the names of the VMs that followed.
    ///
    /// # Errors
    /// One line. A VM that could not follow is as it was, and VMs that were started before it are stopped again.
    pub(crate) fn verb(&mut self, targets: &Targets, verb: Verb, grace_us: Option<u64>) -> Result<Vec<String>, String> {
        self.see_to_news();
        let done = self.verb_on_all(targets, verb, grace_us);
        // Others may have waited for one of these.
        self.restart_those_due();
        done
    }

    fn verb_on_all(&mut self, targets: &Targets, verb: Verb, grace_us: Option<u64>) -> Result<Vec<String>, String> {
        let mut vms = self.targets(targets, verb)?;
        match verb {
            Verb::Stop | Verb::ForceStop => vms = self.needed_last(vms),
            Verb::Start => return self.start(&vms.iter().map(|(id, _)| *id).collect::<Vec<_>>()),
            Verb::Destroy => self.check_destroy(&vms)?,
            _ => {}
        }
        let mut done = Vec::new();
        for (id, name) in vms {
            if let Err(error) = self.verb_on(id, &name, verb, grace_us) {
                let before = if done.is_empty() { String::new() } else { format!("; done: {}", done.join(", ")) };
                return Err(format!("{error}{before}"));
            }
            done.push(name);
        }
        Ok(done)
    }

    fn verb_on(&mut self, id: u32, name: &str, verb: Verb, grace_us: Option<u64>) -> Result<(), String> {
        if matches!(verb, Verb::Stop | Verb::Resume) {
            return self.carry_out(id, name, verb, grace_us);
        }
        // The guest goes on until its vCPUs have left their CPUs: what it did by then comes first.
        self.take_off_cpus(id);
        self.see_to_news();
        // What was seen to may have let it run again.
        self.take_off_cpus(id);
        let done = self.carry_out(id, name, verb, grace_us);
        self.let_run(id);
        done
    }

    /// Carries out a verb, if it fits the VM's state now.
    fn carry_out(&mut self, id: u32, name: &str, verb: Verb, grace_us: Option<u64>) -> Result<(), String> {
        let state = self.with_vm(id, |vm| vm.state).unwrap_or(State::Destroyed);
        let next = transition(state, verb).map_err(|refusal| refusal.line(name))?;
        match verb {
            Verb::Start => {
                let startable = self.hypervisor.manager.lock().allocator.may_start(id);
                startable.map_err(|refusal| refusal.to_string())?;
                self.begin_anew(id)?;
            }
            Verb::Reset => self.begin_anew(id)?,
            Verb::Stop if next == State::Stopped => self.end(id, next, "stopped by the operator".to_string()),
            Verb::Stop => self.press_power_button(id, grace_us),
            Verb::ForceStop => self.end(id, next, "stopped by the operator".to_string()),
            Verb::Pause => {
                self.with_vm(id, |vm| {
                    // One that waited for memory stands still already.
                    if vm.state.pause_reason().is_none() {
                        vm.paused_at = time::now();
                    }
                    vm.state = next;
                });
            }
            Verb::Resume => self.resume(id, next),
            Verb::Destroy => self.destroy(id),
        }
        Ok(())
    }

    /// Starts VMs, after what they come after. All of them, or none.
    fn start(&mut self, ids: &[u32]) -> Result<Vec<String>, String> {
        let manager = self.hypervisor.manager.lock();
        let vms: Vec<(u32, VmConfig, bool)> = manager
            .vms
            .iter()
            .map(|vm| (vm.id, vm.config.clone(), vm.state.is_alive() && !vm.state.is_down()))
            .collect();
        drop(manager);
        let configs: Vec<VmConfig> = vms.iter().map(|(_, config, _)| config.clone()).collect();
        let wanted = vms.iter().enumerate().filter(|(_, (id, ..))| ids.contains(id)).map(|(index, _)| index);
        let runs = |index: usize| vms.get(index).is_some_and(|(.., alive)| *alive);
        let order = start_order(&configs, wanted, runs).map_err(|error| error.to_string())?;
        let mut started: Vec<(u32, String)> = Vec::new();
        for (id, config, _) in order.into_iter().filter_map(|index| vms.get(index)) {
            if let Err(error) = self.verb_on(*id, &config.name, Verb::Start, None) {
                for (id, _) in &started {
                    self.end(*id, State::Stopped, format!("vm {} could not be started", config.name));
                }
                return Err(error);
            }
            started.push((*id, config.name.clone()));
        }
        Ok(started.into_iter().map(|(_, name)| name).collect())
    }

    /// Starts this VM, and what it comes after.
    pub(crate) fn start_one(&mut self, name: &str) -> Result<(), String> {
        let id = self.find(name)?;
        if self.with_vm(id, |vm| vm.state.is_alive()) == Some(true) { Ok(()) } else { self.start(&[id]).map(|_| ()) }
    }

    /// The same VMs, each behind those that come after it.
    fn needed_last(&self, mut left: Vec<(u32, String)>) -> Vec<(u32, String)> {
        let manager = self.hypervisor.manager.lock();
        let configs: Vec<(u32, &VmConfig)> = manager.vms.iter().map(|vm| (vm.id, &vm.config)).collect();
        let config = |id: u32| configs.iter().find(|(other, _)| *other == id).map(|(_, config)| *config);
        let needs =
            |id: u32, other: u32| config(id).zip(config(other)).is_some_and(|(vm, other)| vm.comes_after(other));
        let mut order = Vec::with_capacity(left.len());
        while !left.is_empty() {
            // There is no circle.
            let next = left.iter().position(|(id, _)| left.iter().all(|(other, _)| !needs(*other, *id))).unwrap_or(0);
            order.push(left.remove(next));
        }
        order
    }

    /// Whether what is left still goes together: another VM may come after one that is to be destroyed.
    fn check_destroy(&self, vms: &[(u32, String)]) -> Result<(), String> {
        let manager = self.hypervisor.manager.lock();
        let left = manager.vms.iter().filter(|vm| vms.iter().all(|(id, _)| *id != vm.id));
        let configs: Vec<VmConfig> = left.map(|vm| vm.config.clone()).collect();
        check_set(&configs).map_err(|error| {
            let vm = configs.get(error.vm()).map_or("", |vm| vm.name.as_str());
            format!("vm {vm} would be left: {error}")
        })
    }

    /// Has the VM's vCPUs leave the CPUs, and waits until they have: each does at once. They stay off until the VM is no longer
    /// `quiet`.
    pub(super) fn take_off_cpus(&self, id: u32) {
        let mut manager = self.hypervisor.manager.lock();
        let Some(vm) = manager.by_id(id) else { return };
        vm.quiet = true;
        let machine = vm.machine.clone();
        manager.halt_vcpus(id, time::now());
        let Some(machine) = machine else { return };
        drop(manager);
        // Not by asking for the lock again and again: those that are waited for need it.
        while machine.is_running() {
            core::hint::spin_loop();
        }
        // The last one unloads its vCPU under the lock.
        drop(self.hypervisor.manager.lock());
    }

    /// Lets the VM's vCPUs run, if its state does.
    fn let_run(&self, id: u32) {
        let mut manager = self.hypervisor.manager.lock();
        if let Some(vm) = manager.by_id(id) {
            vm.quiet = false;
        }
        manager.wake_vm(id);
    }

    /// As the operator wants it: what its restarts were before is forgotten.
    fn begin_anew(&mut self, id: u32) -> Result<(), String> {
        self.with_vm(id, |vm| vm.recovery = Recovery::default());
        self.power_on(id)
    }

    /// Builds the VM anew: image and scrubbed memory, devices as at power-on.
    pub(super) fn power_on(&mut self, id: u32) -> Result<(), String> {
        self.take_off_cpus(id);
        let mut manager = self.hypervisor.manager.lock();
        // That takes long: what this CPU would have woken or run meanwhile, others do.
        Manager::kick(&manager.scheduler.leave(BOOT_CPU, time::now()));
        let Some(vm) = manager.by_id(id) else { return Ok(()) };
        vm.over = false;
        vm.stop_by = None;
        vm.press_later = None;
        vm.state = State::Starting;
        let old_machine = vm.take_machine();
        drop(manager);
        // The old machine's memory goes first: the new one may need it.
        drop(old_machine);
        self.hypervisor.manager.lock().allocator.ended(id);
        let built = self.build(id);
        let mut manager = self.hypervisor.manager.lock();
        let used = manager.used_by(id);
        let Some(vm) = manager.by_id(id) else { return Ok(()) };
        let event = if built.is_ok() { Event::Started } else { Event::StartFailed };
        if let Ok(state) = transition(vm.state, event) {
            vm.state = state;
        }
        match built {
            Ok(machine) => {
                vm.machine = Some(Arc::new(machine));
                vm.started_at = time::now();
                vm.used_before = used;
                vm.starts += 1;
                vm.quiet = false;
                log::info!("vm {}: started", vm.config.name);
                self.follow_target(&mut manager, id);
                manager.wake_vm(id);
                drop(manager);
                // From here on its target may have to follow what it uses.
                self.look_for_memory();
                Ok(())
            }
            Err(error) => {
                let error = format!("vm {}: {error}", vm.config.name);
                vm.last_stop = Some(error.clone());
                vm.port.lock().guest_ended();
                drop(manager);
                self.look_for_memory();
                Err(error)
            }
        }
    }

    fn build(&mut self, id: u32) -> Result<Machine, String> {
        let mut manager = self.hypervisor.manager.lock();
        let target = manager.allocator.target_bytes(id);
        let Some(vm) = manager.by_id(id) else { return Err("the VM is gone".to_string()) };
        let (slot, config, port) = (vm.slot, vm.config.clone(), Arc::clone(&vm.port));
        let (traced_exits, watchdog_fired) = (core::mem::take(&mut vm.trace_exits), vm.watchdog_fired);
        drop(manager);
        check_heap(1, HEAP_PER_MACHINE, config.vcpus)?;
        let limit_frames = target.unwrap_or(config.memory_bytes) / PAGE_SIZE;
        let request = BuildRequest { vm: id, slot, config: &config, port, limit_frames, traced_exits, watchdog_fired };
        Machine::new(self.hypervisor, self.root, &request)
    }

    /// Presses the power button, or does so once those that come after the VM and are ending too have ended. A guest that has
    /// not ended after its grace time is ended.
    fn press_power_button(&mut self, id: u32, grace_us: Option<u64>) {
        let mut manager = self.hypervisor.manager.lock();
        let Some(vm) = manager.vms.iter().find(|vm| vm.id == id) else { return };
        let needs = |other: &Vm| other.state == State::Stopping && other.config.comes_after(&vm.config);
        let is_needed = manager.vms.iter().any(needs);
        let Some(vm) = manager.by_id(id) else { return };
        let grace_us = grace_us.or(vm.config.stop_grace_us).unwrap_or(self.hypervisor.host.stop_grace_us);
        vm.state = State::Stopping;
        vm.press_later = is_needed.then_some(grace_us);
        if is_needed {
            return;
        }
        let stop_by = time::now().saturating_add(self.hypervisor.us_to_ticks(grace_us));
        vm.stop_by = Some(stop_by);
        if let Some(machine) = &vm.machine {
            machine.press_power_button();
        }
        manager.notify_vcpu_0(id);
        manager.appoint(stop_by, id);
    }

    /// A VM has ended, or is no longer ending: those that waited for that are asked to end.
    pub(super) fn press_buttons(&mut self) {
        let waiting: Vec<(u32, u64)> = {
            let manager = self.hypervisor.manager.lock();
            let ending = manager.vms.iter().filter(|vm| vm.state == State::Stopping);
            ending.filter_map(|vm| Some((vm.id, vm.press_later?))).collect()
        };
        for (id, grace_us) in waiting {
            self.press_power_button(id, Some(grace_us));
        }
    }

    fn resume(&mut self, id: u32, next: State) {
        let hypervisor = self.hypervisor;
        let mut manager = hypervisor.manager.lock();
        // Where it waited for memory, it touches the page again, and waits again if it must.
        manager.allocator.resumed(id);
        if let Some(vm) = manager.by_id(id) {
            if let (State::PausedFault, Some(machine)) = (vm.state, &vm.machine) {
                // It was silent until now, and has its time again to show that it goes on.
                machine.forgive_watchdog();
                machine.watch_heartbeat(hypervisor, vm.config.watchdog_us);
            }
            vm.state = next;
            vm.skip_pause(time::now());
        }
        drop(manager);
        self.let_run(id);
    }

    fn destroy(&mut self, id: u32) {
        let mut manager = self.hypervisor.manager.lock();
        if let Ok(index) = manager.vms.binary_search_by_key(&id, |vm| vm.id) {
            manager.scheduler.remove_vm(id);
            manager.allocator.remove(id);
            let vm = manager.vms.remove(index);
            drop(manager);
            drop(vm);
        }
        self.look_for_memory();
    }

    /// Ends a VM: its memory is given back, its log stays.
    pub(super) fn end(&mut self, id: u32, state: State, how: String) {
        self.take_off_cpus(id);
        let machine = self.with_vm(id, |vm| {
            vm.state = state;
            vm.stop_by = None;
            vm.press_later = None;
            vm.over = false;
            vm.port.lock().guest_ended();
            match state {
                State::Crashed => log::error!("vm {}: crashed: {how}", vm.config.name),
                State::Restarting => log::warn!("vm {}: ended, to be started anew: {how}", vm.config.name),
                _ => log::info!("vm {}: stopped ({how})", vm.config.name),
            }
            vm.last_stop = Some(how);
            vm.take_machine()
        });
        drop(machine);
        let mut manager = self.hypervisor.manager.lock();
        manager.cancel_appointments(id);
        manager.allocator.ended(id);
        drop(manager);
        self.look_for_memory();
        self.press_buttons();
    }

    /// Sees to what happened to VMs while they ran.
    pub(crate) fn see_to_news(&mut self) {
        loop {
            let Some(News { vm, vcpu, start, what }) = self.hypervisor.manager.lock().news.pop_front() else { return };
            if self.with_vm(vm, |vm| vm.starts == start && vm.state.is_alive()) != Some(true) {
                continue;
            }
            match what {
                Happened::Stopped(reason) => self.guest_stopped(vm, vcpu, reason),
                Happened::Starved(gpa) => self.starved(vm, gpa),
            }
        }
    }

    /// What follows when a guest has come to its end.
    fn guest_stopped(&mut self, id: u32, vcpu: u16, reason: StopReason) {
        let (event, how) = match reason {
            StopReason::PowerOff => (Event::PowerOff, "powered off".to_string()),
            StopReason::Exit(code) => (Event::Exit, format!("exit code {code}")),
            StopReason::Reset => return self.guest_reset(id, vcpu),
            StopReason::Fault(fault) => return self.guest_faulted(id, vcpu, *fault),
        };
        // A guest that runs is in a state that allows each of its events.
        if let Some(Ok(next)) = self.with_vm(id, |vm| transition(vm.state, event)) {
            self.end(id, next, how);
        }
    }

    /// Keeps the appointments that are due.
    pub(crate) fn keep_appointments(&mut self) {
        let now = time::now();
        let due = |at: u64| at <= now;
        loop {
            let Some(id) = self.hypervisor.manager.lock().take_due_appointment(now) else { break };
            self.tell_who_waits(id);
            let expected = |state: State| matches!(state, State::Stopping | State::PausedMemory);
            let late = self.with_vm(id, |vm| expected(vm.state) && vm.stop_by.is_some_and(due));
            if late == Some(true) {
                self.end(id, State::Stopped, "did not power off within its grace time".to_string());
            }
        }
        self.restart_those_due();
        if self.hypervisor.manager.lock().memory_look_at.is_some_and(due) {
            self.look_for_memory();
        }
        if due(self.hypervisor.manager.lock().exits_look_at) {
            self.look_at_exits();
        }
    }
}
