//! What the guests of an unattended run have come to: [`Verdicts`], read from the serial log line by line.

use std::fmt::Write as _;

/// The state of each virtual machine that was started.
#[derive(Debug)]
pub struct Verdicts {
    guests: Vec<Guest>,
}

#[derive(Debug)]
struct Guest {
    name: String,
    outcome: Outcome,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Still running, nothing said.
    Pending,
    /// `verdict: pass ...`
    Passed(String),
    /// `verdict: fail ...`, or it ended without a word.
    Failed(String),
}

impl Verdicts {
    /// Expects a verdict of each of these virtual machines.
    #[must_use]
    pub fn new(names: Vec<String>) -> Self {
        Self { guests: names.into_iter().map(|name| Guest { name, outcome: Outcome::Pending }).collect() }
    }

    /// Takes note of one complete line of the serial log.
    pub fn hear(&mut self, line: &str) {
        for guest in &mut self.guests {
            if guest.outcome != Outcome::Pending {
                continue;
            }
            if let Some(verdict) = after(line, &format!("{}| verdict: ", guest.name)) {
                guest.outcome = match verdict.strip_prefix("pass") {
                    Some(rest) => Outcome::Passed(rest.trim().to_owned()),
                    None => Outcome::Failed(verdict.to_owned()),
                };
            } else if let Some(end) = after(line, &format!("vm {}: ", guest.name))
                && ["stopped", "crashed", "paused (fault)"].iter().any(|state| end.starts_with(state))
            {
                guest.outcome = Outcome::Failed(format!("no verdict, {end}"));
            }
        }
    }

    /// Whether every guest has come to something.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.guests.iter().all(|guest| guest.outcome != Outcome::Pending)
    }

    /// Whether there were guests and every one passed.
    #[must_use]
    pub fn all_passed(&self) -> bool {
        !self.guests.is_empty() && self.guests.iter().all(|guest| matches!(guest.outcome, Outcome::Passed(_)))
    }

    /// One line for each guest and one for all.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = String::new();
        let mut passed = 0;
        for Guest { name, outcome } in &self.guests {
            let (word, detail) = match outcome {
                Outcome::Pending => ("MISSING", "no verdict"),
                Outcome::Failed(detail) => ("FAIL", detail.as_str()),
                Outcome::Passed(detail) => {
                    passed += 1;
                    ("pass", detail.as_str())
                }
            };
            let _ = writeln!(text, "{word:<8}{name:<16}{detail}");
        }
        let _ = write!(text, "{passed} of {} guests passed", self.guests.len());
        text
    }
}

/// What follows `marker` in the line, where the marker is a word of its own.
fn after<'line>(line: &'line str, marker: &str) -> Option<&'line str> {
    let start = line.find(marker)?;
    let before = line.get(..start)?.chars().next_back();
    let own_word = before.is_none_or(|c| !c.is_alphanumeric() && c != '-' && c != '_');
    own_word.then(|| line.get(start + marker.len()..).map(str::trim_end)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(lines: &[&str]) -> Verdicts {
        let mut verdicts = Verdicts::new(vec!["hello".to_owned(), "spin".to_owned()]);
        lines.iter().for_each(|line| verdicts.hear(line));
        verdicts
    }

    #[test]
    fn all_must_pass() {
        let verdicts = hear(&["hello| verdict: pass hello", "lamina> spin| verdict: pass"]);
        assert!(verdicts.complete() && verdicts.all_passed());
        assert!(verdicts.summary().ends_with("2 of 2 guests passed"));
    }

    #[test]
    fn a_failure_counts_as_an_outcome_but_not_as_a_pass() {
        let verdicts = hear(&["hello| verdict: fail page 3", "spin| verdict: pass"]);
        assert!(verdicts.complete() && !verdicts.all_passed());
        assert!(verdicts.summary().contains("fail page 3"));
    }

    #[test]
    fn an_end_without_a_verdict_is_a_failure() {
        let verdicts = hear(&["[1.0] WARN vm hello: crashed: triple fault", "spin| verdict: pass"]);
        assert!(verdicts.complete() && !verdicts.all_passed());
    }

    #[test]
    fn the_end_after_a_verdict_changes_nothing() {
        let verdicts = hear(&["hello| verdict: pass", "vm hello: stopped (exit code 0)", "spin| verdict: pass"]);
        assert!(verdicts.all_passed());
    }

    #[test]
    fn a_name_inside_another_name_is_not_heard() {
        let verdicts = hear(&["othello| verdict: pass", "spin| verdict: pass"]);
        assert!(!verdicts.complete());
        assert!(verdicts.summary().contains("MISSING hello"));
    }

    #[test]
    fn nobody_is_no_success() {
        assert!(!Verdicts::new(Vec::new()).all_passed());
    }
}
