//! `cargo xtask test`: the unit tests on the host, then whole machines in emulators.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::build;
use crate::machine::Firmware;
use crate::setup;
use crate::tally::Tally;
use crate::workspace::Workspace;

/// The crates whose tests run on the host.
const HOST_CRATES: [&str; 2] = ["lamina-core", "xtask"];

/// The environment variable with the seed of `proptest`.
const PROPTEST_SEED: &str = "PROPTEST_RNG_SEED";

/// The environment variable with the number of seeds that the hostile guests of the whole-machine tests get.
pub const HOSTILE_SEEDS: &str = "LAMINA_HOSTILE_SEEDS";

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
        cargo xtask test                          everything\n  \
        cargo xtask test linux                    tests with `linux` in their name\n  \
        cargo xtask test guest --firmware uefi    the tiny guests, by UEFI\n  \
        cargo xtask test hostile --seeds 200      hostile guests, a long run")]
pub struct Options {
    /// Only tests with this in their name
    filter: Option<String>,
    /// Only whole-machine tests with this firmware, and no unit tests
    #[arg(long, value_enum)]
    firmware: Option<Firmware>,
    /// Whole-machine tests that take very long too; a filter that begins with their suite's name asks for them as well
    #[arg(long)]
    long: bool,
    /// How many seeds the tests of hostile guests try (default: a few)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    #[command(flatten)]
    setup: setup::Options,
}

impl Options {
    /// Every test, without questions.
    #[must_use]
    pub fn everything(setup: setup::Options) -> Self {
        Self { filter: None, firmware: None, long: false, seeds: None, setup }
    }
}

/// Runs the tests; the last line is the count.
pub fn execute(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    setup::ensure(workspace, options.setup)?;
    // Built here once, so that no test waits for a compiler.
    build::all(workspace)?;
    let mut tally = Tally::default();
    if options.firmware.is_none() {
        let mut command = cargo_test(workspace);
        for name in HOST_CRATES {
            command.args(["--package", name]);
        }
        command.arg("--").args(&options.filter);
        count(command, &mut tally)?;
        // What fuzzing has found, replayed.
        let mut command = cargo_test(workspace);
        command.args(["--manifest-path", "fuzz/Cargo.toml", "--target-dir"]).arg(workspace.target().join("fuzz/build"));
        command.arg("--").args(&options.filter);
        count(command, &mut tally)?;
    }
    let mut command = cargo_test(workspace);
    command.args(["--package", "lamina-tests", "--test", "machine", "--"]);
    command.args(&options.filter);
    if options.long {
        command.arg("--include-ignored");
    }
    if let Some(seeds) = options.seeds {
        command.env(HOSTILE_SEEDS, seeds.to_string());
    }
    let other = options.firmware.map(|firmware| match firmware {
        Firmware::Bios => Firmware::Uefi,
        Firmware::Uefi => Firmware::Bios,
    });
    if let Some(other) = other {
        command.arg("--skip").arg(format!("{other}::"));
    }
    count(command, &mut tally)?;
    println!("{tally}");
    Ok(if tally.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn cargo_test(workspace: &Workspace) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(workspace.root()).args(["test", "--quiet", "--no-fail-fast"]);
    // Property tests draw the same cases in every run, so that a failure is the change's; plain `cargo test` draws new ones.
    if std::env::var_os(PROPTEST_SEED).is_none() {
        command.env(PROPTEST_SEED, "1");
    }
    command
}

/// Runs a test program, shows what it says as it says it, and takes its counts.
fn count(mut command: Command, tally: &mut Tally) -> Result<()> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    tally.follow(output, &mut std::io::stdout())?;
    let status = child.wait().context("cannot wait for cargo")?;
    tally.ended(status.success());
    Ok(())
}
