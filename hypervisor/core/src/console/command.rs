//! From a line to a [`Command`], or to one line that says what is wrong with it.

use super::table::{self, JSON, Spec};
use super::words;
use crate::config::{VmChange, VmConfig, nearest};
use crate::fault::FaultKind;
use crate::resources::Strategy;
use crate::sched::{CpuSet, PolicyKind};
use crate::vm::{Targets, Verb};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use thiserror::Error;

/// What the operator wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// All commands, or one of them.
    Help {
        /// The words of the one.
        command: Option<String>,
    },
    /// Every VM in a line.
    VmList,
    /// All about one VM.
    VmInfo {
        /// The VM's name.
        name: String,
    },
    /// Define a VM, or all replicas of one ([`VmConfig::expand`]) or none.
    VmCreate(Box<VmConfig>),
    /// Move VMs to another state.
    VmVerb {
        /// How.
        verb: Verb,
        /// Which.
        targets: Targets,
        /// With [`Verb::Stop`], how long to wait for each guest before it is ended, in microseconds; `None` is what the
        /// configuration says.
        grace_us: Option<u64>,
    },
    /// Change what a VM is given, all that is asked or nothing.
    VmSet {
        /// The VM's name.
        name: String,
        /// What to change; never nothing.
        change: Box<VmChange>,
    },
    /// Say on which CPUs a VM may run.
    VmPin {
        /// The VM's name.
        name: String,
        /// Only this vCPU of it.
        vcpu: Option<u16>,
        /// The CPUs.
        cpus: CpuSet,
    },
    /// Attach the terminal to a VM's serial port.
    VmConsole {
        /// The VM's name.
        name: String,
    },
    /// What a VM wrote to its serial port.
    VmLog {
        /// The VM's name.
        name: String,
        /// Only that many lines, the last ones.
        tail: Option<usize>,
    },
    /// What a VM came to grief by.
    VmFaults {
        /// The VM's name.
        name: String,
        /// Show this one in full; the last one unless given.
        number: Option<u64>,
    },
    /// Print a VM's next exits as records.
    VmTrace {
        /// The VM's name.
        name: String,
        /// How many, from its next start on.
        exits: u32,
    },
    /// Who holds the machine's memory.
    Mem,
    /// The CPUs and their capabilities.
    Cpu,
    /// The scheduler's figures.
    Sched,
    /// Schedule by another policy.
    SchedPolicy {
        /// Which.
        policy: PolicyKind,
    },
    /// The allocator: what is there, promised, used and wanted.
    Alloc,
    /// Allocate by another strategy.
    AllocStrategy {
        /// Which.
        strategy: Strategy,
    },
    /// Promise more memory than there is, or no more.
    AllocOvercommit {
        /// How much, in percent of what there is; 100 to 1000.
        percent: u32,
    },
    /// A screen of what goes on, redrawn until a key ends it.
    Top {
        /// Show it once, as text or JSON. Always so with `--json`.
        once: bool,
    },
    /// All there is to know, for machines.
    State,
    /// The running configuration as a `lamina.toml`.
    ConfigSave,
    /// Have the hypervisor panic.
    DebugPanic,
    /// What protects the hypervisor, and what is done against speculative execution.
    Security,
    /// VM exits by reason.
    Stats {
        /// Of this VM only.
        name: Option<String>,
    },
    /// The hypervisor's log.
    Dmesg {
        /// Only that many lines, the last ones.
        tail: Option<usize>,
    },
    /// Which Lamina this is.
    Version,
    /// Do a command with one of its requests for memory refused.
    RefuseFrames {
        /// Which request, from 1 on.
        nth: u64,
        /// The command.
        command: Box<Command>,
    },
    /// Bring a fault about that no guest can.
    InjectFault {
        /// Of this VM.
        name: String,
        /// One of [`FaultKind::INJECTED`].
        kind: FaultKind,
    },
    /// Restart the machine.
    Reboot,
    /// Switch the machine off.
    Poweroff,
}

/// A command, and how its answer is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The command.
    pub command: Command,
    /// Whether the answer is to be JSON.
    pub json: bool,
}

/// Why a line is no command: one line, with what to type instead.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{message}")]
pub struct ParseError {
    /// The line for the operator.
    pub message: String,
    /// Whether the error itself is wanted as JSON.
    pub json: bool,
}

impl Request {
    /// Reads a line; `None` for a blank one.
    ///
    /// # Errors
    /// What is wrong, and how to type it.
    pub fn parse(line: &str) -> Result<Option<Self>, ParseError> {
        let words = words::split(line).map_err(|quote| ParseError {
            message: format!("the quote {quote} is never closed; end the text with {quote}"),
            json: line.split_whitespace().any(|word| word == JSON),
        })?;
        let json = words.iter().any(|word| word == JSON);
        let words: Vec<String> = words.into_iter().filter(|word| word != JSON).collect();
        if words.is_empty() && !json {
            return Ok(None);
        }
        let mut command = command(&words).map_err(|message| ParseError { message, json })?;
        if let (true, Command::Top { once }) = (json, &mut command) {
            *once = true;
        }
        Ok(Some(Self { command, json }))
    }
}

fn command(words: &[String]) -> Result<Command, String> {
    let spec = table::find(words).ok_or_else(|| unknown(words))?;
    let given = words.get(spec.words.len()..).unwrap_or_default();
    // `sched` is a command, and so is `sched policy`: another word behind it is a mistyped one of those.
    if let (true, Some(word)) = (spec.arguments.is_empty(), given.first())
        && !word.starts_with('-')
        && !table::next_words(words.get(..spec.words.len()).unwrap_or_default()).is_empty()
    {
        return Err(unknown(words));
    }
    Arguments::read(spec, given)
        .and_then(|arguments| (spec.build)(&arguments))
        .map_err(|error| format!("{}: {error}; usage: {}", spec.name(), spec.usage()))
}

/// What to say of words that begin no command.
pub(super) fn unknown(words: &[String]) -> String {
    let Some(first) = words.first() else {
        return String::from("a command is missing; 'help' lists them");
    };
    let subcommands = table::next_words(core::slice::from_ref(first));
    if subcommands.is_empty() {
        let near = nearest(first, table::next_words(&[]));
        let hint = near.map_or_else(String::new, |near| format!("did you mean '{near}'? "));
        return format!("unknown command '{}'; {hint}'help' lists all", shown(first));
    }
    let Some(second) = words.get(1) else {
        return format!("{first}: a subcommand is missing; one of {}", subcommands.join(", "));
    };
    match nearest(second, subcommands.iter().copied()) {
        Some(near) => format!("unknown command '{first} {}'; did you mean '{first} {near}'?", shown(second)),
        None => format!(
            "unknown command '{first} {}'; after {first} comes one of {}",
            shown(second),
            subcommands.join(", ")
        ),
    }
}

/// A word of the operator's, safe to repeat on one line.
fn shown(word: &str) -> String {
    word.chars().take(40).flat_map(char::escape_debug).collect()
}

/// What was given after a command's words, checked against its [`Spec`].
pub(super) struct Arguments {
    positional: Vec<String>,
    options: Vec<(&'static str, String)>,
}

impl Arguments {
    fn read(spec: &'static Spec, words: &[String]) -> Result<Self, String> {
        let mut given = Self { positional: Vec::new(), options: Vec::new() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if !word.starts_with("--") {
                given.positional.push(word.clone());
                continue;
            }
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word.as_str(), None),
            };
            let option = spec.options.iter().find(|option| option.name == name).ok_or_else(|| {
                match nearest(name, spec.options.iter().map(|option| option.name)) {
                    Some(near) => format!("unknown option {}, did you mean {near}?", shown(name)),
                    None => format!("unknown option {}", shown(name)),
                }
            })?;
            let value = match (option.value, value) {
                (None, None) => String::new(),
                (None, Some(_)) => return Err(format!("{name} takes no value")),
                (Some(_), Some(value)) => value.to_string(),
                (Some((what, _)), None) => {
                    words.next().cloned().ok_or_else(|| format!("{name}: its {what} is missing"))?
                }
            };
            given.options.push((option.name, value));
        }
        given.complete(spec)?;
        Ok(given)
    }

    /// Checks that all is there that must be, and nothing more.
    fn complete(&self, spec: &Spec) -> Result<(), String> {
        if let Some(missing) = spec.arguments.iter().skip(self.positional.len()).find(|argument| argument.required) {
            return Err(format!("{} is missing", missing.name));
        }
        let takes_rest = spec.arguments.last().is_some_and(|argument| argument.rest);
        if let (false, Some(extra)) = (takes_rest, self.positional.get(spec.arguments.len())) {
            return Err(format!("'{}' is one word too many", shown(extra)));
        }
        match spec.options.iter().find(|option| option.required && self.option(option.name).is_none()) {
            Some(missing) => Err(format!("{} is missing", missing.name)),
            None => Ok(()),
        }
    }

    /// The first argument. Where the table requires it, it is there.
    pub(super) fn first(&self) -> String {
        self.positional.first().cloned().unwrap_or_default()
    }

    /// All arguments.
    pub(super) fn positional(&self) -> &[String] {
        &self.positional
    }

    /// All arguments as one text, if there are any.
    pub(super) fn rest(&self) -> Option<String> {
        (!self.positional.is_empty()).then(|| self.positional.join(" "))
    }

    /// Whether a flag was given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.option(name).is_some()
    }

    /// The value of an option; the last one, where it was given more than once.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        self.options(name).last()
    }

    /// All values of an option.
    pub(super) fn options(&self, name: &str) -> impl DoubleEndedIterator<Item = &str> {
        self.options.iter().filter(move |(given, _)| *given == name).map(|(_, value)| value.as_str())
    }
}
