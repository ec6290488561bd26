//! The lines typed before, and where among them the operator is.

use alloc::collections::VecDeque;
use alloc::string::String;

/// How many lines are kept.
const LINES_MAX: usize = 64;

/// The newest lines, oldest first, and the line that was being typed when the operator went back into them.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    lines: VecDeque<String>,
    /// How many lines back the operator is; 0 is the line being typed.
    back: usize,
    draft: String,
}

impl History {
    /// Keeps a line, unless it is blank or the same as the last, and goes back to the front.
    pub(super) fn add(&mut self, line: &str) {
        self.back = 0;
        self.draft.clear();
        if line.trim().is_empty() || self.lines.back().is_some_and(|last| last == line) {
            return;
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line.into());
    }

    /// The line before; `current` is what stands on the line now.
    pub(super) fn older(&mut self, current: &str) -> Option<&str> {
        if self.back == self.lines.len() {
            return None;
        }
        if self.back == 0 {
            self.draft = current.into();
        }
        self.back += 1;
        self.shown()
    }

    /// The line after, in the end the one that was being typed.
    pub(super) fn newer(&mut self) -> Option<&str> {
        self.back = self.back.checked_sub(1)?;
        self.shown()
    }

    fn shown(&self) -> Option<&str> {
        if self.back == 0 {
            return Some(&self.draft);
        }
        self.lines.get(self.lines.len().checked_sub(self.back)?).map(String::as_str)
    }
}
