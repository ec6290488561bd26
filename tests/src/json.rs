//! Answers of the console for machines.

use anyhow::{Context, Result};
use serde_json::Value;
use xtask::machine::Session;

/// Types the command with `--json` and returns the answer. Lines of the log or of guests may stand around it.
pub fn reply(session: &mut Session, command: &str) -> Result<Value> {
    let reply = session.command(&format!("{command} --json"))?;
    let line = reply
        .lines()
        .find(|line| line.starts_with('{'))
        .with_context(|| format!("`{command} --json` answered no JSON: {reply:?}"))?;
    serde_json::from_str(line).with_context(|| format!("`{command} --json` answered broken JSON: {line}"))
}

/// A part of an answer, by its JSON pointer.
pub fn field<'value>(value: &'value Value, pointer: &str) -> Result<&'value Value> {
    value.pointer(pointer).with_context(|| format!("there is no {pointer} in {value}"))
}
