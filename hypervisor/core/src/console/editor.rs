//! The line editor: terminal bytes in, edited lines out, echo to a [`Sink`].
//!
//! It draws on one row of the terminal: a line longer than the row scrolls sideways, so that no cursor has to find its
//! way back over a wrapped row. A character typed at the end of a line that fits is echoed as it is; everything else
//! redraws the row.

use super::history::History;
use super::keys::{Key, KeyDecoder};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// The longest line in bytes; what is typed beyond it is refused with a bell.
const LINE_LEN_MAX: usize = 1024;
/// The columns of the terminal that are drawn on. What is on the other end of a serial line cannot be asked.
const COLUMNS: usize = 80;
const BELL: &[u8] = b"\x07";

/// Where echo and prompts go: bytes for a terminal, each line end as CR LF.
pub trait Sink {
    /// Writes bytes.
    fn write(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn write(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// What may stand where the cursor is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Completion {
    /// Where in the line the word to complete begins, in bytes.
    pub start: usize,
    /// The words that may stand there. All begin with what is there already.
    pub candidates: Vec<String>,
}

/// Knows what may be typed.
pub trait Completer {
    /// What may stand at the end of `line`, which is all that is before the cursor.
    fn complete(&self, line: &str) -> Completion;
}

/// An editor for lines of printable ASCII.
#[derive(Clone, Debug)]
pub struct LineEditor {
    prompt: &'static str,
    line: String,
    /// Where the next character goes, in bytes.
    cursor: usize,
    /// The first byte of the line that is on the screen.
    left: usize,
    /// Whether prompt and line are on the screen.
    shown: bool,
    keys: KeyDecoder,
    history: History,
}

impl LineEditor {
    /// An editor whose lines begin with `prompt`. Nothing is drawn before [`LineEditor::show`].
    #[must_use]
    pub fn new(prompt: &'static str) -> Self {
        Self {
            prompt,
            line: String::new(),
            cursor: 0,
            left: 0,
            shown: false,
            keys: KeyDecoder::default(),
            history: History::default(),
        }
    }

    /// Draws the prompt and the line as it stands on an empty row: after a command's answer, or after [`LineEditor::hide`].
    /// Does nothing if they are on the screen.
    pub fn show(&mut self, sink: &mut dyn Sink) {
        if !self.shown {
            self.shown = true;
            self.draw("", sink);
        }
    }

    /// Takes prompt and line off the screen, for other output to take the row. [`LineEditor::show`] puts them back.
    /// Does nothing if they are not on the screen.
    pub fn hide(&mut self, sink: &mut dyn Sink) {
        if core::mem::take(&mut self.shown) {
            sink.write(b"\r\x1b[K");
        }
    }

    /// Takes a byte from the terminal; the line, when the byte ends it. The cursor is then at the start of the next row,
    /// and the prompt is not drawn again before [`LineEditor::show`] or the next key.
    pub fn feed(&mut self, byte: u8, sink: &mut dyn Sink, completer: &dyn Completer) -> Option<String> {
        let key = self.keys.feed(byte)?;
        self.show(sink);
        match key {
            Key::Enter => {
                sink.write(b"\r\n");
                self.shown = false;
                let line = core::mem::take(&mut self.line);
                self.cursor = 0;
                self.left = 0;
                self.history.add(&line);
                return Some(line);
            }
            Key::Character(character) => self.insert(character, sink),
            Key::Tab => self.complete(sink, completer),
            Key::Cancel => {
                sink.write(b"\r\n");
                self.replace("", sink);
                self.history.add("");
            }
            Key::ClearScreen => {
                sink.write(b"\x1b[H\x1b[2J");
                self.redraw(sink);
            }
            Key::Up => match self.history.older(&self.line).map(String::from) {
                Some(line) => self.replace(&line, sink),
                None => sink.write(BELL),
            },
            Key::Down => match self.history.newer().map(String::from) {
                Some(line) => self.replace(&line, sink),
                None => sink.write(BELL),
            },
            key => self.edit(key, sink),
        }
        None
    }

    /// The keys that move the cursor or take characters out.
    fn edit(&mut self, key: Key, sink: &mut dyn Sink) {
        let len = self.line.len();
        let before = (self.cursor, len);
        match key {
            Key::Left => self.cursor = self.cursor.saturating_sub(1),
            Key::Right => self.cursor = (self.cursor + 1).min(len),
            Key::Home => self.cursor = 0,
            Key::End => self.cursor = len,
            Key::Backspace => self.remove(self.cursor.saturating_sub(1)..self.cursor),
            Key::Delete | Key::DeleteOrEnd => self.remove(self.cursor..(self.cursor + 1).min(len)),
            Key::KillBefore => self.remove(0..self.cursor),
            Key::KillAfter => self.remove(self.cursor..len),
            Key::KillWord => {
                let before = self.line.get(..self.cursor).unwrap_or_default().trim_end();
                self.remove(before.rfind(' ').map_or(0, |at| at + 1)..self.cursor);
            }
            _ => {}
        }
        if (self.cursor, self.line.len()) != before {
            self.redraw(sink);
        }
    }

    /// Takes a piece of the line out. The line is ASCII, so every index is a character's.
    fn remove(&mut self, range: core::ops::Range<usize>) {
        self.cursor = range.start;
        self.line.drain(range);
    }

    fn insert(&mut self, character: u8, sink: &mut dyn Sink) {
        if self.line.len() >= LINE_LEN_MAX {
            return sink.write(BELL);
        }
        self.line.insert(self.cursor, char::from(character));
        self.cursor += 1;
        if self.cursor == self.line.len() && self.cursor - self.left <= self.width() {
            sink.write(&[character]);
        } else {
            self.redraw(sink);
        }
    }

    fn replace(&mut self, line: &str, sink: &mut dyn Sink) {
        self.line = line.into();
        self.cursor = self.line.len();
        self.left = 0;
        self.redraw(sink);
    }

    fn complete(&mut self, sink: &mut dyn Sink, completer: &dyn Completer) {
        let before = self.line.get(..self.cursor).unwrap_or_default();
        let Completion { start, candidates } = completer.complete(before);
        let Some(typed) = before.len().checked_sub(start) else { return };
        let common = common_prefix(&candidates);
        let mut missing = String::from(common.get(typed..).unwrap_or_default());
        match candidates.as_slice() {
            [] => return sink.write(BELL),
            // Behind `weight=` comes its value.
            [one] if one.ends_with('=') => {}
            [_] if !self.line.get(self.cursor..).unwrap_or_default().starts_with(' ') => missing.push(' '),
            _ if missing.is_empty() => return self.list(&candidates, sink),
            _ => {}
        }
        for character in missing.bytes().filter(|byte| (0x20..0x7f).contains(byte)) {
            self.insert(character, sink);
        }
    }

    /// Shows the candidates in columns, then the line again below them.
    fn list(&mut self, candidates: &[String], sink: &mut dyn Sink) {
        let width = candidates.iter().map(String::len).max().unwrap_or(0) + 2;
        let per_row = (COLUMNS / width).max(1);
        for row in candidates.chunks(per_row) {
            sink.write(b"\r\n");
            for (index, candidate) in row.iter().enumerate() {
                let pad = if index + 1 == row.len() { 0 } else { width };
                sink.write(format!("{candidate:pad$}").as_bytes());
            }
        }
        sink.write(b"\r\n");
        self.redraw(sink);
    }

    /// The columns that the line has: the last one stays free, for the cursor not to wrap.
    const fn width(&self) -> usize {
        (COLUMNS - 1).saturating_sub(self.prompt.len())
    }

    fn redraw(&mut self, sink: &mut dyn Sink) {
        sink.write(b"\r");
        self.draw("\x1b[K", sink);
    }

    /// Draws the row from its first column on, and `erase` behind the line's end.
    fn draw(&mut self, erase: &str, sink: &mut dyn Sink) {
        // Scroll as little as keeps the cursor on the row, and no further than the line's end needs: a line that has become
        // shorter comes back.
        let needed = self.line.len().saturating_sub(self.width());
        self.left = self.left.min(self.cursor).max(self.cursor.saturating_sub(self.width())).min(needed);
        let right = (self.left + self.width()).min(self.line.len());
        let shown = self.line.get(self.left..right).unwrap_or_default();
        let mut row = format!("{}{shown}{erase}", self.prompt);
        if self.cursor < right {
            row += &format!("\x1b[{}D", right - self.cursor);
        }
        sink.write(row.as_bytes());
    }
}

/// What all candidates begin with.
fn common_prefix(candidates: &[String]) -> &str {
    let Some((first, others)) = candidates.split_first() else { return "" };
    let same = |other: &String| {
        let pairs = first.chars().zip(other.chars()).take_while(|(a, b)| a == b);
        pairs.map(|(character, _)| character.len_utf8()).sum()
    };
    let len = others.iter().map(same).min().unwrap_or(first.len());
    first.get(..len).unwrap_or_default()
}
