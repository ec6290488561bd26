//! A guest's serial output as whole lines, for the host's console: `NAME| text`.
//!
//! A guest can write anything. Only printable text gets through: escape sequences are taken out whole (none can move
//! the host terminal's cursor or retitle its window), other control characters are dropped, bytes that are no UTF-8
//! become U+FFFD, and a line is cut at a bound.

use alloc::format;
use alloc::string::String;

/// The longest line in bytes, without the prefix; a longer one goes on in the next line.
pub const LINE_LEN_MAX: usize = 512;
/// A tab goes to the next multiple of this many bytes.
const TAB_STOP: usize = 8;

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;

/// Where in an escape sequence the stream is (ECMA-48, "Control functions").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sequence {
    /// In none.
    None,
    /// Behind ESC, and any intermediate bytes.
    Escape,
    /// In a control sequence (CSI), which a byte 0x40 to 0x7e ends.
    Control,
    /// In a control string (OSC, DCS, APC, PM, SOS), which BEL or ESC `\` ends.
    String,
}

/// Splits one guest's serial output into lines. Holds at most one line.
#[derive(Clone, Debug)]
pub struct SerialLines {
    prefix: String,
    line: String,
    sequence: Sequence,
    /// The bytes of a UTF-8 character begun, and how many of them are there.
    partial: [u8; 4],
    partial_len: usize,
    after_cr: bool,
}

impl SerialLines {
    /// A splitter for the VM called `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { prefix: format!("{name}| "), ..Self::without_prefix() }
    }

    /// A splitter whose lines carry no name: for a log of one VM alone.
    #[must_use]
    pub fn without_prefix() -> Self {
        Self {
            prefix: String::new(),
            line: String::new(),
            sequence: Sequence::None,
            partial: [0; 4],
            partial_len: 0,
            after_cr: false,
        }
    }

    /// Takes output of the guest; `emit` gets each line that is complete by it, with its prefix, without a line end.
    pub fn feed(&mut self, bytes: &[u8], emit: &mut dyn FnMut(&str)) {
        for &byte in bytes {
            self.feed_byte(byte, emit);
        }
    }

    /// Ends the line begun, if there is one: the VM has ended, nothing more will come.
    pub fn flush(&mut self, emit: &mut dyn FnMut(&str)) {
        self.end_partial(emit);
        if !self.line.is_empty() {
            self.emit(emit);
        }
        self.sequence = Sequence::None;
        self.after_cr = false;
    }

    fn feed_byte(&mut self, byte: u8, emit: &mut dyn FnMut(&str)) {
        if self.in_sequence(byte) {
            return;
        }
        if byte >= 0x80 {
            self.feed_utf8(byte, emit);
            self.after_cr = false;
            return;
        }
        self.end_partial(emit);
        let after_cr = core::mem::take(&mut self.after_cr);
        match byte {
            // A CR ends what was written (a lone one is a progress display's); the LF behind it then ends nothing more.
            b'\r' if !self.line.is_empty() => {
                self.emit(emit);
                self.after_cr = true;
            }
            b'\r' => self.after_cr = after_cr,
            b'\n' if !after_cr => self.emit(emit),
            b'\t' => {
                for _ in 0..TAB_STOP - self.line.len() % TAB_STOP {
                    self.push(' ', emit);
                }
            }
            0x08 => {
                self.line.pop();
            }
            0x20..0x7f => self.push(char::from(byte), emit),
            _ => {}
        }
    }

    /// Whether `byte` belongs to an escape sequence.
    fn in_sequence(&mut self, byte: u8) -> bool {
        let next = match (self.sequence, byte) {
            (_, ESC) => Sequence::Escape,
            (Sequence::None, _) => return false,
            // A line end is worth more than a sequence that somebody forgot to end.
            (_, b'\r' | b'\n') => {
                self.sequence = Sequence::None;
                return false;
            }
            (Sequence::Escape, b'[') => Sequence::Control,
            (Sequence::Escape, b']' | b'P' | b'X' | b'^' | b'_') => Sequence::String,
            (Sequence::Escape, 0x20..=0x2f) => Sequence::Escape,
            (Sequence::Escape, _) => Sequence::None,
            (Sequence::Control, 0x20..=0x3f) => Sequence::Control,
            (Sequence::Control, _) | (Sequence::String, BEL) => Sequence::None,
            (Sequence::String, _) => Sequence::String,
        };
        self.sequence = next;
        true
    }

    fn feed_utf8(&mut self, byte: u8, emit: &mut dyn FnMut(&str)) {
        if byte & 0xc0 != 0x80 {
            // A leading byte: what was begun stays incomplete.
            self.end_partial(emit);
        }
        let Some(slot) = self.partial.get_mut(self.partial_len) else {
            return self.end_partial(emit);
        };
        *slot = byte;
        self.partial_len += 1;
        let begun = self.partial.get(..self.partial_len).unwrap_or_default();
        match core::str::from_utf8(begun) {
            Ok(text) => {
                // C1 control characters (U+0080 to U+009F) steer a terminal as escape sequences do.
                let character = text.chars().next().filter(|c| !c.is_control());
                self.partial_len = 0;
                if let Some(character) = character {
                    self.push(character, emit);
                }
            }
            Err(error) if error.error_len().is_none() => {}
            Err(_) => self.end_partial(emit),
        }
    }

    /// Ends a UTF-8 character that was begun and cannot be completed.
    fn end_partial(&mut self, emit: &mut dyn FnMut(&str)) {
        if core::mem::take(&mut self.partial_len) > 0 {
            self.push(char::REPLACEMENT_CHARACTER, emit);
        }
    }

    fn push(&mut self, character: char, emit: &mut dyn FnMut(&str)) {
        if self.line.len() + character.len_utf8() > LINE_LEN_MAX {
            self.emit(emit);
        }
        self.line.push(character);
    }

    fn emit(&mut self, emit: &mut dyn FnMut(&str)) {
        emit(&format!("{}{}", self.prefix, self.line));
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn lines(bytes: &[u8]) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        let mut splitter = SerialLines::new("web");
        splitter.feed(bytes, &mut |line| lines.push(line.into()));
        splitter.flush(&mut |line| lines.push(line.into()));
        lines
    }

    #[test]
    fn line_ends() {
        assert_eq!(lines(b"one\r\ntwo\nthree"), ["web| one", "web| two", "web| three"]);
        assert_eq!(lines(b"a\r\n\r\nb\n\nc\n"), ["web| a", "web| ", "web| b", "web| ", "web| c"]);
        assert_eq!(lines(b"\r\n"), ["web| "]);
        assert_eq!(lines(b"a\r\r\nb\r\r\n"), ["web| a", "web| b"]);
        assert_eq!(lines(b"10%\r20%\r\n"), ["web| 10%", "web| 20%"]);
        assert_eq!(lines(b""), [""; 0]);
    }

    #[test]
    fn escape_sequences_are_taken_out() {
        assert_eq!(lines(b"\x1b[1;31mred\x1b[0m end\n"), ["web| red end"]);
        assert_eq!(lines(b"\x1b]0;title\x07shown\x1b]2;x\x1b\\ too\n"), ["web| shown too"]);
        assert_eq!(lines(b"\x1bc\x1b(Btext\x07\x00\n"), ["web| text"]);
        assert_eq!(lines(b"never ended \x1b[12\nnext\n"), ["web| never ended ", "web| next"]);
        assert_eq!(lines("c1 \u{9b}2J\n".as_bytes()), ["web| c1 2J"]);
    }

    #[test]
    fn text_is_utf8() {
        assert_eq!(lines("Grüße, 世界 🙂\n".as_bytes()), ["web| Grüße, 世界 🙂"]);
        assert_eq!(lines(b"\xffa\xc3\xe4\xb8b\n"), ["web| \u{fffd}a\u{fffd}\u{fffd}b"]);
        assert_eq!(lines(b"a\tb\x08c\n"), ["web| a       c"]);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let cut = lines(&[b'x'; LINE_LEN_MAX + 1]);
        assert_eq!(cut.iter().map(|line| line.len() - "web| ".len()).collect::<Vec<_>>(), [LINE_LEN_MAX, 1]);
    }

    proptest! {
        #[test]
        fn nothing_but_bounded_printable_text_gets_through(bytes in proptest::collection::vec(
            prop_oneof![any::<u8>(), Just(ESC), Just(b'['), Just(b']'), Just(b'\r'), Just(b'\n')], 0..700)) {
            for line in lines(&bytes) {
                let text = line.strip_prefix("web| ").unwrap();
                prop_assert!(text.len() <= LINE_LEN_MAX);
                prop_assert!(!text.contains(char::is_control));
            }
        }

        #[test]
        fn pieces_make_the_same_lines_as_the_whole(text in "[ -~äß世🙂\r\n\t]{0,200}", at in 0usize..200) {
            let bytes = text.as_bytes();
            let (first, second) = bytes.split_at(at.min(bytes.len()));
            let mut pieces: Vec<String> = Vec::new();
            let mut splitter = SerialLines::new("web");
            splitter.feed(first, &mut |line| pieces.push(line.into()));
            splitter.feed(second, &mut |line| pieces.push(line.into()));
            splitter.flush(&mut |line| pieces.push(line.into()));
            prop_assert_eq!(pieces, lines(bytes));
        }

        #[test]
        fn printable_lines_come_through_unchanged(texts in proptest::collection::vec("[ -~äß世🙂]{0,100}", 0..10)) {
            let stream: String = texts.iter().map(|text| format!("{text}\r\n")).collect();
            let expected: Vec<String> = texts.iter().map(|text| format!("web| {text}")).collect();
            prop_assert_eq!(lines(stream.as_bytes()), expected);
        }
    }
}
