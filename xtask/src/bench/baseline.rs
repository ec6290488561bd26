//! The gate: what every row cost when `bench/baseline.json` was written, and whether it costs more now.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::machines::Measured;
use super::rows::Figures;
use super::trace::Work;
use crate::workspace::Workspace;

/// How many per cent more a row may cost.
const TOLERANCE_PERCENT: u64 = 3;
/// How many ticks more a row may cost in any case: 3 % of a few instructions would be none.
const TOLERANCE_TICKS: u64 = 2;

/// The figures of a row that are compared, by name. `min` is what every round costs, `mean` what
/// all do together, be it rarely; the others cost more on a processor than in an emulator, and none may be added.
type Cost = BTreeMap<&'static str, u64>;

/// All figures that may be compared.
const FIGURES: [&str; 6] = ["min", "mean", "exits", "vmreads", "vmwrites", "locked"];

fn cost(measured: &Measured) -> Cost {
    let Figures { min, mean, .. } = measured.figures;
    let mut cost = Cost::from([("min", min), ("mean", mean)]);
    if let Some(Work { exits, vmreads, vmwrites, locked, .. }) = measured.trace.as_ref().map(|trace| trace.work) {
        cost.extend([("exits", exits), ("vmreads", vmreads), ("vmwrites", vmwrites), ("locked", locked)]);
    }
    cost
}

/// The most that a figure may be.
fn allowed(figure: &str, baseline: u64) -> u64 {
    match figure {
        "min" | "mean" => baseline + (baseline * TOLERANCE_PERCENT / 100).max(TOLERANCE_TICKS),
        _ => baseline,
    }
}

/// The costs of a time, by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Baseline(BTreeMap<String, Cost>);

/// A difference that somebody must see to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// A row costs more than is tolerated.
    Worse {
        /// Its name.
        row: String,
        /// Which figure.
        figure: &'static str,
        /// What it was.
        baseline: u64,
        /// What it is.
        now: u64,
    },
    /// A row is measured of which nothing was known.
    New(String),
    /// A row is no longer measured.
    Missing(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worse { row, figure, baseline, now } => {
                write!(f, "{row}: {figure} was {baseline}, is {now}; allowed is {}", allowed(figure, *baseline))
            }
            Self::New(row) => write!(f, "{row}: is not in the baseline"),
            Self::Missing(row) => write!(f, "{row}: is in the baseline and was not measured"),
        }
    }
}

impl Baseline {
    /// Of these rows.
    pub(super) fn of(rows: &BTreeMap<String, Measured>) -> Self {
        Self(rows.iter().map(|(name, measured)| (name.clone(), cost(measured))).collect())
    }

    /// Reads the committed one.
    pub(super) fn read(workspace: &Workspace) -> Result<Self> {
        let path = path(workspace);
        let text = fs::read_to_string(&path).with_context(|| {
            format!("cannot read {}: `cargo xtask bench --update-baseline` writes it", path.display())
        })?;
        Self::parse(&text).with_context(|| format!("{} is no baseline", path.display()))
    }

    /// Writes it where the next check finds it.
    pub(super) fn write(&self, workspace: &Workspace) -> Result<PathBuf> {
        let path = path(workspace);
        fs::write(&path, self.text()).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    fn parse(text: &str) -> Result<Self> {
        let document: Value = serde_json::from_str(text)?;
        let rows = document.as_object().context("no object")?;
        let cost = |(name, row): (&String, &Value)| {
            let figures = row.as_object().with_context(|| format!("row `{name}` has no figures"))?;
            let figure = |(key, value): (&String, &Value)| {
                let figure = FIGURES.into_iter().find(|figure| figure == key);
                figure.zip(value.as_u64()).with_context(|| format!("row `{name}`: `{key}: {value}` is no figure"))
            };
            Ok((name.clone(), figures.iter().map(figure).collect::<Result<Cost>>()?))
        };
        Ok(Self(rows.iter().map(cost).collect::<Result<_>>()?))
    }

    /// One line for each row, so that a difference of two versions reads well.
    fn text(&self) -> String {
        let line = |(name, cost): (&String, &Cost)| format!("  {}: {}", json!(name), json!(cost));
        format!("{{\n{}\n}}\n", self.0.iter().map(line).collect::<Vec<_>>().join(",\n"))
    }

    /// The rows in it.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What is wrong with `now`, of the rows that `asked` is true for.
    pub(super) fn compare(&self, now: &Self, asked: impl Fn(&str) -> bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (row, before) in self.0.iter().filter(|(row, _)| asked(row)) {
            let Some(cost) = now.0.get(row) else {
                findings.push(Finding::Missing(row.clone()));
                continue;
            };
            for (&figure, &baseline) in before {
                match cost.get(figure) {
                    Some(&now) if now > allowed(figure, baseline) => {
                        findings.push(Finding::Worse { row: row.clone(), figure, baseline, now });
                    }
                    Some(_) => {}
                    None => findings.push(Finding::Missing(format!("{row}: {figure}"))),
                }
            }
        }
        let new = now.names().filter(|row| !self.0.contains_key(*row) && asked(row));
        findings.extend(new.map(|row| Finding::New(row.to_owned())));
        findings
    }
}

fn path(workspace: &Workspace) -> PathBuf {
    workspace.root().join("bench/baseline.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(rows: &[(&str, u64, u64)]) -> Baseline {
        Baseline(rows.iter().map(|&(row, min, mean)| (row.to_owned(), [("min", min), ("mean", mean)].into())).collect())
    }

    fn compare(before: &[(&str, u64, u64)], now: &[(&str, u64, u64)]) -> Vec<String> {
        baseline(before).compare(&baseline(now), |_| true).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn three_per_cent_more_is_let_pass_and_no_more() {
        assert!(compare(&[("a", 1000, 2000)], &[("a", 1030, 2060)]).is_empty());
        assert_eq!(compare(&[("a", 1000, 2000)], &[("a", 1031, 2060)]), ["a: min was 1000, is 1031; allowed is 1030"]);
        assert_eq!(compare(&[("a", 1000, 2000)], &[("a", 1000, 2061)]), ["a: mean was 2000, is 2061; allowed is 2060"]);
    }

    #[test]
    fn a_few_instructions_may_become_two_more() {
        assert!(compare(&[("a", 5, 5)], &[("a", 7, 7)]).is_empty());
        assert_eq!(compare(&[("a", 5, 5)], &[("a", 8, 5)]).len(), 1);
    }

    #[test]
    fn no_access_of_the_vmcs_may_be_added() {
        let baseline = |vmreads| Baseline([("a".to_owned(), [("min", 1000), ("vmreads", vmreads)].into())].into());
        let found = baseline(5).compare(&baseline(6), |_| true);
        assert_eq!(found[0].to_string(), "a: vmreads was 5, is 6; allowed is 5");
        assert!(baseline(5).compare(&baseline(4), |_| true).is_empty());
        let untraced = Baseline([("a".to_owned(), [("min", 1000)].into())].into());
        assert_eq!(baseline(5).compare(&untraced, |_| true), [Finding::Missing("a: vmreads".to_owned())]);
    }

    #[test]
    fn less_is_no_finding() {
        assert!(compare(&[("a", 1000, 2000)], &[("a", 10, 20)]).is_empty());
    }

    #[test]
    fn rows_that_come_or_go_are_found() {
        let found = compare(&[("a", 1, 1)], &[("b", 1, 1)]);
        assert_eq!(found, ["a: is in the baseline and was not measured", "b: is not in the baseline"]);
        let asked = baseline(&[("a", 1, 1), ("b", 1, 1)]).compare(&baseline(&[("b", 9, 9)]), |row| row == "b");
        assert_eq!(asked.len(), 2, "{asked:?}");
    }

    #[test]
    fn what_is_written_is_read() {
        let before = baseline(&[("a", 1, 2), ("b", 3, 4)]);
        assert_eq!(before.text(), "{\n  \"a\": {\"mean\":2,\"min\":1},\n  \"b\": {\"mean\":4,\"min\":3}\n}\n");
        assert_eq!(Baseline::parse(&before.text()).unwrap(), before);
        for wrong in ["", "[]", "{\"a\": 1}", "{\"a\": {\"min\": -1}}", "{\"a\": {\"other\": 1}}"] {
            assert!(Baseline::parse(wrong).is_err(), "{wrong}");
        }
    }
}
