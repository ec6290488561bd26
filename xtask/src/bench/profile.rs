//! Where an operation's instructions go: the hypervisor's, by function.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use addr2line::Loader;
use anyhow::{Result, anyhow};

use super::trace::Trace;
use crate::symbolize;

/// The boot loader puts the kernel's image at the beginning of what one level-4 entry maps.
const IMAGE_MASK: u64 = (1 << 39) - 1;

/// Names the functions of a kernel.
pub(super) struct Profiler(Loader);

impl Profiler {
    /// For the kernel that was traced, as linked.
    pub(super) fn new(kernel: &Path) -> Result<Self> {
        Ok(Self(Loader::new(kernel).map_err(|error| anyhow!("{}: {error}", kernel.display()))?))
    }

    /// The functions of a trace, the one with the most instructions first.
    pub(super) fn text(&self, title: &str, trace: &Trace) -> Result<String> {
        let mut functions = BTreeMap::<String, u64>::new();
        for (address, count) in &trace.host {
            *functions.entry(function(&symbolize::functions_at(&self.0, address & IMAGE_MASK)?)).or_default() += count;
        }
        let mut functions: Vec<(String, u64)> = functions.into_iter().collect();
        functions.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let mut text = format!("\n{title}: {} instructions of the hypervisor\n", trace.work.host);
        for (name, count) in functions {
            let _ = writeln!(text, "{count:>8}  {name}");
        }
        Ok(text)
    }
}

/// Of the frames at an address, the innermost first, the one to name: the first that is in the hypervisor's source, since what
/// it calls of the language's library is its own work.
fn function(frames: &[String]) -> String {
    let own = frames.iter().find_map(|frame| {
        let (name, place) = frame.split_once(" at ")?;
        let (file, _) = place.get(place.find("hypervisor/")?..)?.rsplit_once(':')?;
        Some(format!("{name} ({file})"))
    });
    // Assembly has no lines, only symbols.
    let symbol = || frames.first().and_then(|frame| Some(frame.split_once(" (+")?.0.to_owned()));
    own.or_else(symbol).unwrap_or_else(|| "?".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_librarys_functions_count_for_their_callers() {
        let frames =
            ["min at /rust/core/src/cmp.rs:5", "handle at /src/hypervisor/core/src/exit/mod.rs:7", "run at x:1"];
        assert_eq!(function(&frames.map(str::to_owned)), "handle (hypervisor/core/src/exit/mod.rs)");
        assert_eq!(function(&["enter (+0x12)".to_owned()]), "enter");
    }
}
