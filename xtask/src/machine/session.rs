//! A conversation with a machine over its serial line: wait for text, type, wait again.
//!
//! A thread of its own reads the line, so nothing is lost while nobody waits. Waiting ends at the text, at the end of
//! the machine, or at the wall-clock limit that catches a hung emulator.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use regex::Regex;

use super::{Emulator, Machine};

/// What the console of Lamina prints when it waits for a command.
pub const PROMPT: &str = "lamina> ";

/// How the last line begins that Lamina prints when it is wrong itself; nothing else comes then, or another boot.
const PANIC_END: &str = "*** the machine ";

/// How much of a command's end is waited for as its echo. The console's line editor scrolls a line that is wider than its
/// terminal, so the beginning of a long one is not echoed in one piece.
const ECHO_CHARS: usize = 20;

/// How much of the serial log an error shows.
const TAIL_LINES: usize = 40;

/// A running machine and everything it has said.
#[derive(Debug)]
pub struct Session {
    emulator: Emulator,
    serial: TcpStream,
    transcript: Arc<Transcript>,
    /// Up to where the text has been waited for.
    seen: usize,
    deadline: Instant,
    log: PathBuf,
}

/// What to wait for.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// This text.
    Text(String),
    /// The first match of this expression.
    Regex(Regex),
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Pattern {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Regex> for Pattern {
    fn from(regex: Regex) -> Self {
        Self::Regex(regex)
    }
}

impl Pattern {
    /// Where in the text it stands.
    fn find(&self, text: &str) -> Option<std::ops::Range<usize>> {
        match self {
            Self::Text(wanted) => text.find(wanted.as_str()).map(|start| start..start + wanted.len()),
            Self::Regex(regex) => regex.find(text).map(|found| found.range()),
        }
    }
}

/// The text so far, filled by the reading thread.
#[derive(Debug, Default)]
struct Transcript {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    text: String,
    escape: Escape,
    /// The start of a character whose rest has not come yet.
    rest: Vec<u8>,
    ended: bool,
}

/// Where in a terminal's escape sequence the text is (ECMA-48, "Control functions").
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    /// In none.
    #[default]
    None,
    /// After ESC.
    Begun,
    /// After ESC and `[`, before the final character.
    Control,
}

impl State {
    /// Adds what says something: colours, cursor movements and carriage returns are left out.
    fn add(&mut self, text: &str) {
        for c in text.chars() {
            self.escape = match (self.escape, c) {
                (_, '\x1b') => Escape::Begun,
                (Escape::Begun, '[') => Escape::Control,
                (Escape::Control, '\x20'..='\x3f') => Escape::Control,
                (Escape::Begun | Escape::Control, _) => Escape::None,
                (Escape::None, '\r') => Escape::None,
                (Escape::None, c) => {
                    self.text.push(c);
                    Escape::None
                }
            };
        }
    }
}

impl Transcript {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, bytes: &[u8]) {
        let mut state = self.lock();
        state.rest.extend_from_slice(bytes);
        let rest = std::mem::take(&mut state.rest);
        let mut at = 0;
        for chunk in rest.utf8_chunks() {
            at += chunk.valid().len() + chunk.invalid().len();
            state.add(chunk.valid());
            let invalid = chunk.invalid();
            let unfinished = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if at == rest.len() && unfinished {
                state.rest = invalid.to_vec();
            } else if !invalid.is_empty() {
                state.add("\u{fffd}");
            }
        }
        self.changed.notify_all();
    }

    fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }
}

impl Session {
    /// Starts the machine and begins to listen; the whole conversation may take `limit` of wall-clock time. Everything
    /// heard is also written to `serial.log` in the run's folder and, where given, to `copy`.
    pub fn start(machine: &Machine, limit: Duration, copy: Option<Box<dyn Write + Send>>) -> Result<Self> {
        let log = machine.run_dir.join("serial.log");
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let emulator = machine.start()?;
        let serial = emulator.serial()?;
        let transcript = Arc::new(Transcript::default());
        let listener = (emulator.serial()?, Arc::clone(&transcript));
        std::thread::spawn(move || listen(listener.0, &listener.1, file, copy));
        Ok(Self { emulator, serial, transcript, seen: 0, deadline: Instant::now() + limit, log })
    }

    /// Waits for the pattern in what has not been waited for yet, and returns the text up to its end.
    pub fn expect(&mut self, pattern: impl Into<Pattern>) -> Result<String> {
        let pattern = pattern.into();
        match self.wait_for(|text| pattern.find(text).map(|found| found.end))? {
            Wait::Found(text) => Ok(text),
            Wait::Ended => bail!("the machine ended without {}{}", describe(&pattern), self.tail()),
            Wait::Panicked => bail!("Lamina panicked{}", self.tail()),
            Wait::TimedOut => bail!("no {} within the time limit{}", describe(&pattern), self.tail()),
        }
    }

    /// Types a line.
    pub fn send(&mut self, line: &str) -> Result<()> {
        self.send_bytes(format!("{line}\r").as_bytes())
    }

    /// Types these bytes.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.serial.write_all(bytes).with_context(|| format!("cannot type to the machine{}", self.tail()))
    }

    /// Types a console command and returns its reply: everything between the echo of the command and the next prompt.
    pub fn command(&mut self, command: &str) -> Result<String> {
        self.send(command)?;
        self.expect(format!("{}\n", echoed_end(command)))?;
        let reply = self.expect(PROMPT)?;
        Ok(reply.strip_suffix(PROMPT).unwrap_or(&reply).to_owned())
    }

    /// Waits until the machine has switched itself off; what it said until then is returned.
    pub fn wait_end(&mut self) -> Result<String> {
        match self.wait_for(|_| None)? {
            Wait::TimedOut => bail!("the machine did not end within the time limit{}", self.tail()),
            Wait::Panicked => bail!("Lamina panicked{}", self.tail()),
            Wait::Found(text) => Ok(text),
            Wait::Ended => {
                self.emulator.wait()?;
                let state = self.transcript.lock();
                let text = state.text.get(self.seen..).unwrap_or_default().to_owned();
                self.seen = state.text.len();
                Ok(text)
            }
        }
    }

    /// Sets the wall-clock limit to this long from now.
    pub fn extend(&mut self, limit: Duration) {
        self.deadline = Instant::now() + limit;
    }

    /// Switches the machine off by the console's command and waits for its end.
    pub fn power_off(&mut self) -> Result<()> {
        self.send("poweroff")?;
        self.wait_end()?;
        Ok(())
    }

    /// Everything heard so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.transcript.lock().text.clone()
    }

    /// Waits for more text than `length` bytes and returns it all; `None` when there will be none: the machine has
    /// ended, or the time is up.
    #[must_use]
    pub fn more_than(&self, length: usize) -> Option<String> {
        let mut state = self.transcript.lock();
        while state.text.len() <= length {
            let left = self.deadline.checked_duration_since(Instant::now()).filter(|_| !state.ended)?;
            state = self.transcript.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(state.text.clone())
    }

    /// Whether the machine has ended (else, after [`Self::more_than`] gave nothing, the time is up).
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.transcript.lock().ended
    }

    /// Where the whole serial log is.
    #[must_use]
    pub fn log(&self) -> &std::path::Path {
        &self.log
    }

    /// Where the emulator's own messages are.
    #[must_use]
    pub fn emulator_log(&self) -> &std::path::Path {
        self.emulator.log()
    }

    /// The end of the serial log, for an error message.
    fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        let shown: String = lines.iter().skip(from).map(|line| format!("  | {line}\n")).collect();
        format!(
            "; the serial log ends with:\n{shown}  (the whole log: {}; the emulator's: {})",
            self.log.display(),
            self.emulator.log().display()
        )
    }

    /// Waits until `end_of` finds the end of something in the text not yet seen, and moves past it.
    fn wait_for(&mut self, end_of: impl Fn(&str) -> Option<usize>) -> Result<Wait> {
        let mut state = self.transcript.lock();
        loop {
            let fresh = state.text.get(self.seen..).context("the transcript shrank")?;
            if let Some(end) = end_of(fresh) {
                let text = fresh.get(..end).unwrap_or(fresh).to_owned();
                self.seen += end;
                return Ok(Wait::Found(text));
            }
            if state.ended {
                return Ok(Wait::Ended);
            }
            // The whole line: who waits for a panic waits for what it says.
            if fresh.lines().any(|line| line.starts_with(PANIC_END)) && fresh.ends_with('\n') {
                return Ok(Wait::Panicked);
            }
            let Some(left) = self.deadline.checked_duration_since(Instant::now()) else {
                return Ok(Wait::TimedOut);
            };
            state = self.transcript.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The end of a command, as the console echoes it whatever the command's length.
fn echoed_end(command: &str) -> &str {
    command
        .char_indices()
        .rev()
        .nth(ECHO_CHARS - 1)
        .map_or(command, |(start, _)| command.get(start..).unwrap_or(command))
}

enum Wait {
    Found(String),
    Ended,
    TimedOut,
    Panicked,
}

fn describe(pattern: &Pattern) -> String {
    match pattern {
        Pattern::Text(text) => format!("text {text:?}"),
        Pattern::Regex(regex) => format!("match of /{regex}/"),
    }
}

fn listen(mut serial: TcpStream, transcript: &Transcript, mut log: File, mut copy: Option<Box<dyn Write + Send>>) {
    let mut buffer = [0; 4096];
    // A reset connection is how an emulator that was ended looks from here: the end, like an orderly one.
    while let Ok(length @ 1..) = serial.read(&mut buffer) {
        let bytes = buffer.get(..length).unwrap_or_default();
        // A full disk or a closed terminal must not stop the conversation.
        let _ = log.write_all(bytes);
        if let Some(copy) = &mut copy {
            let _ = copy.write_all(bytes).and_then(|()| copy.flush());
        }
        transcript.push(bytes);
    }
    transcript.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript(parts: &[&[u8]]) -> String {
        let transcript = Transcript::default();
        for part in parts {
            transcript.push(part);
        }
        transcript.lock().text.clone()
    }

    #[test]
    fn characters_split_between_reads_are_joined() {
        assert_eq!(transcript(&[b"caf\xc3", b"\xa9\r\n"]), "café\n");
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        assert_eq!(transcript(&[b"a\xffb", b"\xc3", b"c"]), "a\u{fffd}b\u{fffd}c");
    }

    #[test]
    fn escape_sequences_are_left_out() {
        assert_eq!(transcript(&[b"\x1b[1;31mred\x1b[0m\r\x1b", b"[Kend \x1b7x"]), "redend x");
    }

    #[test]
    fn the_echo_waited_for_is_the_end_of_a_long_command() {
        assert_eq!(echoed_end("state"), "state");
        assert_eq!(echoed_end("0123456789é123456789"), "0123456789é123456789");
        assert_eq!(echoed_end("x0123456789é123456789"), "0123456789é123456789");
    }

    #[test]
    fn patterns_find_their_place() {
        assert_eq!(Pattern::from("b").find("abc"), Some(1..2));
        assert_eq!(Pattern::from(Regex::new("b+").unwrap()).find("abbc"), Some(1..3));
        assert_eq!(Pattern::from("x").find("abc"), None);
    }
}
