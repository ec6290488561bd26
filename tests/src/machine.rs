//! Fitting out a machine and booting it: [`MachineBuilder`].

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use xtask::disk_image::{self, Payload};
use xtask::machine::{DEFAULT_CPU_MODEL, Firmware, Kind, Machine, Session};
use xtask::ramdisk::{self, Config, Files};

use crate::bench::Bench;

/// Emulated time after which a machine ends by itself. An idle machine's time passes some hundred times faster than ours, and
/// it is idle while a test thinks, so this is generous; a machine that works takes as long as its instructions.
const EMULATED_LIMIT: &str = "14400s";

/// Wall-clock time after which an emulator counts as hung. No test comes near it.
const HUNG_AFTER: Duration = Duration::from_secs(15 * 60);

/// Memory of the machine, where the test does not say.
const MEMORY_MIB: u32 = 256;

/// A machine to be booted.
#[derive(Debug)]
pub struct MachineBuilder<'bench> {
    bench: &'bench Bench,
    kind: Kind,
    cpu_model: &'static str,
    cpus: u32,
    memory_mib: u32,
    hung_after: Duration,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Checked(String),
    Unchecked(String),
    Nothing,
}

impl<'bench> MachineBuilder<'bench> {
    pub(crate) fn new(bench: &'bench Bench) -> Self {
        Self {
            bench,
            kind: Kind::Bochs,
            cpu_model: DEFAULT_CPU_MODEL,
            cpus: 1,
            memory_mib: MEMORY_MIB,
            hung_after: HUNG_AFTER,
            content: Content::Checked(String::new()),
        }
    }

    /// Plays the machine with another program than Bochs.
    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The processor that Bochs emulates.
    #[must_use]
    pub fn cpu_model(mut self, cpu_model: &'static str) -> Self {
        self.cpu_model = cpu_model;
        self
    }

    /// Gives the machine this many processors.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Gives a test with many times the usual work that much more time before its emulator counts as hung.
    #[must_use]
    pub fn many_times_the_work(mut self, times: u32) -> Self {
        self.hung_after = HUNG_AFTER * times;
        self
    }

    /// Gives the machine this much memory.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// The configuration; the files that it names are guest images or made by `cargo xtask setup`. Guests' serial lines
    /// appear on the console as `NAME| text`, and the machine ends after hours of its own time, where it does not
    /// say otherwise.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.content = Content::Checked(text.to_owned());
        self
    }

    /// A configuration that goes into the ramdisk as it is, without any other file.
    #[must_use]
    pub fn broken_config(mut self, text: &str) -> Self {
        self.content = Content::Unchecked(text.to_owned());
        self
    }

    /// A boot image without a ramdisk.
    #[must_use]
    pub fn no_ramdisk(mut self) -> Self {
        self.content = Content::Nothing;
        self
    }

    /// Writes the disk image and starts the machine.
    pub fn boot(self) -> Result<Session> {
        let Bench { workspace, built, firmware, run_dir } = self.bench;
        let payload = match &self.content {
            Content::Nothing => Payload::Nothing,
            Content::Unchecked(text) => Payload::Ramdisk(ramdisk::pack_unchecked(text)?),
            Content::Checked(text) => {
                let files = Files::new(workspace, built.guests.clone());
                Payload::Ramdisk(ramdisk::pack(&fitted(text)?, &files, *firmware == Firmware::Bios)?)
            }
        };
        let image = run_dir.join("lamina.img");
        disk_image::write(built, &payload, *firmware, &image)?;
        let machine = Machine {
            kind: self.kind,
            firmware: *firmware,
            cpus: self.cpus,
            cpu_model: self.cpu_model.into(),
            memory_mib: self.memory_mib,
            trace_marks: false,
            image,
            run_dir: run_dir.clone(),
        };
        Session::start(&machine, self.hung_after, None)
    }
}

/// The configuration with this harness's settings, where it has none of its own.
fn fitted(text: &str) -> Result<Config> {
    let mut config = Config::parse(text, "the test's configuration".to_owned(), PathBuf::new())?;
    let host = config.check().context("a test's configuration must be valid")?.host;
    if host.poweroff_after_us.is_none() {
        config.set_host("poweroff_after", EMULATED_LIMIT);
    }
    config.set_host("tee_serial", true);
    Ok(config)
}
