//! The configuration: what the operator writes in `lamina.toml`, checked once.
//!
//! [`Config::parse`] is what both the hypervisor and `cargo xtask` call, so a file that builds into an image also boots.
//! [`HostConfig`] and [`VmConfig`] hold checked values only; each key is one row of a table ([`HostKey`], [`VmKey`]) and
//! has one setter, which the console's `vm create` uses too. [`units`] reads sizes and times.
//!
//! ```toml
//! [host]                       # optional, as is every key in it
//! log_level = "info"           # error, warn, info, debug or trace
//! on_panic = "halt"            # halt or reboot
//! tee_serial = false           # the guests' serial lines on the host console too, as `NAME| text`
//! poweroff_after = "30s"       # power off at this uptime; without it, never
//! poweroff_when_done = false   # power off as soon as no VM runs any more
//!
//! [[vm]]                       # one per VM
//! name = "linux"               # required; a-z, 0-9 and -, at most 31 characters, unique
//! image = "linux/vmlinuz"      # required; a file of the boot image's ramdisk
//! initrd = "linux/initrd"      # a file of the ramdisk
//! cmdline = "console=ttyS0"    # empty if not given
//! modules = ["mod.bin arg"]    # files of the ramdisk, each with its own command line
//! memory = "64M"               # K, M or G, or plain bytes; a multiple of 4K, at least 1M; 64M if not given
//! quantum = "10ms"             # us, ms or s; 100us to 1s; 10ms if not given
//! order = 100                  # lower starts earlier; 100 if not given, equal ones in the order of the file
//! autostart = true             # start at boot; true if not given
//! format = "auto"              # auto, linux, pvh, multiboot, flat16, flat32 or flat64
//! load_address = 0x100000      # flat formats only
//! entry = 0x100000             # flat formats only
//! ```

mod document;
mod error;
mod host;
mod nearest;
#[cfg(test)]
mod tests;
pub mod units;
mod vm;

pub use error::{ConfigError, ValueError};
pub use host::{HostConfig, HostKey, OnPanic};
pub use nearest::nearest;
pub use vm::{ModuleConfig, VmConfig, VmKey};

use alloc::vec::Vec;

/// The name of the configuration file in the ramdisk.
pub const CONFIG_FILE: &str = "lamina.toml";

/// A whole configuration, every value of it checked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// What concerns the hypervisor itself.
    pub host: HostConfig,
    /// The VMs, in the order of the file. Names are unique.
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

    /// The VMs to start at boot, in the order in which to start them.
    #[must_use]
    pub fn autostart_order(&self) -> Vec<&VmConfig> {
        let mut vms: Vec<&VmConfig> = self.vms.iter().filter(|vm| vm.autostart).collect();
        vms.sort_by_key(|vm| vm.order);
        vms
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
            Self::Flag => "true or false",
            Self::List => "an array of strings, such as [\"FILE ARGUMENTS\"]",
        }
    }
}

/// Keys of one table of the file: the enum, its names, and the form of each key's value.
macro_rules! keys {
    ($(#[$doc:meta])* $enum:ident { $($key:ident = $name:literal $form:ident,)+ }) => {
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
                match self { $(Self::$key => super::Form::$form,)+ }
            }
        }
    };
}
use keys;
