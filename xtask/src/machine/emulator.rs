//! A running emulator: its process and the socket that is its first serial port.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process;

/// How long an emulator may take from its start to opening its serial port.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);

/// How often a waiting loop looks again.
const POLL: Duration = Duration::from_millis(20);

/// The listening end of a serial port: the emulator connects to it, so that no line is lost and no port is fought for.
pub(super) struct SerialListener {
    listener: TcpListener,
    port: u16,
}

impl SerialListener {
    pub(super) fn new() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot open a local TCP port")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

/// A running emulator, ended when dropped.
#[derive(Debug)]
pub struct Emulator {
    child: Child,
    serial: TcpStream,
    log: PathBuf,
}

impl Emulator {
    pub(super) fn start(command: Command, listener: &SerialListener, run_dir: &Path) -> Result<Self> {
        let log = run_dir.join("emulator.log");
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = end_with_us(command);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut child = command.spawn().with_context(|| format!("cannot start `{}`", process::line(&command)))?;
        match accept(&listener.listener, &mut child) {
            Ok(serial) => Ok(Self { child, serial, log }),
            Err(error) => {
                kill(&mut child);
                Err(error.context(format!("what the emulator said is in {}", log.display())))
            }
        }
    }

    /// The serial port: what is read comes from the machine, what is written is typed to it.
    pub fn serial(&self) -> Result<TcpStream> {
        self.serial.try_clone().context("cannot share the serial port's socket")
    }

    /// Where the emulator's own messages are.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether the emulator has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("cannot ask for the emulator's state")?.is_some())
    }

    /// Waits for the process to end; at once, where its serial port is closed already.
    pub fn wait(&mut self) -> Result<()> {
        self.child.wait().context("cannot wait for the emulator")?;
        Ok(())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

/// Ends the child and takes its status; both fail only where it has ended already.
fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// The same command, ended by the kernel should this process be killed: an emulator never stays behind.
fn end_with_us(command: Command) -> Command {
    let Some(setpriv) = process::find_program("setpriv") else {
        return command;
    };
    let mut guarded = Command::new(setpriv);
    guarded.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => guarded.env(name, value),
            None => guarded.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        guarded.current_dir(folder);
    }
    guarded
}

fn accept(listener: &TcpListener, child: &mut Child) -> Result<TcpStream> {
    let deadline = Instant::now() + CONNECT_LIMIT;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("cannot accept the emulator's serial port"),
        }
        if let Some(status) = child.try_wait()? {
            bail!("the emulator ended before the machine started ({status})");
        }
        if Instant::now() >= deadline {
            bail!("the emulator did not open its serial port");
        }
        std::thread::sleep(POLL);
    }
}
