//! The machines on which it is measured: each is booted with one VM that measures by itself and ends. Nobody types, so that in
//! an emulator whose time is its instructions two runs are alike.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::rows::{self, Figures, Told};
use super::trace::{self, Trace};
use crate::build::Built;
use crate::disk_image::{self, Payload};
use crate::machine::{DEFAULT_CPU_MODEL, Firmware, Kind, Machine, Session};
use crate::ramdisk::{self, Config, Files};
use crate::run;
use crate::workspace::Workspace;

/// The guest image, and the VM that runs it.
const GUEST: &str = "bench";
/// Memory of the machine.
const MEMORY_MIB: u32 = 256;
/// Wall-clock time after which an emulator counts as hung.
const HUNG_AFTER: Duration = Duration::from_secs(15 * 60);

/// What is known of a row.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    /// The guest's figures.
    pub(super) figures: Figures,
    /// One operation's instructions, where the machine can write them down and the row is marked.
    pub(super) trace: Option<Trace>,
}

/// A machine and what it measures.
#[derive(Debug)]
pub(super) struct Setting {
    name: &'static str,
    /// The one row that it is booted for; without it, it measures all that no other machine does.
    row: Option<&'static str>,
    /// Memory of the VM. From 32 MiB on the host backs it by 2 MiB pages, where a page is whole.
    memory: &'static str,
    cmdline: &'static str,
}

/// All of them.
pub(super) const SETTINGS: [Setting; 3] = [
    Setting { name: "operations", row: None, memory: "16M", cmdline: "" },
    Setting { name: "touch-4k", row: Some("touch-4k"), memory: "16M", cmdline: "touch_kib=4" },
    Setting { name: "touch-2m", row: Some("touch-2m"), memory: "128M", cmdline: "touch_kib=2048" },
];

impl Setting {
    /// Whether it measures this row.
    pub(super) fn measures(&self, row: &str) -> bool {
        match self.row {
            Some(own) => own == row,
            None => !SETTINGS.iter().any(|other| other.row == Some(row)),
        }
    }

    /// Boots it and waits until it has measured and switched itself off.
    pub(super) fn measure(
        &self,
        workspace: &Workspace,
        built: &Built,
        kind: Kind,
    ) -> Result<BTreeMap<String, Measured>> {
        let run_dir = run::fresh_run_dir(workspace, &format!("bench-{}", self.name))?;
        let machine = Machine {
            kind,
            firmware: Firmware::Bios,
            cpus: 1,
            cpu_model: DEFAULT_CPU_MODEL.to_owned(),
            memory_mib: MEMORY_MIB,
            trace_marks: kind == Kind::Bochs,
            image: run_dir.join("lamina.img"),
            run_dir,
        };
        let archive = ramdisk::pack(&self.config()?, &Files::new(workspace, built.guests.clone()), true)?;
        disk_image::write(built, &Payload::Ramdisk(archive), machine.firmware, &machine.image)?;
        let mut session = Session::start(&machine, HUNG_AFTER, None)?;
        let said = session.wait_end()?;
        let rows = rows::heard(&said, GUEST)
            .with_context(|| format!("the machine for {} (its log: {})", self.name, session.log().display()))?;
        let mut traces =
            if machine.trace_marks { trace::read(session.emulator_log())? } else { Vec::new() }.into_iter();
        // These are large, and made anew each time.
        for file in [&machine.image, session.emulator_log()] {
            fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
        let mut measured = BTreeMap::new();
        for Told { name, marked, figures } in rows {
            let trace = trace::least(traces.by_ref().take(marked));
            if machine.trace_marks && marked > 0 && trace.is_none() {
                bail!("{name}: the emulator wrote no instructions down");
            }
            measured.insert(name, Measured { figures, trace });
        }
        // Each measures what costs nothing; what was asked of it counts.
        measured.retain(|row, _| self.measures(row));
        Ok(measured)
    }

    fn config(&self) -> Result<Config> {
        let Self { memory, cmdline, .. } = self;
        let text = format!(
            "[host]\ntee_serial = true\npoweroff_when_done = true\n\
             [[vm]]\nname = \"{GUEST}\"\nimage = \"{GUEST}\"\nmemory = \"{memory}\"\ncmdline = \"{cmdline}\"\n"
        );
        Config::parse(&text, format!("the configuration for {}", self.name), PathBuf::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_measured_by_one_machine() {
        for row in ["cpuid", "touch-4k", "touch-2m"] {
            assert_eq!(SETTINGS.iter().filter(|setting| setting.measures(row)).count(), 1, "{row}");
        }
    }

    #[test]
    fn the_configurations_are_valid() {
        for setting in &SETTINGS {
            assert_eq!(setting.config().unwrap().check().unwrap().vms.len(), 1, "{}", setting.name);
        }
    }
}
