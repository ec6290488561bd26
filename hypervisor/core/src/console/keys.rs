//! From terminal bytes to keys, one byte at a time.
//!
//! Sequences as xterm, the Linux console, screen and the common serial terminals send them: `ESC [ A`, `ESC O A`,
//! `ESC [ 3 ~`, with or without modifiers (`ESC [ 1 ; 5 C`), which are not told apart.

/// What a key asks of the line editor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Key {
    /// A printable ASCII character.
    Character(u8),
    /// End of the line.
    Enter,
    Tab,
    Backspace,
    Delete,
    Left,
    Right,
    Up,
    Down,
    Home,
    End,
    /// Ctrl-U: drop what is before the cursor.
    KillBefore,
    /// Ctrl-K: drop what is behind it.
    KillAfter,
    /// Ctrl-W: drop the word before it.
    KillWord,
    /// Ctrl-L: clear the screen.
    ClearScreen,
    /// Ctrl-C: drop the line.
    Cancel,
    /// Ctrl-D: delete under the cursor.
    DeleteOrEnd,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Ground,
    Escape,
    /// In `ESC [`, with its first parameter so far.
    Control {
        first: u8,
        in_first: bool,
    },
    /// In `ESC O`.
    Ss3,
}

/// The decoder. Holds what was seen of a sequence.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyDecoder {
    state: State,
    after_cr: bool,
}

impl KeyDecoder {
    /// Takes a byte; the key that is complete by it, if one is.
    pub(super) fn feed(&mut self, byte: u8) -> Option<Key> {
        // CR LF is one line end, whatever sends it.
        let after_cr = core::mem::take(&mut self.after_cr);
        if byte < 0x20 || byte == 0x7f {
            // A control character ends any sequence: an ESC typed alone must not swallow the next Enter.
            self.state = State::Ground;
            return self.control(byte, after_cr);
        }
        match self.state {
            State::Ground => (byte < 0x80).then_some(Key::Character(byte)),
            State::Escape => {
                self.state = match byte {
                    b'[' => State::Control { first: 0, in_first: true },
                    b'O' => State::Ss3,
                    _ => State::Ground,
                };
                None
            }
            State::Control { first, in_first } => self.control_sequence(byte, first, in_first),
            State::Ss3 => {
                self.state = State::Ground;
                Self::final_byte(byte)
            }
        }
    }

    fn control(&mut self, byte: u8, after_cr: bool) -> Option<Key> {
        Some(match byte {
            b'\r' => {
                self.after_cr = true;
                Key::Enter
            }
            b'\n' if after_cr => return None,
            b'\n' => Key::Enter,
            b'\t' => Key::Tab,
            0x01 => Key::Home,
            0x02 => Key::Left,
            0x03 => Key::Cancel,
            0x04 => Key::DeleteOrEnd,
            0x05 => Key::End,
            0x06 => Key::Right,
            0x08 | 0x7f => Key::Backspace,
            0x0b => Key::KillAfter,
            0x0c => Key::ClearScreen,
            0x0e => Key::Down,
            0x10 => Key::Up,
            0x15 => Key::KillBefore,
            0x17 => Key::KillWord,
            0x1b => {
                self.state = State::Escape;
                return None;
            }
            _ => return None,
        })
    }

    fn control_sequence(&mut self, byte: u8, first: u8, in_first: bool) -> Option<Key> {
        match byte {
            b'0'..=b'9' if in_first => {
                let first = first.saturating_mul(10).saturating_add(byte - b'0');
                self.state = State::Control { first, in_first };
                None
            }
            // Further parameters and intermediate bytes: nothing that matters here.
            0x20..=0x3f => {
                self.state = State::Control { first, in_first: false };
                None
            }
            _ => {
                self.state = State::Ground;
                match (byte, first) {
                    (b'~', 1 | 7) => Some(Key::Home),
                    (b'~', 4 | 8) => Some(Key::End),
                    (b'~', 3) => Some(Key::Delete),
                    _ => Self::final_byte(byte),
                }
            }
        }
    }

    const fn final_byte(byte: u8) -> Option<Key> {
        Some(match byte {
            b'A' => Key::Up,
            b'B' => Key::Down,
            b'C' => Key::Right,
            b'D' => Key::Left,
            b'H' => Key::Home,
            b'F' => Key::End,
            _ => return None,
        })
    }
}
