//! `cargo xtask symbolize`: names and lines for the addresses in an epitaph.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use object::Object;
use regex::Regex;

use crate::build;
use crate::workspace::Workspace;

/// Options of `cargo xtask symbolize`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask symbolize serial.log")]
pub struct Options {
    /// What the serial line said; standard input if not given
    log: Option<PathBuf>,
    /// The kernel as linked, of the build that said it [default: the one of this workspace]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
}

/// Prints a line for each function that the backtrace went through.
///
/// # Errors
/// There is no epitaph in the text, or it is of another build than the kernel.
pub fn execute(workspace: &Workspace, options: &Options) -> Result<()> {
    let text = match &options.log {
        Some(file) => std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?,
        None => {
            let mut text = Vec::new();
            std::io::stdin().read_to_end(&mut text).context("cannot read standard input")?;
            text
        }
    };
    let kernel = match &options.kernel {
        Some(file) => file.clone(),
        None => build::kernel(workspace)?,
    };
    for line in symbolize(&String::from_utf8_lossy(&text), &kernel)? {
        println!("{line}");
    }
    Ok(())
}

/// The last epitaph in the text, innermost function first: `#0 function at file:line`, and a line for each that was inlined.
///
/// # Errors
/// As for [`execute`].
pub fn symbolize(text: &str, kernel: &Path) -> Result<Vec<String>> {
    let last = |pattern: &str| -> Result<Option<String>> {
        Ok(Regex::new(pattern)?.captures_iter(text).last().map(|captures| captures[1].to_owned()))
    };
    let Some(said) = last(r"build id ([0-9a-f]+)")? else {
        bail!("no `build id` in the text: give what the serial line said, from `*** LAMINA PANIC` on");
    };
    let bytes = std::fs::read(kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    let file = object::File::parse(&*bytes).with_context(|| format!("{} is no ELF file", kernel.display()))?;
    let id = file.build_id()?.with_context(|| format!("{} has no build ID", kernel.display()))?;
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(
        said == id,
        "the text is of build {said}, {} is build {id}: build the same commit, or name its kernel by --kernel",
        kernel.display()
    );
    let backtrace = last(r"backtrace:((?: \+0x[0-9a-f]+)*)")?.unwrap_or_default();
    let loader = addr2line::Loader::new(kernel).map_err(|error| anyhow!("{}: {error}", kernel.display()))?;
    let mut lines = Vec::new();
    for (number, offset) in backtrace.split_whitespace().enumerate() {
        let return_address = u64::from_str_radix(offset.trim_start_matches("+0x"), 16)?;
        // The call is before the address that it returns to, which may be another line's, or another function's.
        let mut label = format!("#{number}");
        for line in functions_at(&loader, return_address.saturating_sub(1))? {
            lines.push(format!("{label} {line}"));
            label = " ".repeat(label.len());
        }
    }
    Ok(lines)
}

/// The functions at an address, the innermost first: `function at file:line`.
pub(crate) fn functions_at(loader: &addr2line::Loader, address: u64) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut frames = loader.find_frames(address).map_err(|error| anyhow!("{error}"))?;
    while let Some(frame) = frames.next().map_err(|error| anyhow!("{error}"))? {
        let name = frame.function.as_ref().and_then(|function| function.demangle().ok().map(|name| name.into_owned()));
        let name = name.unwrap_or_else(|| "?".into());
        let place = frame.location.and_then(|location| Some(format!("{}:{}", location.file?, location.line?)));
        lines.push(format!("{name} at {}", place.unwrap_or_else(|| "?".into())));
    }
    if lines.is_empty() {
        let symbol = loader.find_symbol(address).map(|name| addr2line::demangle_auto(name.into(), None));
        lines.push(format!("{} (+{address:#x})", symbol.as_deref().unwrap_or("not in the kernel")));
    }
    Ok(lines)
}
