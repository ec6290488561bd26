//! `cargo xtask ci`: everything that must hold before a change is taken, in the order of cost.

use std::process::ExitCode;

use anyhow::Result;

use crate::bench;
use crate::lint;
use crate::setup;
use crate::test;
use crate::workspace::Workspace;

/// Options of `cargo xtask ci`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask ci")]
pub struct Options {}

/// Sets up, lints, measures and tests, without questions.
pub fn execute(workspace: &Workspace, _options: &Options) -> Result<ExitCode> {
    let setup = setup::Options { yes: true };
    setup::ensure(workspace, setup)?;
    lint::execute(workspace, &lint::Options {})?;
    let measured = bench::execute(workspace, &bench::Options::gate(setup))?;
    if measured != ExitCode::SUCCESS {
        return Ok(measured);
    }
    test::execute(workspace, &test::Options::everything(setup))
}
