//! From a [`Config`] back to the text of a `lamina.toml`: what differs from the defaults, in the order of the keys.

use super::units::{format_duration_us, format_ratio, format_size};
use super::{Config, HostConfig, HostKey, OnPanic, VmConfig, VmKey};
use crate::x86::speculation::Mitigations;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

impl Config {
    /// The configuration as a file that [`Config::parse`] reads back as it is. Keys at their defaults are left out.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let default = HostConfig::default();
        let lines = HostKey::ALL.iter().filter_map(|&key| line(key.name(), self.host.toml(key), default.toml(key)));
        let host: String = lines.collect();
        if !host.is_empty() {
            text = format!("[host]\n{host}");
        }
        let default = VmConfig::blank();
        for vm in &self.vms {
            if !text.is_empty() {
                text.push('\n');
            }
            text += "[[vm]]\n";
            text.extend(VmKey::ALL.iter().filter_map(|&key| line(key.name(), vm.toml(key), default.toml(key))));
        }
        text
    }
}

/// `key = value`, if the value is there and not the default.
fn line(key: &str, value: Option<String>, default: Option<String>) -> Option<String> {
    if value == default { None } else { value.map(|value| format!("{key} = {value}\n")) }
}

impl HostConfig {
    /// The value of a key as it is written; `None` where only the key's absence says it.
    fn toml(&self, key: HostKey) -> Option<String> {
        Some(match key {
            HostKey::LogLevel => quoted(&self.log_level.as_str().to_ascii_lowercase()),
            HostKey::OnPanic => quoted(match self.on_panic {
                OnPanic::Halt => "halt",
                OnPanic::Reboot => "reboot",
            }),
            HostKey::TeeSerial => self.tee_serial.to_string(),
            HostKey::PoweroffAfter => quoted(&format_duration_us(self.poweroff_after_us?)),
            HostKey::PoweroffWhenDone => self.poweroff_when_done.to_string(),
            HostKey::Cpus => self.cpus?.to_string(),
            HostKey::SchedPolicy => quoted(self.sched_policy.name()),
            HostKey::AllocStrategy => quoted(self.alloc_strategy.name()),
            HostKey::Overcommit => format_ratio(self.overcommit_percent),
            HostKey::StopGrace => quoted(&format_duration_us(self.stop_grace_us)),
            HostKey::Mitigations => quoted(&mitigations(self.mitigations_off)),
        })
    }
}

fn mitigations(off: Mitigations) -> String {
    match off {
        Mitigations::NONE => "auto".to_string(),
        Mitigations::ALL => "off".to_string(),
        _ => off.iter().map(|mitigation| format!("-{}", mitigation.name())).collect::<Vec<_>>().join(","),
    }
}

impl VmConfig {
    /// The value of a key as it is written; `None` where only the key's absence says it.
    fn toml(&self, key: VmKey) -> Option<String> {
        Some(match key {
            VmKey::Name => quoted(&self.name),
            VmKey::Image => quoted(&self.image),
            VmKey::Initrd => quoted(self.initrd.as_deref()?),
            VmKey::Cmdline => quoted(&self.cmdline),
            VmKey::Modules => list(self.modules.iter().map(|module| match module.cmdline.as_str() {
                "" => module.file.clone(),
                cmdline => format!("{} {cmdline}", module.file),
            })),
            VmKey::Memory => quoted(&format_size(self.memory_bytes)),
            VmKey::MemoryMin => quoted(&format_size(self.memory_min_bytes?)),
            VmKey::MemoryMax => quoted(&format_size(self.memory_max_bytes?)),
            VmKey::Balloon => self.balloon.to_string(),
            VmKey::StealTime => self.steal_time.to_string(),
            VmKey::Vcpus => self.vcpus.to_string(),
            VmKey::Quantum => quoted(&format_duration_us(self.quantum_us)),
            VmKey::Weight => self.weight.to_string(),
            VmKey::Cap => self.cap_percent?.to_string(),
            VmKey::Reservation => self.reservation_percent.to_string(),
            VmKey::Priority => self.priority.to_string(),
            VmKey::Affinity => quoted(&self.affinity.to_string()),
            VmKey::Order => self.order.to_string(),
            VmKey::Autostart => self.autostart.to_string(),
            VmKey::After => list(self.after.iter().cloned()),
            VmKey::Group => quoted(self.group.as_deref()?),
            VmKey::Replicas => self.replicas.to_string(),
            VmKey::StopGrace => quoted(&format_duration_us(self.stop_grace_us?)),
            VmKey::OnFault => quoted(self.on_fault.name()),
            VmKey::RestartLimit => quoted(&self.restart_limit.to_string()),
            VmKey::AccessLoop => self.access_loop.map_or_else(|| quoted("none"), |count| count.to_string()),
            VmKey::Watchdog => quoted(&format_duration_us(self.watchdog_us?)),
            VmKey::Format => quoted(&self.format.to_string()),
            VmKey::LoadAddress => address(self.load_address?),
            VmKey::Entry => address(self.entry?),
        })
    }
}

/// A TOML integer has 63 bits; above them a string holds it.
fn address(address: u64) -> String {
    if i64::try_from(address).is_ok() { format!("{address:#x}") } else { quoted(&format!("{address:#x}")) }
}

fn list(texts: impl Iterator<Item = String>) -> String {
    let texts: Vec<String> = texts.map(|text| quoted(&text)).collect();
    format!("[{}]", texts.join(", "))
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => quoted += &format!("\\u{:04X}", u32::from(character)),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}
