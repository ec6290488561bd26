//! The line editor, byte by byte, against a model of the line and a model of the terminal.

use crate::console::editor::{Completer, Completion, LineEditor, Sink};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use proptest::prelude::*;

const COLUMNS: usize = 80;

/// As much of a terminal as the editor uses; anything else it is sent is a failure.
struct Terminal {
    rows: Vec<Vec<u8>>,
    column: usize,
    bells: usize,
    sequence: Vec<u8>,
}

impl Terminal {
    fn new() -> Self {
        Self { rows: alloc::vec![Vec::new()], column: 0, bells: 0, sequence: Vec::new() }
    }

    fn row(&mut self) -> &mut Vec<u8> {
        self.rows.last_mut().unwrap()
    }

    fn shown(&self) -> String {
        let row = String::from_utf8(self.rows.last().unwrap().clone()).unwrap();
        row.trim_end().to_string()
    }

    fn byte(&mut self, byte: u8) {
        if !self.sequence.is_empty() {
            self.sequence.push(byte);
            if byte.is_ascii_alphabetic() {
                let sequence = core::mem::take(&mut self.sequence);
                self.apply(&sequence);
            }
            return;
        }
        match byte {
            0x1b => self.sequence.push(byte),
            0x07 => self.bells += 1,
            b'\r' => self.column = 0,
            b'\n' => self.rows.push(Vec::new()),
            b' '..=b'~' => {
                let column = self.column;
                assert!(column < COLUMNS, "the row wraps");
                let row = self.row();
                row.resize(row.len().max(column + 1), b' ');
                row[column] = byte;
                self.column += 1;
            }
            _ => panic!("the terminal gets byte {byte:#x}"),
        }
    }

    fn apply(&mut self, sequence: &[u8]) {
        match sequence {
            b"\x1b[K" => {
                let column = self.column;
                self.row().truncate(column);
            }
            b"\x1b[H" => self.column = 0,
            b"\x1b[2J" => self.rows = alloc::vec![Vec::new()],
            [0x1b, b'[', digits @ .., b'D'] => {
                let columns: usize = core::str::from_utf8(digits).unwrap().parse().unwrap();
                self.column = self.column.checked_sub(columns).expect("the cursor leaves the row");
            }
            _ => panic!("the terminal gets {sequence:?}"),
        }
    }
}

impl Sink for Terminal {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.byte(byte));
    }
}

struct Words;

impl Completer for Words {
    fn complete(&self, line: &str) -> Completion {
        let start = line.rfind(' ').map_or(0, |at| at + 1);
        let candidates =
            ["mem", "reset", "resume", "version"].into_iter().filter(|word| word.starts_with(&line[start..]));
        Completion { start, candidates: candidates.map(String::from).collect() }
    }
}

struct Session {
    editor: LineEditor,
    terminal: Terminal,
    lines: Vec<String>,
}

impl Session {
    fn new() -> Self {
        let mut session = Self { editor: LineEditor::new("> "), terminal: Terminal::new(), lines: Vec::new() };
        session.editor.show(&mut session.terminal);
        session
    }

    fn type_bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if let Some(line) = self.editor.feed(byte, &mut self.terminal, &Words) {
                self.lines.push(line);
                self.editor.show(&mut self.terminal);
            }
        }
    }
}

fn typed(bytes: &[u8]) -> Session {
    let mut session = Session::new();
    session.type_bytes(bytes);
    session
}

#[test]
fn every_line_end_ends_a_line_once() {
    assert_eq!(typed(b"a\rb\nc\r\nd\r\r\ne\n\nf").lines, ["a", "b", "c", "d", "", "e", ""]);
}

#[test]
fn keys_edit_the_line() {
    for (bytes, expected) in [
        (&b"abc\x7fd"[..], "abd"),
        (b"abc\x08\x08x", "ax"),
        (b"bc\x01a\x05d", "abcd"),
        (b"abc\x1b[D\x1b[Dx\x1b[Cy", "axbyc"),
        (b"bc\x1b[Ha\x1b[Fd", "abcd"),
        (b"bc\x1bOHa\x1bOFd", "abcd"),
        (b"bc\x1b[1~a\x1b[4~d", "abcd"),
        (b"abc\x1b[H\x1b[3~", "bc"),
        (b"abc\x01\x04", "bc"),
        (b"abc\x02\x15", "c"),
        (b"abc\x02\x0b", "ab"),
        (b"one two  \x17", "one "),
        (b"one two\x02\x17", "one o"),
        (b"abc\x03d", "d"),
        (b"ab\x0cc", "abc"),
        (b"a\x00\xc3\xa4\x07b\x1a", "ab"),
        (b"a\x1b[1;5Db", "ba"),
        (b"a\x1b[200~\x1b[Z\x1bxb", "ab"),
        (b"a\x1b\x1b[Db", "ba"),
    ] {
        let mut session = typed(bytes);
        assert!(session.terminal.shown().starts_with(&("> ".to_string() + expected.trim_end())), "{bytes:?}");
        session.type_bytes(b"\r");
        assert_eq!(session.lines.last().unwrap(), expected, "{bytes:?}");
    }
}

#[test]
fn a_lone_escape_does_not_swallow_the_line_end() {
    assert_eq!(typed(b"a\x1b\rb\x1b[\r").lines, ["a", "b"]);
}

#[test]
fn history_goes_back_and_forth() {
    let up = b"\x1b[A";
    let down = b"\x1b[B";
    let mut session = typed(b"one\rtwo\rtwo\r \rdra");
    session.type_bytes(up);
    assert_eq!(session.terminal.shown(), "> two");
    session.type_bytes(up);
    session.type_bytes(up);
    assert_eq!(session.terminal.shown(), "> one");
    assert_eq!(session.terminal.bells, 1, "there is nothing before the first line");
    session.type_bytes(down);
    session.type_bytes(down);
    assert_eq!(session.terminal.shown(), "> dra");
    session.type_bytes(b"ft\r");
    assert_eq!(session.lines.last().unwrap(), "draft");
    for number in 0..100 {
        session.type_bytes(std::format!("line {number}\r").as_bytes());
    }
    for _ in 0..200 {
        session.type_bytes(up);
    }
    assert_eq!(session.terminal.shown(), "> line 36");
}

#[test]
fn tab_completes_as_far_as_it_is_sure_and_then_lists() {
    let mut session = typed(b"m\t");
    session.type_bytes(b"\r");
    assert_eq!(session.lines, ["mem "]);
    session.type_bytes(b"r\t");
    assert_eq!(session.terminal.shown(), "> res");
    session.type_bytes(b"\t");
    assert_eq!(session.terminal.shown(), "> res");
    let listed = &session.terminal.rows[session.terminal.rows.len() - 2];
    assert_eq!(core::str::from_utf8(listed).unwrap(), "reset   resume");
    session.type_bytes(b"u\t\r");
    assert_eq!(session.lines[1], "resume ");
    session.type_bytes(b"x\t\r");
    assert_eq!((session.lines[2].as_str(), session.terminal.bells), ("x", 1));
    session.type_bytes(b"ver mem\x01\x1b[C\x1b[C\x1b[C\t\r");
    assert_eq!(session.lines[3], "version mem", "before a space none is added");
}

#[test]
fn a_line_is_bounded() {
    let mut session = typed(&[b'x'; 3000]);
    session.type_bytes(b"\r");
    assert_eq!(session.lines[0].len(), 1024);
    assert_eq!(session.terminal.bells, 3000 - 1024);
}

#[test]
fn a_line_that_was_scrolled_comes_back_when_it_fits() {
    let mut session = typed(&[b'x'; 78]);
    assert_eq!(session.terminal.shown(), "> ".to_string() + &"x".repeat(77), "one is scrolled out");
    session.type_bytes(b"\x7f");
    assert_eq!(session.terminal.shown(), "> ".to_string() + &"x".repeat(77));
    session.type_bytes(b"\x02\x02yy\x0b");
    assert_eq!(session.terminal.shown(), "> ".to_string() + &"x".repeat(75) + "yy");
    assert_eq!(session.terminal.column, 79);
}

#[test]
fn other_output_leaves_the_line_as_it_was() {
    let mut session = typed(b"half a com");
    session.editor.hide(&mut session.terminal);
    session.terminal.write(b"web| hello\r\n");
    session.editor.show(&mut session.terminal);
    assert_eq!(session.terminal.shown(), "> half a com");
    assert_eq!(session.terminal.rows[0], b"web| hello");
    session.type_bytes(b"mand\r");
    assert_eq!(session.lines, ["half a command"]);
}

#[test]
fn nothing_is_drawn_or_erased_twice() {
    let mut editor = LineEditor::new("> ");
    let mut sent = Vec::new();
    editor.hide(&mut sent);
    editor.show(&mut sent);
    editor.show(&mut sent);
    assert_eq!(sent, b"> ");
    sent.clear();
    editor.hide(&mut sent);
    editor.hide(&mut sent);
    assert_eq!(sent, b"\r\x1b[K");
    sent.clear();
    // A line's end leaves an empty row; the next key brings the prompt back if nobody has.
    assert_eq!(editor.feed(b'\r', &mut sent, &Words), Some(String::new()));
    editor.hide(&mut sent);
    assert_eq!(editor.feed(b'a', &mut sent, &Words), None);
    assert_eq!(sent, b"> \r\n> a");
}

#[derive(Clone, Debug)]
enum Press {
    Text(String),
    Left,
    Right,
    Home,
    End,
    Backspace,
    Delete,
    KillBefore,
    KillAfter,
}

fn press() -> impl Strategy<Value = Press> {
    prop_oneof![
        "[ -~]{1,30}".prop_map(Press::Text),
        Just(Press::Left),
        Just(Press::Right),
        Just(Press::Home),
        Just(Press::End),
        Just(Press::Backspace),
        Just(Press::Delete),
        Just(Press::KillBefore),
        Just(Press::KillAfter),
    ]
}

proptest! {
    #[test]
    fn the_line_is_the_models_and_the_screen_shows_it(presses in proptest::collection::vec(press(), 0..40)) {
        let mut session = Session::new();
        let (mut before, mut behind) = (String::new(), String::new());
        for press in presses {
            let bytes: &[u8] = match &press {
                Press::Text(text) => {
                    before += text;
                    text.as_bytes()
                }
                Press::Left => {
                    before.pop().into_iter().for_each(|character| behind.insert(0, character));
                    b"\x1b[D"
                }
                Press::Right => {
                    if !behind.is_empty() {
                        before.push(behind.remove(0));
                    }
                    b"\x1b[C"
                }
                Press::Home => {
                    behind.insert_str(0, &core::mem::take(&mut before));
                    b"\x01"
                }
                Press::End => {
                    before += &core::mem::take(&mut behind);
                    b"\x05"
                }
                Press::Backspace => {
                    before.pop();
                    b"\x7f"
                }
                Press::Delete => {
                    if !behind.is_empty() {
                        behind.remove(0);
                    }
                    b"\x1b[3~"
                }
                Press::KillBefore => {
                    before.clear();
                    b"\x15"
                }
                Press::KillAfter => {
                    behind.clear();
                    b"\x0b"
                }
            };
            prop_assume!(before.len() + behind.len() <= 1024);
            session.type_bytes(bytes);
            // What is on the screen is the piece of the line around the cursor.
            let terminal = &session.terminal;
            let shown = terminal.rows.last().unwrap();
            let (left, right) = shown.split_at(terminal.column);
            let left = core::str::from_utf8(left).unwrap().strip_prefix("> ").unwrap();
            prop_assert!(before.ends_with(left), "{before:?} {left:?}");
            prop_assert!(behind.as_bytes().starts_with(right), "{behind:?}");
            if before.len() + behind.len() < COLUMNS - 2 {
                prop_assert_eq!(left, &before);
                prop_assert_eq!(right, behind.as_bytes());
            }
        }
        session.type_bytes(b"\r");
        prop_assert_eq!(&session.lines[0], &(before + &behind));
    }

    #[test]
    fn any_bytes_leave_a_line_of_text(bytes in proptest::collection::vec(
        prop_oneof![any::<u8>(), Just(0x1b), Just(b'['), Just(b'\t'), b'0'..=b'~'], 0..400)) {
        let mut session = typed(&bytes);
        session.type_bytes(b"\x03\r");
        for line in &session.lines {
            prop_assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        }
        prop_assert_eq!(session.terminal.shown(), ">");
    }
}
