//! The configuration: what the operator writes in `lamina.toml`, checked once.
//!
//! [`Config::parse`] is what both the hypervisor and `cargo xtask` call, so a file that builds into an image also boots.
//! [`HostConfig`] and [`VmConfig`] hold checked values only; each key is one row of a table ([`HostKey`], [`VmKey`]) and
//! has one setter, which the console's `vm create` and `vm set` ([`VmChange`]) use too. [`units`] reads sizes and times.
//! [`check_set`] and [`start_order`] are about several VMs together; [`Config::to_toml`] writes a configuration back.
//!
//! ```toml
//! [host]                       # optional, as is every key in it
//! log_level = "info"           # error, warn, info, debug or trace
//! on_panic = "halt"            # halt or reboot
//! tee_serial = false           # the guests' serial lines on the host console too, as `NAME| text`
//! poweroff_after = "30s"       # power off at this uptime; without it, never
//! poweroff_when_done = false   # power off as soon as no VM runs any more
//! cpus = "all"                 # how many of the machine's CPUs to use: all, or 1 to 256
//! sched_policy = "fair"        # fair, round-robin, fcfs or priority
//! alloc_strategy = "need"      # need, priority, utilization or capacity
//! overcommit = 1.0             # how much memory may be promised for each byte there is: 1.0 to 10.0, in hundredths
//! stop_grace = "30s"           # how long `vm stop` waits for a guest to power off before it ends it; at most 1h
//! mitigations = "auto"         # against speculative execution: auto, off, or what to leave out, as in "-rsb-fill,-verw"
//!
//! [[vm]]                       # one per VM
//! name = "linux"               # required; a-z, 0-9 and -, at most 31 characters, unique
//! image = "linux/vmlinuz"      # required; a file of the boot image's ramdisk
//! initrd = "linux/initrd"      # a file of the ramdisk
//! cmdline = "console=ttyS0"    # empty if not given
//! modules = ["mod.bin arg"]    # files of the ramdisk, each with its own command line
//! memory = "64M"               # K, M or G, or plain bytes; a multiple of 4K, at least 1M; 64M if not given
//! memory_min = "64M"           # what the VM keeps when memory is taken back from it; memory if not given
//! memory_max = "64M"           # what it can be given while it runs; memory if not given
//! balloon = true               # a balloon device, by which a guest gives memory back; true if not given
//! steal_time = true            # KVM's CPUID leaves, by which Linux is told what others took of its CPU; true if not given
//! vcpus = 1                    # 1 to 64; more than the machine has CPUs is allowed; 1 if not given
//! quantum = "10ms"             # us, ms or s; 100us to 1s; 10ms if not given
//! weight = 100                 # its share of the CPUs against the others'; 1 to 10000; 100 if not given
//! cap = "none"                 # the most it gets, in percent of one CPU (150: one and a half); none if not given
//! reservation = 0              # what it gets at least, in percent of one CPU; at most 100 for each vCPU; 0 if not given
//! priority = 50                # 0 to 99, higher is more urgent; 50 if not given
//! affinity = "all"             # the CPUs it may run on, as in "0-3,5"; all if not given
//! order = 100                  # lower starts earlier; 100 if not given, equal ones in the order of the file
//! autostart = true             # start at boot; true if not given
//! after = ["db"]               # VMs or groups that are started before it, and with it
//! group = "web"                # a name for several VMs together, for `vm stop --group web` and `after`
//! replicas = 1                 # above 1: makes NAME-1 to NAME-n, in the group NAME if no other is given; 1 if not given
//! stop_grace = "30s"           # the host's if not given
//! on_fault = "stop"            # what follows a fault: restart, stop, pause or preserve; stop if not given (docs/FAULTS.md)
//! restart_limit = "3 in 60s"   # the most restarts after faults and early resets: 1 to 100, in 1s to 3600s; 3 in 60s if not given
//! access_loop = 10000000       # so many accesses in a row to memory that is not there are a fault; none for never
//! watchdog = "10s"             # the VM is ended as hung when it shows no sign of life for so long; 1s to 1h, or none; none if not given
//! format = "auto"              # auto, linux, pvh, multiboot, flat16, flat32 or flat64
//! load_address = 0x100000      # flat formats only
//! entry = 0x100000             # flat formats only
//! ```

mod change;
mod document;
mod error;
mod host;
mod nearest;
mod order;
mod save;
#[cfg(test)]
mod tests;
pub mod units;
mod value;
mod vm;

pub use change::VmChange;
pub use error::{ConfigError, ValueError};
pub use host::{HostConfig, HostKey, OnPanic, alloc_strategy, overcommit_percent, sched_policy};
pub use nearest::nearest;
pub use order::{SetError, check_set, start_order};
pub use value::{REPLICAS_MAX, VCPUS_MAX, grace};
pub use vm::{ModuleConfig, VmConfig, VmKey};

use alloc::vec::Vec;

/// The name of the configuration file in the ramdisk.
pub const CONFIG_FILE: &str = "lamina.toml";

/// A whole configuration, every value of it checked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// What concerns the hypervisor itself.
    pub host: HostConfig,
    /// The descriptions of VMs, in the order of the file. A description with replicas stands for several VMs.
    pub vms: Vec<VmConfig>,
}

impl Config {
    /// Reads the text of a `lamina.toml`. An empty text is a configuration without VMs.
    ///
    /// # Errors
    /// The first thing that is wrong, as one line: where it is, what is there, what is allowed.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        document::parse(text)
    }

    /// The VMs that the descriptions make, replicas expanded, in the order of the file.
    #[must_use]
    pub fn machines(&self) -> Vec<VmConfig> {
        self.vms.iter().flat_map(VmConfig::expand).collect()
    }

    /// The VMs to start at boot, replicas expanded, in the order in which to start them: those with `autostart`, and what
    /// they come after.
    ///
    /// # Errors
    /// As [`check_set`]; never for a configuration that was read from a file, since [`Config::parse`] asks too.
    pub fn boot_order(&self) -> Result<Vec<VmConfig>, SetError> {
        let machines = self.machines();
        let autostart = machines.iter().enumerate().filter(|(_, vm)| vm.autostart).map(|(index, _)| index);
        let order = start_order(&machines, autostart, |_| false)?;
        Ok(order.into_iter().filter_map(|index| machines.get(index).cloned()).collect())
    }
}

/// What a key's value looks like in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// A string.
    Text,
    /// A string with a unit, or a plain integer.
    Size,
    /// A string with a unit.
    Time,
    /// An integer, or a string that holds one.
    Number,
    /// A number, a string that holds one, or a word in its place.
    NumberOr(&'static str),
    /// A number with a point, or without.
    Ratio,
    /// `true` or `false`.
    Flag,
    /// An array of strings; the key's setter is called once for each.
    List,
}

impl Form {
    /// What to write, for a value of the wrong type.
    const fn allowed(self) -> &'static str {
        match self {
            Self::Text => "a string in quotes",
            Self::Size => "a size, such as \"64M\" or 67108864",
            Self::Time => "a time in quotes, such as \"10ms\"",
            Self::Number => "a whole number",
            Self::NumberOr(allowed) => allowed,
            Self::Ratio => "a number such as 1.5",
            Self::Flag => "true or false",
            Self::List => "an array of strings, such as [\"ONE\", \"TWO\"]",
        }
    }
}

/// Keys of one table of the file: the enum, its names, and the form of each key's value.
macro_rules! keys {
    ($(#[$doc:meta])* $enum:ident { $($key:ident = $name:literal $form:ident $(($allowed:literal))?,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[expect(missing_docs, reason = "each key is documented in the description of the file")]
        pub enum $enum { $($key,)+ }

        impl $enum {
            /// Every key.
            pub const ALL: &'static [Self] = &[$(Self::$key,)+];

            /// The key as written in the file.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$key => $name,)+ }
            }

            pub(super) const fn form(self) -> super::Form {
                match self { $(Self::$key => super::Form::$form $(($allowed))?,)+ }
            }
        }
    };
}
use keys;
