//! [`VmChange`]: what `vm set` changes of a VM, all of it or nothing.

use super::value::memory_between;
use super::{ValueError, VmConfig, VmKey, nearest};
use crate::fault::{OnFault, RestartLimit};
use crate::sched::CpuSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// The keys of a VM that can change while it lives, each with its new value if it has one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VmChange {
    /// The weight of its share of the CPUs.
    pub weight: Option<u32>,
    /// The most that it gets, in percent of one CPU; `Some(None)` takes the limit away.
    pub cap_percent: Option<Option<u32>>,
    /// The time slice in microseconds.
    pub quantum_us: Option<u64>,
    /// The priority.
    pub priority: Option<u8>,
    /// What it gets at least, in percent of one CPU.
    pub reservation_percent: Option<u32>,
    /// The CPUs that it may run on.
    pub affinity: Option<CpuSet>,
    /// The memory that it is to have, in bytes.
    pub memory_bytes: Option<u64>,
    /// How long `vm stop` waits for it, in microseconds.
    pub stop_grace_us: Option<u64>,
    /// What follows a fault.
    pub on_fault: Option<OnFault>,
    /// How many restarts within which time are the most.
    pub restart_limit: Option<RestartLimit>,
    /// For how long it may show no sign of life, in microseconds; `Some(None)` takes the limit away.
    pub watchdog_us: Option<Option<u64>>,
}

impl VmChange {
    /// The keys that can change.
    pub const KEYS: &'static [VmKey] = &[
        VmKey::Weight,
        VmKey::Cap,
        VmKey::Quantum,
        VmKey::Priority,
        VmKey::Reservation,
        VmKey::Affinity,
        VmKey::Memory,
        VmKey::StopGrace,
        VmKey::OnFault,
        VmKey::RestartLimit,
        VmKey::Watchdog,
    ];

    /// Reads `KEY=VALUE` words; of a key that is given twice, the last one counts.
    ///
    /// # Errors
    /// One line about the first word that is wrong.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        // The values are read by the setters of the configuration, into a description of its own.
        let mut scratch = VmConfig::blank();
        let mut change = Self::default();
        for word in words {
            let (name, value) = word
                .split_once('=')
                .ok_or_else(|| format!("{}: write KEY=VALUE, such as weight=200", word.escape_debug()))?;
            let key = Self::key(name)?;
            scratch.set(key, value).map_err(|error| format!("{name}={}: {error}", value.escape_debug()))?;
            change.take(key, &scratch);
        }
        Ok(change)
    }

    fn key(name: &str) -> Result<VmKey, String> {
        let names = || Self::KEYS.iter().map(|key| key.name());
        if let Some(key) = Self::KEYS.iter().copied().find(|key| key.name() == name) {
            return Ok(key);
        }
        let shown = name.escape_debug();
        if VmKey::ALL.iter().any(|key| key.name() == name) {
            let allowed = names().collect::<Vec<_>>().join(", ");
            return Err(format!("{shown} cannot be changed once the VM is defined; what can is {allowed}"));
        }
        Err(match nearest(name, names()) {
            Some(near) => format!("unknown key {shown}, did you mean {near}?"),
            None => format!("unknown key {shown}; allowed are {}", names().collect::<Vec<_>>().join(", ")),
        })
    }

    /// Takes over the value of a key.
    fn take(&mut self, key: VmKey, from: &VmConfig) {
        match key {
            VmKey::Weight => self.weight = Some(from.weight),
            VmKey::Cap => self.cap_percent = Some(from.cap_percent),
            VmKey::Quantum => self.quantum_us = Some(from.quantum_us),
            VmKey::Priority => self.priority = Some(from.priority),
            VmKey::Reservation => self.reservation_percent = Some(from.reservation_percent),
            VmKey::Affinity => self.affinity = Some(from.affinity),
            VmKey::Memory => self.memory_bytes = Some(from.memory_bytes),
            VmKey::StopGrace => self.stop_grace_us = from.stop_grace_us,
            VmKey::OnFault => self.on_fault = Some(from.on_fault),
            VmKey::RestartLimit => self.restart_limit = Some(from.restart_limit),
            VmKey::Watchdog => self.watchdog_us = Some(from.watchdog_us),
            _ => {}
        }
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The VM's description with the change in it. While a VM is `alive` its memory stays between the bounds that it was
    /// started with, so they are written down where they were defaults.
    ///
    /// # Errors
    /// One line about what does not go with the rest of the description.
    pub fn apply(&self, vm: &VmConfig, alive: bool) -> Result<VmConfig, String> {
        let mut changed = vm.clone();
        if let Some(memory_bytes) = self.memory_bytes {
            if alive {
                memory_between(memory_bytes, vm.memory_min(), vm.memory_max())
                    .map_err(|error| line(VmKey::Memory, &error))?;
                changed.memory_min_bytes = Some(vm.memory_min());
                changed.memory_max_bytes = Some(vm.memory_max());
            }
            changed.memory_bytes = memory_bytes;
        }
        changed.weight = self.weight.unwrap_or(vm.weight);
        changed.cap_percent = self.cap_percent.unwrap_or(vm.cap_percent);
        changed.quantum_us = self.quantum_us.unwrap_or(vm.quantum_us);
        changed.priority = self.priority.unwrap_or(vm.priority);
        changed.reservation_percent = self.reservation_percent.unwrap_or(vm.reservation_percent);
        changed.affinity = self.affinity.unwrap_or(vm.affinity);
        changed.stop_grace_us = self.stop_grace_us.or(vm.stop_grace_us);
        changed.on_fault = self.on_fault.unwrap_or(vm.on_fault);
        changed.restart_limit = self.restart_limit.unwrap_or(vm.restart_limit);
        changed.watchdog_us = self.watchdog_us.unwrap_or(vm.watchdog_us);
        changed.check().map_err(|(key, error)| line(key, &error))?;
        Ok(changed)
    }
}

fn line(key: VmKey, error: &ValueError) -> String {
    format!("{}: {error}", key.name())
}
