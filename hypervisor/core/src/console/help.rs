//! `help`, from the table of commands.

use super::command::unknown;
use super::table::{COMMANDS, Spec};
use super::view::{HelpRow, HelpView};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// What `help` shows: all commands, or those whose words begin with `command` (`vm` or `vm create`).
///
/// # Errors
/// One line, if there is no such command.
pub fn help(command: Option<&str>) -> Result<HelpView, String> {
    let words: Vec<String> = command.unwrap_or_default().split_whitespace().map(ToString::to_string).collect();
    let begins = |spec: &&Spec| {
        words.len() <= spec.words.len()
            && spec.words.iter().zip(&words).all(|(expected, word)| *expected == word.as_str())
    };
    let rows: Vec<HelpRow> = COMMANDS
        .iter()
        .filter(begins)
        .map(|spec| HelpRow { command: spec.name(), usage: spec.usage(), about: spec.about })
        .collect();
    if rows.is_empty() { Err(unknown(&words)) } else { Ok(HelpView { commands: rows }) }
}
