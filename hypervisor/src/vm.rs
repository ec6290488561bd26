//! A VM as the operator knows it: its configuration, its place in life, and the machine it runs on while it lives.

use crate::guest::Guest;
use crate::serial_port::SerialPort;
use alloc::collections::VecDeque;
use alloc::string::String;
use lamina_core::config::VmConfig;
use lamina_core::exit::ExitCounters;
use lamina_core::sched::VcpuId;
use lamina_core::vm::State;

/// Bytes typed for a VM that its serial port has no room for yet.
const TYPED_BYTES_MAX: usize = 4096;

/// A VM.
pub(crate) struct Vm {
    /// Its number, never used twice.
    pub(crate) id: u32,
    /// Its place in the accounting of frames, and its VPID: used again after `destroy`.
    pub(crate) slot: u16,
    pub(crate) config: VmConfig,
    pub(crate) state: State,
    /// What it runs on; `None` while it is not alive, when it holds no memory.
    pub(crate) guest: Option<Guest>,
    pub(crate) port: SerialPort,
    pub(crate) counters: ExitCounters,
    /// How it last ended, in words.
    pub(crate) last_stop: Option<String>,
    pub(crate) starts: u64,
    /// Host TSC at its last start.
    pub(crate) started_at: u64,
    /// Host TSC at which it was paused.
    pub(crate) paused_at: u64,
    /// The host TSC for which it waits among the timers while it is blocked.
    pub(crate) wake_at: Option<u64>,
    /// How many exits its next start prints as records.
    pub(crate) trace_exits: u32,
    typed: VecDeque<u8>,
}

impl Vm {
    /// A VM that was never started.
    pub(crate) fn new(id: u32, slot: u16, config: VmConfig, tee: bool) -> Self {
        let port = SerialPort::new(&config.name, tee);
        Self {
            id,
            slot,
            config,
            state: State::Defined,
            guest: None,
            port,
            counters: ExitCounters::new(),
            last_stop: None,
            starts: 0,
            started_at: 0,
            paused_at: 0,
            wake_at: None,
            trace_exits: 0,
            typed: VecDeque::new(),
        }
    }

    /// Its vCPU, as the scheduler knows it.
    pub(crate) const fn vcpu(&self) -> VcpuId {
        VcpuId { vm: self.id, index: 0 }
    }

    /// A byte typed for the guest. Beyond what can wait, bytes are lost, as on a serial line without flow control.
    pub(crate) fn type_byte(&mut self, byte: u8) {
        if self.typed.len() < TYPED_BYTES_MAX {
            self.typed.push_back(byte);
        }
    }

    /// Hands the guest's serial port what it has room for; whether that was anything.
    pub(crate) fn pass_typed(&mut self) -> bool {
        let Some(guest) = self.guest.as_mut().filter(|_| !self.typed.is_empty()) else { return false };
        let taken = guest.type_bytes(self.typed.make_contiguous());
        self.typed.drain(..taken);
        taken > 0
    }
}
