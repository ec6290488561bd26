//! `cargo xtask setup`: installs what is missing and makes the Linux guest's files.

use std::io::{IsTerminal, Write, stdin, stdout};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::packages::{self, Package};
use crate::process;
use crate::workspace::Workspace;
use crate::{assets, toolchain::Toolchain};

/// Options of `cargo xtask setup`.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(skip)]
#[command(after_help = "Example: cargo xtask setup --yes")]
pub struct Options {
    /// Install missing Debian packages without asking
    #[arg(long)]
    pub yes: bool,
}

/// Sets up everything; where nothing is missing it only says so.
pub fn execute(workspace: &Workspace, options: Options) -> Result<()> {
    ensure(workspace, options)?;
    println!("everything is there; next: cargo xtask run");
    Ok(())
}

/// Installs and makes what is missing, and is silent where nothing is.
pub fn ensure(workspace: &Workspace, options: Options) -> Result<()> {
    let missing = packages::missing(workspace);
    if !missing.is_empty() {
        install(&missing, options)?;
    }
    Toolchain::for_kernel(workspace)?;
    Toolchain::for_boot_stages(workspace)?;
    assets::make_linux(workspace)
}

fn install(missing: &[Package], options: Options) -> Result<()> {
    println!("missing Debian packages:");
    for package in missing {
        println!("  {:<22} {}", package.name, package.why);
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    let command = format!("apt-get install --no-install-recommends {}", names.join(" "));
    let Some(root) = Root::find() else {
        bail!("only root can install them, and there is no sudo here: as root, run `{command}`");
    };
    if process::find_program("apt-get").is_none() {
        bail!("there is no apt-get here: install what corresponds to these packages on your system");
    }
    if !options.yes && stdin().is_terminal() && !confirm(&format!("run `{}{command}`?", root.prefix()))? {
        bail!("not installed; the command is `{}{command}`", root.prefix());
    }
    process::run(root.apt_get().args(["-q", "update"]))?;
    process::run(root.apt_get().args(["-q", "install", "--yes", "--no-install-recommends"]).args(&names))
        .with_context(|| format!("the command to repeat by hand is `{}{command}`", root.prefix()))
}

/// How to become root.
#[derive(Debug, Clone, Copy)]
enum Root {
    Already,
    Sudo,
}

impl Root {
    fn find() -> Option<Self> {
        if rustix::process::geteuid().is_root() {
            return Some(Self::Already);
        }
        process::find_program("sudo").map(|_| Self::Sudo)
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Already => "",
            Self::Sudo => "sudo ",
        }
    }

    fn apt_get(self) -> Command {
        let mut command = match self {
            Self::Already => Command::new("env"),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.arg("env");
                command
            }
        };
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        command
    }
}

/// Asks a question whose answer is no unless it begins with `y`.
pub fn confirm(question: &str) -> Result<bool> {
    print!("{question} [y/N] ");
    stdout().flush()?;
    let mut answer = String::new();
    stdin().read_line(&mut answer).context("cannot read the answer")?;
    Ok(answer.trim_start().starts_with(['y', 'Y']))
}
