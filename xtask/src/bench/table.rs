//! The answer: Lamina's figures beside the peers' and the goals, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::machines::Measured;
use super::rows::{Description, Figures, Rows};
use super::trace::Work;

/// The heads of Lamina's columns.
const HEAD: [&str; 9] = ["operation", "min", "p50", "p99", "max", "exits", "VMREAD", "VMWRITE", "LOCK"];

/// Stands where there is no figure.
const NONE: &str = "-";

/// The rows that were measured, each with its description, in the order of the descriptions.
fn measured<'a>(
    rows: &'a Rows,
    figures: &'a BTreeMap<String, Measured>,
) -> impl Iterator<Item = (&'a Description, &'a Measured)> {
    rows.descriptions.iter().filter_map(|row| Some((row, figures.get(&row.name)?)))
}

/// The table, in columns.
pub(super) fn text(rows: &Rows, figures: &BTreeMap<String, Measured>) -> String {
    let mut head: Vec<String> = HEAD.map(str::to_owned).into();
    head.extend(rows.peers.iter().map(|peer| peer.title.clone()));
    head.extend(["goal", "p50/goal"].map(str::to_owned));
    let mut lines = vec![head];
    for (row, Measured { figures, trace }) in measured(rows, figures) {
        let Figures { min, p50, p99, max, .. } = figures;
        let mut line = vec![row.title.clone()];
        line.extend([min, p50, p99, max].map(u64::to_string));
        line.extend(match trace.as_ref().map(|trace| trace.work) {
            Some(Work { exits, vmreads, vmwrites, locked, .. }) => {
                [exits, vmreads, vmwrites, locked].map(|count| count.to_string())
            }
            None => [NONE; 4].map(str::to_owned),
        });
        let or_none = |ticks: Option<&u64>| ticks.map_or(NONE.to_owned(), u64::to_string);
        line.extend(rows.peers.iter().map(|peer| or_none(row.peers.get(&peer.name))));
        line.push(or_none(row.goal.as_ref()));
        line.push(row.goal.map_or(NONE.to_owned(), |goal| against(*p50, goal)));
        lines.push(line);
    }
    let mut text = align(&lines);
    text += "\nTSC ticks for one operation; what it did once. ";
    for peer in &rows.peers {
        let _ = write!(text, "{}: {}. ", peer.title, peer.what);
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn against(p50: u64, goal: u64) -> String {
    if p50 <= goal { "reached".to_owned() } else { format!("{:.1}", p50 as f64 / goal as f64) }
}

/// The first column to the left, all others to the right.
fn align(lines: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for line in lines {
        widths.resize(widths.len().max(line.len()), 0);
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in lines {
        for (index, (width, cell)) in widths.iter().zip(line).enumerate() {
            let _ = if index == 0 { write!(text, "{cell:<width$}") } else { write!(text, "  {cell:>width$}") };
        }
        text.push('\n');
    }
    text
}

/// The same as JSON: `machine` as given, and `rows` by name.
pub(super) fn json(rows: &Rows, figures: &BTreeMap<String, Measured>, machine: &str) -> Value {
    let row = |(row, measured): (&Description, &Measured)| {
        let Figures { rounds, mean, min, p50, p99, max } = measured.figures;
        let work = measured.trace.as_ref().map(|trace| trace.work).map(|work| {
            let Work { exits, vmreads, vmwrites, locked, host } = work;
            json!({ "exits": exits, "vmreads": vmreads, "vmwrites": vmwrites, "locked": locked, "host_instructions": host })
        });
        json!({
            "name": row.name, "title": row.title, "rounds": rounds,
            "mean": mean, "min": min, "p50": p50, "p99": p99, "max": max, "once": work,
            "goal": row.goal, "peers": row.peers,
        })
    };
    json!({ "machine": machine, "rows": measured(rows, figures).map(row).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::Peer;
    use crate::bench::trace::Trace;

    fn rows() -> Rows {
        let row = |name: &str, goal, peers: &[(&str, u64)]| Description {
            name: name.to_owned(),
            title: format!("row {name}"),
            goal,
            peers: peers.iter().map(|&(peer, ticks)| (peer.to_owned(), ticks)).collect(),
        };
        Rows {
            peers: vec![Peer { name: "kvm".to_owned(), title: "KVM".to_owned(), what: "another one".to_owned() }],
            descriptions: vec![row("b", Some(100), &[("kvm", 4000)]), row("a", None, &[]), row("c", Some(5), &[])],
        }
    }

    fn figures(names: &[&str]) -> BTreeMap<String, Measured> {
        let figures = Figures { rounds: 10, mean: 260, min: 249, p50: 250, p99: 300, max: 12345 };
        let work = Work { exits: 1, vmreads: 5, vmwrites: 2, locked: 3, host: 240 };
        let trace = |name| (name == "b").then(|| Trace { work, ..Trace::default() });
        names.iter().map(|&name| (name.to_owned(), Measured { figures, trace: trace(name) })).collect()
    }

    #[test]
    fn the_table_is_in_columns_and_in_the_order_of_the_rows() {
        let expected = "\
operation  min  p50  p99    max  exits  VMREAD  VMWRITE  LOCK   KVM  goal  p50/goal
row b      249  250  300  12345      1       5        2     3  4000   100       2.5
row a      249  250  300  12345      -       -        -     -     -     -         -

TSC ticks for one operation; what it did once. KVM: another one.
";
        assert_eq!(text(&rows(), &figures(&["a", "b"])), expected);
    }

    #[test]
    fn a_goal_is_reached_by_the_median() {
        assert_eq!(against(100, 100), "reached");
        assert_eq!(against(149, 100), "1.5");
    }

    #[test]
    fn json_has_every_figure() {
        let json = json(&rows(), &figures(&["b"]), "a machine");
        assert_eq!(json["machine"], "a machine");
        assert_eq!(json["rows"].as_array().unwrap().len(), 1);
        let row = &json["rows"][0];
        assert_eq!((&row["name"], &row["mean"], &row["p99"]), (&"b".into(), &260.into(), &300.into()));
        assert_eq!(row["once"]["vmreads"], 5);
        assert_eq!((&row["goal"], &row["peers"]["kvm"]), (&100.into(), &4000.into()));
    }
}
