//! QEMU: with nested VT-x where the host has it, or its own emulation (without VT-x) on request.

use std::fs;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use super::{Firmware, Machine};
use crate::process;

const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE.fd";

/// How QEMU runs the machine's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acceleration {
    NestedKvm,
    None,
}

/// Whether this host lets a KVM guest use VT-x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NestedVmx {
    /// It does.
    On,
    /// The processor shows no VT-x (`vmx` in /proc/cpuinfo).
    NoVmx,
    /// The module `kvm_intel` is not loaded.
    NoModule,
    /// The module is loaded with `nested=0`.
    Off,
}

impl NestedVmx {
    fn judge(cpuinfo: &str, nested: Option<&str>) -> Self {
        let vmx = cpuinfo
            .lines()
            .filter_map(|line| line.split_once(':'))
            .any(|(key, value)| key.trim() == "flags" && value.split_whitespace().any(|flag| flag == "vmx"));
        match nested.map(str::trim) {
            _ if !vmx => Self::NoVmx,
            None => Self::NoModule,
            Some("Y" | "1") => Self::On,
            Some(_) => Self::Off,
        }
    }

    /// One line: what is so, and what to do where it is not as wished.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::On => "nested VT-x is on",
            Self::NoVmx => {
                "this processor shows no VT-x (no `vmx` in /proc/cpuinfo): switch it on in the firmware setup or in the \
                 hypervisor that this machine runs under, or use --machine bochs"
            }
            Self::NoModule => "the module kvm_intel is not loaded: `sudo modprobe kvm_intel nested=1`",
            Self::Off => {
                "nested VT-x is off: `sudo modprobe -r kvm_intel && sudo modprobe kvm_intel nested=1` switches it on"
            }
        }
    }
}

/// Looks at this host. The device file /dev/kvm alone promises no VT-x.
#[must_use]
pub fn nested_vmx() -> NestedVmx {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let nested = fs::read_to_string("/sys/module/kvm_intel/parameters/nested").ok();
    NestedVmx::judge(&cpuinfo, nested.as_deref())
}

/// An error that says what to do, where KVM guests cannot use VT-x.
pub fn require_nested_vmx() -> Result<()> {
    let nested = nested_vmx();
    ensure!(nested == NestedVmx::On, "--machine qemu cannot work here: {}", nested.describe());
    Ok(())
}

pub(super) fn command(machine: &Machine, serial_port: u16, acceleration: Acceleration) -> Result<Command> {
    let Some(program) = process::find_program("qemu-system-x86_64") else {
        bail!("qemu-system-x86_64 is not installed: `cargo xtask setup` installs it");
    };
    let mut command = Command::new(program);
    match acceleration {
        Acceleration::NestedKvm => {
            require_nested_vmx()?;
            command.args(["-machine", "q35,accel=kvm,kernel-irqchip=split", "-cpu", "host,+vmx"]);
        }
        Acceleration::None => {
            command.args(["-machine", "q35,accel=tcg", "-cpu", "max"]);
        }
    }
    if machine.firmware == Firmware::Uefi {
        command.arg("-drive").arg(format!("if=pflash,format=raw,readonly=on,file={OVMF_CODE}"));
    }
    command.arg("-drive").arg(format!("format=raw,file={}", machine.image.display()));
    command.args(["-display", "none", "-no-reboot", "-nodefaults", "-vga", "std"]);
    command.arg("-smp").arg(machine.cpus.to_string());
    command.arg("-m").arg(machine.memory_mib.to_string());
    command.arg("-chardev").arg(format!("socket,id=serial,host=127.0.0.1,port={serial_port}"));
    command.args(["-serial", "chardev:serial"]);
    command.current_dir(&machine.run_dir);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITH_VMX: &str = "processor\t: 0\nflags\t\t: fpu vme vmx ssse3\n";
    const WITHOUT_VMX: &str = "processor\t: 0\nflags\t\t: fpu vme svmx\nvmx flags\t: vnmi\n";

    #[test]
    fn nested_vmx_needs_the_flag_the_module_and_its_parameter() {
        assert_eq!(NestedVmx::judge(WITH_VMX, Some("Y\n")), NestedVmx::On);
        assert_eq!(NestedVmx::judge(WITH_VMX, Some("1\n")), NestedVmx::On);
        assert_eq!(NestedVmx::judge(WITH_VMX, Some("N\n")), NestedVmx::Off);
        assert_eq!(NestedVmx::judge(WITH_VMX, None), NestedVmx::NoModule);
        assert_eq!(NestedVmx::judge(WITHOUT_VMX, Some("Y\n")), NestedVmx::NoVmx);
    }
}
