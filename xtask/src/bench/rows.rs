//! What is measured: the rows of `bench/rows.toml`, and the lines by which the guest tells what it measured.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};
use toml_edit::{DocumentMut, Table};

use crate::workspace::Workspace;

/// How the guest's line of a row begins.
const LINE: &str = "row: ";

/// Another hypervisor, or the same one configured otherwise.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// What the rows call it.
    pub(super) name: String,
    /// The head of its column.
    pub(super) title: String,
    /// What it is.
    pub(super) what: String,
}

/// A row, as it is described.
#[derive(Debug, Clone)]
pub(super) struct Description {
    /// What the guest calls it.
    pub(super) name: String,
    /// What is measured.
    pub(super) title: String,
    /// The median to be reached, in TSC ticks.
    pub(super) goal: Option<u64>,
    /// What it costs elsewhere, in TSC ticks, by the name of the peer.
    pub(super) peers: BTreeMap<String, u64>,
}

/// All rows and whom they are compared with.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    /// In the order of their columns.
    pub(super) peers: Vec<Peer>,
    /// In the order of the table.
    pub(super) descriptions: Vec<Description>,
}

impl Rows {
    /// Reads `bench/rows.toml`.
    pub(super) fn read(workspace: &Workspace) -> Result<Self> {
        let path = workspace.root().join("bench/rows.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is wrong", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let document: DocumentMut = text.parse()?;
        let peers = tables(&document, "peer")
            .map(|table| {
                Ok(Peer {
                    name: required(table, "name")?,
                    title: required(table, "title")?,
                    what: required(table, "what")?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let descriptions =
            tables(&document, "row").map(|table| description(table, &peers)).collect::<Result<Vec<Description>>>()?;
        for (index, row) in descriptions.iter().enumerate() {
            if descriptions.iter().take(index).any(|other| other.name == row.name) {
                bail!("there are two rows `{}`", row.name);
            }
        }
        Ok(Self { peers, descriptions })
    }
}

fn tables<'document>(document: &'document DocumentMut, key: &str) -> impl Iterator<Item = &'document Table> {
    document.get(key).and_then(|item| item.as_array_of_tables()).into_iter().flatten()
}

fn required(table: &Table, key: &str) -> Result<String> {
    let value = table.get(key).and_then(|item| item.as_str());
    value.map(str::to_owned).with_context(|| format!("a table has no text `{key}`:\n{table}"))
}

fn description(table: &Table, peers: &[Peer]) -> Result<Description> {
    let name = required(table, "name")?;
    let ticks = |item: &toml_edit::Item, what: &str| {
        let ticks = item.as_integer().and_then(|ticks| u64::try_from(ticks).ok());
        ticks.with_context(|| format!("row `{name}`: {what} is no number of ticks"))
    };
    let goal = table.get("goal").map(|item| ticks(item, "goal")).transpose()?;
    let mut costs = BTreeMap::new();
    if let Some(table) = table.get("peers").and_then(|item| item.as_table_like()) {
        for (key, item) in table.iter() {
            if !peers.iter().any(|peer| peer.name == key) {
                bail!("row `{name}`: no peer is called `{key}`");
            }
            costs.insert(key.to_owned(), ticks(item, key)?);
        }
    }
    Ok(Description { title: required(table, "title")?, goal, peers: costs, name })
}

/// What many rounds of an operation came to, in TSC ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Figures {
    /// How many rounds there were.
    pub(super) rounds: u64,
    /// The mean, rounded down.
    pub(super) mean: u64,
    /// The quickest round.
    pub(super) min: u64,
    /// The median.
    pub(super) p50: u64,
    /// 99 % of all rounds took no longer.
    pub(super) p99: u64,
    /// The slowest round.
    pub(super) max: u64,
}

/// A row as the guest tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// What the guest calls it.
    pub(super) name: String,
    /// How many of its rounds have a mark before and behind them.
    pub(super) marked: usize,
    /// What was measured.
    pub(super) figures: Figures,
}

/// The rows that this guest's lines on the serial console tell, in their order in time.
pub(super) fn heard(text: &str, guest: &str) -> Result<Vec<Told>> {
    let begin = format!("{guest}| ");
    let lines = || text.lines().filter_map(|line| line.split_once(&begin).map(|(_, said)| said.trim_end()));
    let rows = lines()
        .filter_map(|line| line.strip_prefix(LINE))
        .map(|row| parse(row).with_context(|| format!("the guest's line is garbled: {row}")))
        .collect::<Result<Vec<_>>>()?;
    let Some(verdict) = lines().find_map(|line| line.strip_prefix("verdict: ")) else {
        bail!("the guest came to no verdict");
    };
    let told = verdict.strip_prefix("pass bench: ").and_then(|rest| rest.split_once(" rows")?.0.parse::<usize>().ok());
    match told {
        Some(told) if told == rows.len() => Ok(rows),
        Some(told) => bail!("the guest told {told} rows, {} were heard", rows.len()),
        None => bail!("the guest's verdict: {verdict}"),
    }
}

/// `NAME rounds=N marked=N mean=N min=N p50=N p99=N max=N`.
fn parse(row: &str) -> Option<Told> {
    let mut words = row.split(' ');
    let name = words.next()?.to_owned();
    let mut next = |key: &str| words.next()?.strip_prefix(key)?.strip_prefix('=')?.parse().ok();
    let rounds = next("rounds")?;
    let marked = usize::try_from(next("marked")?).ok()?;
    let figures = Figures {
        rounds,
        mean: next("mean")?,
        min: next("min")?,
        p50: next("p50")?,
        p99: next("p99")?,
        max: next("max")?,
    };
    words.next().is_none().then_some(Told { name, marked, figures })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = "row: cpuid rounds=20 marked=3 mean=998 min=997 p50=997 p99=999 max=3917";

    fn console(lines: &[&str]) -> String {
        lines.iter().map(|line| format!("[    0.1] INFO  x\nlamina> bench| {line}\n")).collect()
    }

    #[test]
    fn rows_are_heard_among_other_lines() {
        let text = console(&["hello", ROW, "verdict: pass bench: 1 rows (4 checks)"]);
        let rows = heard(&text, "bench").unwrap();
        let figures = Figures { rounds: 20, mean: 998, min: 997, p50: 997, p99: 999, max: 3917 };
        assert_eq!(rows, [Told { name: "cpuid".to_owned(), marked: 3, figures }]);
    }

    #[test]
    fn what_is_lost_or_garbled_is_found() {
        let error = |lines: &[&str]| heard(&console(lines), "bench").unwrap_err().to_string();
        assert_eq!(error(&[ROW]), "the guest came to no verdict");
        assert_eq!(error(&[ROW, "verdict: pass bench: 2 rows (4 checks)"]), "the guest told 2 rows, 1 were heard");
        assert_eq!(error(&[ROW, "verdict: fail bench: no"]), "the guest's verdict: fail bench: no");
        for garbled in
            ["row: cpuid rounds=20", "row: cpuid rounds=20 marked=0 mean=1 min=x p50=1 p99=1 max=1", "row: x"]
        {
            assert!(error(&[garbled]).contains("garbled"), "{garbled}");
        }
        assert!(error(&[&format!("{ROW} more=1")]).contains("garbled"));
    }

    #[test]
    fn another_guest_is_not_heard() {
        let text = console(&[ROW, "verdict: pass bench: 1 rows (4 checks)"]);
        assert!(heard(&text, "other").is_err());
    }

    #[test]
    fn the_committed_rows_are_in_order() {
        let rows = Rows::read(&Workspace::find()).unwrap();
        let cpuid = rows.descriptions.iter().find(|row| row.name == "cpuid").unwrap();
        assert!(cpuid.goal.is_some() && cpuid.peers.len() == rows.peers.len());
    }

    #[test]
    fn mistakes_in_the_rows_are_named() {
        let error = |text: &str| Rows::parse(text).unwrap_err().to_string();
        let row = "[[row]]\nname = \"a\"\ntitle = \"A\"\n";
        assert_eq!(error(&row.repeat(2)), "there are two rows `a`");
        assert_eq!(error(&format!("{row}peers = {{ kvm = 1 }}")), "row `a`: no peer is called `kvm`");
        assert_eq!(error(&format!("{row}goal = -1")), "row `a`: goal is no number of ticks");
        assert!(error("[[row]]\nname = \"a\"").starts_with("a table has no text `title`"));
    }
}
