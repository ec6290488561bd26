//! `cargo xtask bench`: what operations of a guest cost, beside what they cost under other hypervisors, and a gate that keeps it.

mod baseline;
mod machines;
mod plot;
mod profile;
mod rows;
mod table;
mod trace;

use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::build::{self, Built};
use crate::machine::{DEFAULT_CPU_MODEL, Kind};
use crate::setup;
use crate::workspace::Workspace;
use baseline::Baseline;
use machines::Measured;
use profile::Profiler;
use rows::{Description, Rows};

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
        cargo xtask bench                     every row, beside KVM, Xen and the goals\n  \
        cargo xtask bench --filter apic       the rows with `apic` in their name or title\n  \
        cargo xtask bench --filter cpuid --profile    and where its instructions go\n  \
        cargo xtask bench --machine qemu      cycles of a real processor, by nested VT-x\n  \
        cargo xtask bench --check             whether a row costs more than bench/baseline.json says\n  \
        cargo xtask bench --update-baseline   after a change that was meant")]
pub struct Options {
    /// Only rows with this in their name or title
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Say too where the instructions of each row go, by function
    #[arg(long, conflicts_with = "json")]
    profile: bool,
    /// The emulator
    #[arg(long, value_enum, default_value_t = Kind::Bochs)]
    machine: Kind,
    /// Fail where a row costs over 3 % more than the baseline, or an exit, a VMCS access or a locked instruction more
    #[arg(long)]
    check: bool,
    /// Make what is measured now the baseline
    #[arg(long, conflicts_with_all = ["check", "filter"])]
    update_baseline: bool,
    #[command(flatten)]
    setup: setup::Options,
}

impl Options {
    /// Every row, held against the baseline, without questions.
    #[must_use]
    pub fn gate(setup: setup::Options) -> Self {
        Self {
            filter: None,
            json: false,
            profile: false,
            machine: Kind::Bochs,
            check: true,
            update_baseline: false,
            setup,
        }
    }

    fn asks_for(&self, row: &Description) -> bool {
        let text = self.filter.as_ref().map(|text| text.to_lowercase());
        text.is_none_or(|text| [&row.name, &row.title].iter().any(|name| name.to_lowercase().contains(&text)))
    }
}

/// Measures, prints, writes both forms into `target/bench`, and compares.
pub fn execute(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    match options.machine {
        Kind::Bochs => {}
        _ if options.check || options.update_baseline => {
            bail!("the baseline is of Bochs, where figures are the same in every run: leave --machine out")
        }
        Kind::Qemu => crate::machine::require_nested_vmx()?,
        Kind::QemuTcg => bail!("qemu-tcg has no VT-x: there is nothing to measure; allowed are bochs and qemu"),
    }
    let rows = Rows::read(workspace)?;
    let asked: Vec<&Description> = rows.descriptions.iter().filter(|row| options.asks_for(row)).collect();
    if asked.is_empty() {
        bail!(
            "no row has {:?} in its name or title: see bench/rows.toml",
            options.filter.as_deref().unwrap_or_default()
        );
    }
    setup::ensure(workspace, options.setup)?;
    let built = build::all(workspace)?;
    let mut figures = BTreeMap::new();
    for setting in machines::SETTINGS.iter().filter(|setting| asked.iter().any(|row| setting.measures(&row.name))) {
        figures.extend(setting.measure(workspace, &built, options.machine)?);
    }
    if let Some(unknown) = figures.keys().find(|&name| !rows.descriptions.iter().any(|row| row.name == *name)) {
        bail!("the guest measures `{unknown}`, which bench/rows.toml does not describe");
    }
    figures.retain(|name, _| asked.iter().any(|row| row.name == *name));
    answer(workspace, options, &rows, &figures)?;
    if options.profile {
        print!("{}", profiles(&built, &asked, &figures)?);
    }
    if options.update_baseline {
        let path = Baseline::of(&figures).write(workspace)?;
        println!("written: {}", path.display());
    }
    if options.check {
        return check(workspace, &Baseline::of(&figures), |name| asked.iter().any(|row| row.name == name));
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints one form and writes both, and a picture.
fn answer(workspace: &Workspace, options: &Options, rows: &Rows, figures: &BTreeMap<String, Measured>) -> Result<()> {
    let machine = match options.machine {
        Kind::Bochs => format!("Bochs, {DEFAULT_CPU_MODEL}, one CPU: ticks are instructions"),
        _ => "QEMU, nested VT-x, one CPU: ticks are cycles".to_owned(),
    };
    let table = table::text(rows, figures);
    let json = format!("{:#}\n", table::json(rows, figures, &machine));
    let folder = workspace.target().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, text) in [("bench.txt", &table), ("bench.json", &json)] {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    plot::write(&folder.join("bench.svg"), rows, figures)?;
    print!("{}", if options.json { json } else { table });
    Ok(())
}

/// Where the instructions go, for each row that the machine could trace.
fn profiles(built: &Built, asked: &[&Description], figures: &BTreeMap<String, Measured>) -> Result<String> {
    let profiler = Profiler::new(&built.kernel)?;
    let traced = asked.iter().filter_map(|row| Some((row, figures.get(&row.name)?.trace.as_ref()?)));
    traced.filter(|(_, trace)| trace.work.host > 0).map(|(row, trace)| profiler.text(&row.title, trace)).collect()
}

/// Says what costs more than it did.
fn check(workspace: &Workspace, now: &Baseline, asked: impl Fn(&str) -> bool) -> Result<ExitCode> {
    let findings = Baseline::read(workspace)?.compare(now, asked);
    if findings.is_empty() {
        eprintln!("no row costs more than the baseline allows");
        return Ok(ExitCode::SUCCESS);
    }
    for finding in &findings {
        eprintln!("error: {finding}");
    }
    eprintln!("what is meant to cost more goes into the same commit: cargo xtask bench --update-baseline");
    Ok(ExitCode::FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_looked_for_in_name_and_title_in_any_case() {
        let rows = Rows::read(&Workspace::find()).unwrap();
        let count = |filter: Option<&str>| {
            let mut options = Options::gate(setup::Options { yes: true });
            options.filter = filter.map(str::to_owned);
            rows.descriptions.iter().filter(|row| options.asks_for(row)).count()
        };
        assert_eq!(count(None), rows.descriptions.len());
        assert_eq!(count(Some("cpuid")), 1);
        assert_eq!(count(Some("FIRST TOUCH")), 2);
        assert_eq!(count(Some("nothing of that name")), 0);
    }

    #[test]
    fn the_committed_baseline_has_every_row() {
        let workspace = Workspace::find();
        let rows = Rows::read(&workspace).unwrap();
        let baseline = Baseline::read(&workspace).unwrap();
        assert_eq!(
            baseline.names().collect::<std::collections::BTreeSet<_>>(),
            rows.descriptions.iter().map(|row| row.name.as_str()).collect()
        );
    }
}
