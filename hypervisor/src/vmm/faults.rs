//! What follows when a guest cannot go on, or resets itself: the report, and what the VM's policy says
//! ([`lamina_core::fault`]).
//!
//! A VM that is to be started anew has ended meanwhile: it holds nothing, and is [`State::Restarting`] until its back-off is over
//! and none of those that it comes after is down. Those that come after *it* run on.

use super::{Vmm, has_room_for_report};
use crate::manager::Manager;
use crate::vm::Vm;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use lamina_core::config::units::format_duration_us;
use lamina_core::fault::{Action, EARLY_US, Fault, FaultKind, FaultReport, KEPT_REPORTS, Recovery, Restart};
use lamina_core::vm::{Event, State, transition};
use lamina_hw::time;

impl Vmm<'_> {
    /// A guest cannot go on; `vcpu` is the one to look at, where nobody has yet.
    pub(super) fn guest_faulted(&mut self, id: u32, vcpu: u16, fault: Fault) {
        let now_us = self.hypervisor.uptime_us();
        let decide = |vm: &mut Vm| {
            let ending = vm.state == State::Stopping;
            vm.recovery.after_fault(vm.config.on_fault, vm.config.restart_limit, ending, now_us)
        };
        if let Some(action) = self.with_vm(id, decide) {
            self.carry_out_policy(id, vcpu, fault, action);
        }
    }

    /// Brings a fault about, one of [`FaultKind::INJECTED`], at the VM's next entry.
    ///
    /// # Errors
    /// One line; there will be none.
    pub(crate) fn inject_fault(&mut self, name: &str, kind: FaultKind) -> Result<(), String> {
        let id = self.find(name)?;
        let mut manager = self.hypervisor.manager.lock();
        let Some(vm) = manager.by_id(id) else { return Ok(()) };
        match &vm.machine {
            Some(machine) if vm.state.is_runnable() => machine.inject_fault(kind),
            _ => return Err(format!("vm {name} is {}: 'debug fault' needs one that runs", vm.state)),
        }
        manager.notify_vcpu_0(id);
        Ok(())
    }

    /// The guest has reset itself.
    pub(super) fn guest_reset(&mut self, id: u32, vcpu: u16) {
        let now_us = self.hypervisor.uptime_us();
        let (hypervisor, now) = (self.hypervisor, time::now());
        let decide = |vm: &mut Vm| {
            let ran_us = hypervisor.ticks_to_us(vm.age(now));
            let restart = vm.recovery.after_reset(vm.config.restart_limit, ran_us, now_us);
            let ending = vm.state == State::Stopping;
            let otherwise = Recovery::after_reset_loop(vm.config.on_fault, vm.config.restart_limit, ending);
            (vm.config.name.clone(), restart, otherwise)
        };
        let Some((name, restart, otherwise)) = self.with_vm(id, decide) else { return };
        match restart {
            Some(Restart { after_us: 0, .. }) => {
                log::info!("vm {name}: reset by the guest");
                match self.power_on(id) {
                    Ok(()) => self.press_buttons(),
                    Err(error) => log::error!("{error}"),
                }
            }
            Some(restart) => self.restart_later(
                id,
                &format!("reset by the guest within {} of its start", format_duration_us(EARLY_US)),
                restart,
            ),
            None => {
                let detail = format!(
                    "the guest reset itself within {} of its start, once too often",
                    format_duration_us(EARLY_US)
                );
                self.carry_out_policy(id, vcpu, *Fault::new(FaultKind::ResetLoop, detail), otherwise);
            }
        }
    }

    /// Keeps the report, and does what was decided.
    fn carry_out_policy(&mut self, id: u32, vcpu: u16, mut fault: Fault, action: Action) {
        self.take_off_cpus(id);
        let mut manager = self.hypervisor.manager.lock();
        // What else happened to it before its vCPUs had left their CPUs is over with this.
        manager.news.retain(|news| news.vm != id);
        let machine = manager.by_id(id).and_then(|vm| vm.machine.clone());
        drop(manager);
        if let (None, Some(machine)) = (&fault.capture, machine) {
            fault.capture = machine.capture(vcpu, self.root);
        }
        let detail = fault.detail.clone();
        self.report(id, fault, action);
        match action {
            Action::Restart(restart) => self.restart_later(id, &detail, restart),
            Action::Stop => self.end(id, State::Crashed, detail),
            Action::GiveUp(limit) => {
                self.end(id, State::Crashed, format!("{detail}; it was restarted {limit} already"))
            }
            Action::Pause => self.stand_still(id, Event::FaultPause, detail),
            Action::Preserve => self.stand_still(id, Event::FaultPreserve, detail),
        }
    }

    fn report(&self, id: u32, fault: Fault, action: Action) {
        let hypervisor = self.hypervisor;
        let keep = if has_room_for_report() { KEPT_REPORTS } else { 1 };
        self.with_vm(id, |vm| {
            let mut report = FaultReport {
                number: vm.faults.next_number(),
                at_us: hypervisor.uptime_us(),
                start: vm.starts,
                ran_us: hypervisor.ticks_to_us(vm.age(time::now())),
                fault,
                exits: Vec::new(),
                unknown: [0; 3],
                action: action.words(),
            };
            report.count(&vm.counters());
            vm.faults.push(report, keep);
        });
    }

    /// The VM stays as it is, and no vCPU of it runs.
    fn stand_still(&mut self, id: u32, event: Event, how: String) {
        self.with_vm(id, |vm| {
            if vm.state.pause_reason().is_none() {
                vm.paused_at = time::now();
            }
            if let Ok(state) = transition(vm.state, event) {
                vm.state = state;
            }
            (vm.over, vm.quiet) = (false, false);
            vm.port.lock().guest_ended();
            log::error!("vm {}: {}: {how}", vm.config.name, vm.state);
            vm.last_stop = Some(how);
        });
        // Others may have waited for it to end.
        self.press_buttons();
    }

    /// Ends the VM, and has it started anew after its back-off.
    fn restart_later(&mut self, id: u32, how: &str, restart: Restart) {
        self.end(id, State::Restarting, format!("{how}; {restart}"));
        let at = time::now().saturating_add(self.hypervisor.us_to_ticks(restart.after_us));
        let mut manager = self.hypervisor.manager.lock();
        if let Some(vm) = manager.by_id(id) {
            vm.restart_at = at;
        }
        manager.appoint(at, id);
    }

    /// A VM's back-off is over: where it waits on for another one, that is told.
    pub(super) fn tell_who_waits(&self, id: u32) {
        let manager = self.hypervisor.manager.lock();
        let waiting = manager.vms.iter().find(|vm| vm.id == id && vm.state == State::Restarting);
        if let Some((vm, down)) = waiting.and_then(|vm| Some((vm, waits_for(&manager, vm)?))) {
            log::warn!(
                "vm {}: not started anew until vm {} runs, which is {}",
                vm.config.name,
                down.config.name,
                down.state
            );
        }
    }

    /// Starts those anew whose back-off is over, and that wait for nobody.
    pub(super) fn restart_those_due(&mut self) {
        loop {
            let now = time::now();
            let mut manager = self.hypervisor.manager.lock();
            let due =
                |vm: &&Vm| vm.state == State::Restarting && vm.restart_at <= now && waits_for(&manager, vm).is_none();
            let Some(id) = manager.vms.iter().find(due).map(|vm| vm.id) else { return };
            // One that waited longer than its appointment has none any more.
            manager.cancel_appointments(id);
            let begun = manager.by_id(id).map(|vm| transition(vm.state, Event::Restart).map(|state| vm.state = state));
            drop(manager);
            if let Some(Ok(())) = begun
                && let Err(error) = self.power_on(id)
            {
                log::error!("{error}");
            }
        }
    }
}

/// The VM that this one comes after and that is down.
pub(crate) fn waits_for<'a>(manager: &'a Manager, vm: &Vm) -> Option<&'a Vm> {
    manager.vms.iter().find(|other| vm.config.comes_after(&other.config) && other.state.is_down())
}
