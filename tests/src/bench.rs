//! Running the cases: [`Case`], [`Bench`] and the list of trials made from them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use xtask::build::{self, Built};
use xtask::machine::Firmware;
use xtask::workspace::Workspace;

use crate::machine::MachineBuilder;

/// How many emulators run at once: each keeps a processor busy.
const EMULATORS_AT_ONCE: usize = 2;

/// How many lines of the serial log a failure shows.
const TAIL_LINES: usize = 40;

/// Which firmware a case is run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmwares {
    /// The BIOS: the quick one.
    Bios,
    /// Once with the BIOS and once with UEFI.
    Both,
}

/// What a test does; an error is its failure.
pub type Body = dyn Fn(&Bench) -> Result<()> + Send + Sync;

/// A test of a whole machine.
pub struct Case {
    /// The name that a filter is matched with.
    pub name: String,
    /// Which firmware it is run with.
    pub firmwares: Firmwares,
    /// Whether it takes so long that it is run only where the command line asks for it: by `--include-ignored`, or by a filter
    /// that begins with the name of its suite, which is what its own name begins with (`suite::...`).
    pub long: bool,
    /// What it does.
    pub body: Box<Body>,
}

impl Case {
    /// A case for the BIOS alone.
    pub fn bios(name: impl Into<String>, body: impl Fn(&Bench) -> Result<()> + Send + Sync + 'static) -> Self {
        Self { name: name.into(), firmwares: Firmwares::Bios, long: false, body: Box::new(body) }
    }

    /// A case for the BIOS and for UEFI.
    pub fn both(name: impl Into<String>, body: impl Fn(&Bench) -> Result<()> + Send + Sync + 'static) -> Self {
        Self { name: name.into(), firmwares: Firmwares::Both, long: false, body: Box::new(body) }
    }
}

impl Case {
    /// The same case, run only where it is asked for: see [`Case::long`].
    #[must_use]
    pub fn run_when_asked_for(mut self) -> Self {
        self.long = true;
        self
    }

    /// Whether a command line with this filter leaves it out unless it includes ignored tests.
    fn is_left_out(&self, filter: Option<&str>) -> bool {
        let suite = self.name.split("::").next().unwrap_or_default();
        self.long && !filter.is_some_and(|filter| filter.starts_with(suite))
    }
}

/// What one test has at hand: the built parts, its firmware, and a folder of its own.
#[derive(Debug)]
pub struct Bench {
    pub(crate) workspace: Workspace,
    pub(crate) built: Built,
    pub(crate) firmware: Firmware,
    pub(crate) run_dir: PathBuf,
}

impl Bench {
    /// A machine with this test's firmware, to be fitted out and booted.
    #[must_use]
    pub fn machine(&self) -> MachineBuilder<'_> {
        MachineBuilder::new(self)
    }

    /// The kernel that it boots, as linked.
    #[must_use]
    pub fn kernel(&self) -> &Path {
        &self.built.kernel
    }
}

/// Builds what the tests boot, and runs those that the command line asks for.
pub fn run(cases: Vec<Case>) -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(EMULATORS_AT_ONCE).min(EMULATORS_AT_ONCE));
    let workspace = Workspace::find();
    if arguments.list {
        // Nothing is booted, so nothing needs to be built.
        let trials = cases.into_iter().flat_map(|case| trials(case, None, &arguments)).collect();
        return Ok(libtest_mimic::run(&arguments, trials).exit_code());
    }
    let built = build::all(&workspace)?;
    let trials = cases.into_iter().flat_map(|case| trials(case, Some((&workspace, &built)), &arguments)).collect();
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}

fn trials(case: Case, parts: Option<(&Workspace, &Built)>, arguments: &Arguments) -> Vec<Trial> {
    let firmwares: &[Firmware] = match case.firmwares {
        Firmwares::Bios => &[Firmware::Bios],
        Firmwares::Both => &[Firmware::Bios, Firmware::Uefi],
    };
    let left_out = case.is_left_out(arguments.filter.as_deref());
    let body = Arc::new(case.body);
    let trial = |firmware: &Firmware| {
        let name = format!("{firmware}::{}", case.name);
        let bench = parts.map(|(workspace, built)| Bench {
            workspace: workspace.clone(),
            built: built.clone(),
            firmware: *firmware,
            run_dir: workspace.run_dir(&format!("test-{}", name.replace("::", "-"))),
        });
        let body = Arc::clone(&body);
        Trial::test(name, move || bench.map_or(Ok(()), |bench| attempt(&bench, body.as_ref())))
            .with_ignored_flag(left_out)
    };
    firmwares.iter().map(trial).collect()
}

/// Runs one test in a fresh folder, which stays for inspection where the test fails.
fn attempt(bench: &Bench, body: &Body) -> Result<(), Failed> {
    let prepare = || -> Result<()> {
        if bench.run_dir.exists() {
            fs::remove_dir_all(&bench.run_dir)?;
        }
        fs::create_dir_all(&bench.run_dir).with_context(|| format!("cannot make {}", bench.run_dir.display()))
    };
    match prepare().and_then(|()| body(bench)) {
        Ok(()) => fs::remove_dir_all(&bench.run_dir).map_err(Failed::from),
        Err(error) => Err(explain(bench, &error)),
    }
}

/// The error, and the end of the serial log where the error does not show it already.
fn explain(bench: &Bench, error: &anyhow::Error) -> Failed {
    let text = format!("{error:#}");
    let log = bench.run_dir.join("serial.log");
    match fs::read(&log) {
        Ok(content) if !text.contains("the serial log ends with") => {
            let content = String::from_utf8_lossy(&content);
            let lines: Vec<&str> = content.lines().collect();
            let tail: Vec<String> =
                lines.iter().skip(lines.len().saturating_sub(TAIL_LINES)).map(|line| format!("  | {line}")).collect();
            format!("{text}; the serial log ends with:\n{}\n  (the whole log: {})", tail.join("\n"), log.display())
                .into()
        }
        _ => text.into(),
    }
}
