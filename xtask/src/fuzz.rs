//! `cargo xtask fuzz`: builds the fuzz targets of `fuzz/` with libFuzzer and runs them.
//!
//! Nothing but a stable toolchain and a C++ compiler is needed: the instrumentation is a pass of LLVM's that `rustc` takes as an
//! option. The corpus and what was found are in `target/fuzz/`; a finding is also kept in `fuzz/regressions/`, whose files
//! the tests replay.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::process;
use crate::workspace::Workspace;

/// The target triple of this machine: named, so that build scripts and procedural macros are not instrumented.
const HOST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// As `cargo fuzz` instruments: edge counters, their table, and comparisons (LLVM, "SanitizerCoverage").
const RUSTFLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0 \
    -Ccodegen-units=1 --cfg fuzzing";

/// The longest input in bytes.
const INPUT_MAX: u32 = 8192;
/// Seconds after which one input counts as an endless loop.
const INPUT_TIMEOUT: u32 = 10;

/// Options of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
        cargo xtask fuzz                          every target, a minute each\n  \
        cargo xtask fuzz loader --seconds 3600    one target, an hour")]
pub struct Options {
    /// Only this target
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

/// Builds and runs; fails where a target has a finding.
pub fn execute(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let names = targets(&workspace.root().join("fuzz/fuzz_targets"))?;
    let chosen: Vec<&String> = match &options.target {
        None => names.iter().collect(),
        Some(target) => names.iter().filter(|name| *name == target).collect(),
    };
    if chosen.is_empty() {
        bail!("no such target; there are: {}", names.join(", "));
    }
    build(workspace)?;
    let mut found = Vec::new();
    for name in chosen {
        println!("{name}: {} s", options.seconds);
        if !run(workspace, name, options.seconds)? {
            found.push(name.as_str());
        }
    }
    if found.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("findings in {}: see target/fuzz/TARGET.log; the inputs are in fuzz/regressions/", found.join(", "));
    Ok(ExitCode::FAILURE)
}

/// The targets' names, by their files.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let name = entry?.file_name();
        names.extend(name.to_str().and_then(|name| name.strip_suffix(".rs")).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn build(workspace: &Workspace) -> Result<()> {
    if process::find_program("c++").is_none() {
        bail!("libFuzzer is C++: there is no `c++`; install a compiler, on Debian `apt-get install g++`");
    }
    let mut command = Command::new("cargo");
    command.current_dir(workspace.root()).env("RUSTFLAGS", RUSTFLAGS);
    command.args(["build", "--quiet", "--release", "--bins", "--features", "programs", "--target", HOST_TARGET]);
    command.args(["--manifest-path", "fuzz/Cargo.toml", "--target-dir"]).arg(workspace.target().join("fuzz/build"));
    process::run(&mut command).context("the fuzz targets do not build")
}

/// Runs one target; whether it found nothing.
fn run(workspace: &Workspace, name: &str, seconds: u32) -> Result<bool> {
    let folder = workspace.target().join("fuzz");
    let corpus = folder.join("corpus").join(name);
    let regressions = workspace.root().join("fuzz/regressions").join(name);
    for folder in [&corpus, &regressions] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let log = folder.join(format!("{name}.log"));
    let output = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let program = folder.join("build").join(HOST_TARGET).join("release").join(name);
    // libFuzzer reads both folders, and writes what reaches new code to the first one.
    let status = Command::new(&program)
        .args([&corpus, &regressions])
        .args([
            format!("-max_total_time={seconds}"),
            format!("-max_len={INPUT_MAX}"),
            format!("-timeout={INPUT_TIMEOUT}"),
        ])
        .arg(format!("-artifact_prefix={}/", regressions.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let last = |what: &str| text.lines().rfind(|line| line.contains(what)).unwrap_or_default().to_owned();
    println!("  {}", if status.success() { last("Done ") } else { last("panicked at") + &last("SUMMARY: ") });
    // Nothing was found: the folder need not be there.
    let _ = fs::remove_dir(&regressions);
    Ok(status.success())
}
