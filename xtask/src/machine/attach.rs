//! The terminal as the machine's serial console.

use std::fs::File;
use std::io::{IsTerminal, Read, Write, stdin, stdout};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::termios::{self, OptionalActions, OutputModes, Termios};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::Machine;

/// Ctrl-A, and then `x` to leave or Ctrl-A to type one.
const ESCAPE: u8 = 0x01;

/// How often the reading loop looks whether it shall leave.
const LOOK: Duration = Duration::from_millis(100);

/// Boots the machine with the terminal as its console; returns when the machine ends or the user leaves.
pub fn to_terminal(machine: &Machine) -> Result<()> {
    println!("Lamina starts; Ctrl-A x leaves. The first line takes some seconds.");
    let mut emulator = machine.start()?;
    let leave = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&leave)).context("cannot watch for signals")?;
    }
    let terminal = RawTerminal::enter()?;
    let typing = (emulator.serial()?, Arc::clone(&leave));
    std::thread::spawn(move || type_to(typing.0, &typing.1));
    let result = show(emulator.serial()?, &leave, &machine.run_dir.join("serial.log"));
    drop(terminal);
    println!();
    if leave.load(Ordering::SeqCst) {
        println!("left; the emulator is ended");
    } else {
        emulator.wait()?;
        println!("the machine has switched itself off");
    }
    result
}

/// Copies the machine's output to the terminal and to the log.
fn show(mut serial: TcpStream, leave: &AtomicBool, log: &std::path::Path) -> Result<()> {
    let mut log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    serial.set_read_timeout(Some(LOOK))?;
    let mut buffer = [0; 4096];
    let mut screen = stdout();
    while !leave.load(Ordering::SeqCst) {
        match serial.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                log.write_all(bytes)?;
                screen.write_all(bytes)?;
                screen.flush()?;
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            // A reset connection: the emulator has ended.
            Err(_) => break,
        }
    }
    Ok(())
}

/// Copies what is typed to the machine until the user leaves or the terminal is gone.
fn type_to(mut serial: TcpStream, leave: &AtomicBool) {
    let mut keys = Keys::default();
    let mut buffer = [0; 64];
    loop {
        let length = match stdin().read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        for &byte in buffer.get(..length).unwrap_or_default() {
            match keys.press(byte) {
                Key::Nothing => {}
                Key::Leave => return leave.store(true, Ordering::SeqCst),
                Key::Type(byte) => {
                    if serial.write_all(&[byte]).is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// What a key press comes to.
#[derive(Debug, PartialEq, Eq)]
enum Key {
    Nothing,
    Leave,
    Type(u8),
}

/// Whether the escape key was the last.
#[derive(Debug, Default)]
struct Keys {
    escaped: bool,
}

impl Keys {
    fn press(&mut self, byte: u8) -> Key {
        match (std::mem::take(&mut self.escaped), byte) {
            (true, b'x' | b'X') => Key::Leave,
            (false, ESCAPE) => {
                self.escaped = true;
                Key::Nothing
            }
            (_, byte) => Key::Type(byte),
        }
    }
}

/// The terminal in raw mode; the old settings return when this is dropped, whatever the reason.
struct RawTerminal {
    before: Option<Termios>,
}

impl RawTerminal {
    fn enter() -> Result<Self> {
        if !stdin().is_terminal() {
            return Ok(Self { before: None });
        }
        let before = termios::tcgetattr(stdin()).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        // Our own messages and bare line feeds still begin at the left.
        raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        termios::tcsetattr(stdin(), OptionalActions::Now, &raw).context("cannot set the terminal to raw mode")?;
        Ok(Self { before: Some(before) })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = termios::tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_then_x_leaves() {
        let mut keys = Keys::default();
        assert_eq!(keys.press(b'x'), Key::Type(b'x'));
        assert_eq!(keys.press(ESCAPE), Key::Nothing);
        assert_eq!(keys.press(b'x'), Key::Leave);
    }

    #[test]
    fn escape_twice_types_one() {
        let mut keys = Keys::default();
        assert_eq!(keys.press(ESCAPE), Key::Nothing);
        assert_eq!(keys.press(ESCAPE), Key::Type(ESCAPE));
        assert_eq!(keys.press(b'x'), Key::Type(b'x'));
    }
}
