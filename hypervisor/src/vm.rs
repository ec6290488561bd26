//! A VM as the operator knows it: its configuration, its place in life, and the machine it runs on while it lives.

use crate::machine::Machine;
use crate::serial_port::SerialPort;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use lamina_core::config::VmConfig;
use lamina_core::exit::ExitCounters;
use lamina_core::fault::{FaultLog, Recovery};
use lamina_core::vm::State;
use spin::Mutex;

/// Bytes typed for a VM that its serial port has no room for yet.
const TYPED_BYTES_MAX: usize = 4096;

/// A VM.
pub(crate) struct Vm {
    /// Its number, never used twice.
    pub(crate) id: u32,
    /// Its place in the accounting of frames: used again after `destroy`.
    pub(crate) slot: u16,
    pub(crate) config: VmConfig,
    pub(crate) state: State,
    /// What it runs on; `None` while it is not alive, when it holds no memory.
    pub(crate) machine: Option<Arc<Machine>>,
    /// Lasts from start to start, as what came out of it can be read afterwards.
    pub(crate) port: Arc<Mutex<SerialPort>>,
    /// The exits of its last life, while it is not alive.
    past_counters: ExitCounters,
    /// How it last ended, in words.
    pub(crate) last_stop: Option<String>,
    pub(crate) starts: u64,
    /// Host TSC at its last start; what it stood still since then is added.
    pub(crate) started_at: u64,
    /// CPU time in ticks that it had used before its last start.
    pub(crate) used_before: u64,
    /// Host TSC at which it was paused.
    pub(crate) paused_at: u64,
    /// It is being changed: its vCPUs may not run.
    pub(crate) quiet: bool,
    /// Something happened to it that the boot CPU has yet to see to: its vCPUs may not run until then.
    pub(crate) over: bool,
    /// What its restarts were of late.
    pub(crate) recovery: Recovery,
    /// The host TSC from which on it may be started anew, while it is [`State::Restarting`].
    pub(crate) restart_at: u64,
    /// Its last faults.
    pub(crate) faults: FaultLog,
    /// The host TSC at which it is ended, if it has not ended by itself: its power button was pressed.
    pub(crate) stop_by: Option<u64>,
    /// Its power button is to be pressed once those that come after it have ended, with this grace time in microseconds.
    pub(crate) press_later: Option<u64>,
    /// How many exits its next start prints as records.
    pub(crate) trace_exits: u32,
    /// Its watchdog ended its last life, which its next one is told.
    pub(crate) watchdog_fired: bool,
    typed: VecDeque<u8>,
}

impl Vm {
    /// A VM that was never started.
    pub(crate) fn new(id: u32, slot: u16, config: VmConfig, tee: bool) -> Self {
        let port = Arc::new(Mutex::new(SerialPort::new(&config.name, tee)));
        Self {
            id,
            slot,
            config,
            state: State::Defined,
            machine: None,
            port,
            past_counters: ExitCounters::new(),
            last_stop: None,
            starts: 0,
            started_at: 0,
            used_before: 0,
            paused_at: 0,
            quiet: false,
            over: false,
            recovery: Recovery::default(),
            restart_at: 0,
            faults: FaultLog::default(),
            stop_by: None,
            press_later: None,
            trace_exits: 0,
            watchdog_fired: false,
            typed: VecDeque::new(),
        }
    }

    /// How long it has run at host TSC `now` since its start, pauses left out.
    pub(crate) fn age(&self, now: u64) -> u64 {
        let stands_still = self.state.pause_reason().is_some() || self.state == State::Preserved;
        let now = if stands_still { self.paused_at } else { now };
        now.saturating_sub(self.started_at)
    }

    /// It goes on after a pause: its clock and its age leave the time out.
    pub(crate) fn skip_pause(&mut self, now: u64) {
        let stood_still = now.saturating_sub(self.paused_at);
        self.started_at = self.started_at.saturating_add(stood_still);
        if let Some(machine) = &self.machine {
            machine.skip_time(stood_still);
        }
    }

    /// Whether its vCPUs may be given a CPU.
    pub(crate) fn may_run(&self) -> bool {
        self.state.is_runnable() && self.machine.is_some() && !self.quiet && !self.over
    }

    /// Takes the machine off the VM; what it counted stays.
    pub(crate) fn take_machine(&mut self) -> Option<Arc<Machine>> {
        let machine = self.machine.take()?;
        self.past_counters = machine.counters();
        self.watchdog_fired = machine.watchdog_fired();
        Some(machine)
    }

    /// The exits of its life, or of its last one.
    pub(crate) fn counters(&self) -> ExitCounters {
        self.machine.as_ref().map_or_else(|| self.past_counters.clone(), |machine| machine.counters())
    }

    /// A byte typed for the guest. Beyond what can wait, bytes are lost, as on a serial line without flow control.
    pub(crate) fn type_byte(&mut self, byte: u8) {
        if self.typed.len() < TYPED_BYTES_MAX {
            self.typed.push_back(byte);
        }
    }

    /// Hands the guest's serial port what it has room for; whether that was anything.
    pub(crate) fn pass_typed(&mut self) -> bool {
        if self.typed.is_empty() {
            return false;
        }
        let Some(machine) = self.machine.as_ref() else { return false };
        let taken = machine.type_bytes(self.typed.make_contiguous());
        self.typed.drain(..taken);
        taken > 0
    }

    /// Whether something that was typed waits for room in the guest's serial port.
    pub(crate) fn has_typed(&self) -> bool {
        !self.typed.is_empty() && self.machine.is_some()
    }
}
