//! Every command of the console, in one table: its words, arguments, options, one line of help, and how it is built.

use super::command::{Arguments, Command};
use crate::config::{VmConfig, VmKey};
use crate::vm::Verb;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// What an argument or an option's value is, for completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// The name of a VM that exists.
    Vm,
    /// A file of the ramdisk.
    File,
    /// A command's words.
    Command,
    /// An image format.
    Format,
    /// Anything else.
    Other,
}

/// A positional argument.
pub(super) struct Argument {
    /// Its name in the usage line.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
    /// Whether it takes all words that are left.
    pub(super) rest: bool,
}

/// An option.
pub(super) struct Opt {
    /// With its dashes.
    pub(super) name: &'static str,
    /// The name of its value in the usage line, and what it is. A flag has none.
    pub(super) value: Option<(&'static str, Kind)>,
    pub(super) required: bool,
}

/// A command.
pub(super) struct Spec {
    pub(super) words: &'static [&'static str],
    pub(super) arguments: &'static [Argument],
    pub(super) options: &'static [Opt],
    /// What it does, in one line.
    pub(super) about: &'static str,
    /// Makes the command of what was given. The error says what is wrong, without the command's name.
    pub(super) build: fn(&Arguments) -> Result<Command, String>,
}

impl Spec {
    /// The command's words: `vm list`.
    pub(super) fn name(&self) -> String {
        self.words.join(" ")
    }

    /// The command as it is to be typed.
    pub(super) fn usage(&self) -> String {
        let mut usage = self.name();
        for argument in self.arguments {
            usage += &if argument.required { format!(" {}", argument.name) } else { format!(" [{}]", argument.name) };
        }
        for option in self.options {
            let value = option.value.map_or_else(String::new, |(value, _)| format!(" {value}"));
            usage += &if option.required {
                format!(" {}{value}", option.name)
            } else {
                format!(" [{}{value}]", option.name)
            };
        }
        usage + " [--json]"
    }
}

const VM: &[Argument] = &[Argument { name: "NAME", kind: Kind::Vm, required: true, rest: false }];
const NEW_VM: &[Argument] = &[Argument { name: "NAME", kind: Kind::Other, required: true, rest: false }];
const ANY_VM: &[Argument] = &[Argument { name: "NAME", kind: Kind::Vm, required: false, rest: false }];
const COMMAND: &[Argument] = &[Argument { name: "COMMAND", kind: Kind::Command, required: false, rest: true }];

const TAIL: Opt = Opt { name: "--tail", value: Some(("LINES", Kind::Other)), required: false };
const EXITS: Opt = Opt { name: "--exits", value: Some(("COUNT", Kind::Other)), required: false };
const FORCE: Opt = Opt { name: "--force", value: None, required: false };

/// The options of `vm create`, each with the key of the configuration that it stands for.
const CREATE: &[(Opt, VmKey)] = &[
    (option("--image", "FILE", Kind::File, true), VmKey::Image),
    (option("--memory", "SIZE", Kind::Other, false), VmKey::Memory),
    (option("--cmdline", "TEXT", Kind::Other, false), VmKey::Cmdline),
    (option("--initrd", "FILE", Kind::File, false), VmKey::Initrd),
    (option("--module", "FILE", Kind::File, false), VmKey::Modules),
    (option("--quantum", "TIME", Kind::Other, false), VmKey::Quantum),
    (option("--format", "FORMAT", Kind::Format, false), VmKey::Format),
    (option("--load-address", "ADDRESS", Kind::Other, false), VmKey::LoadAddress),
    (option("--entry", "ADDRESS", Kind::Other, false), VmKey::Entry),
];

const fn option(name: &'static str, value: &'static str, kind: Kind, required: bool) -> Opt {
    Opt { name, value: Some((value, kind)), required }
}

/// The options alone, as a [`Spec`] wants them.
static CREATE_OPTIONS: [Opt; CREATE.len()] = {
    let mut options = [const { option("", "", Kind::Other, false) }; CREATE.len()];
    let mut index = 0;
    while index < CREATE.len() {
        let from = &CREATE[index].0;
        options[index] = Opt { name: from.name, value: from.value, required: from.required };
        index += 1;
    }
    options
};

/// Commands, in the order in which `help` shows them.
pub(super) static COMMANDS: &[Spec] = &[
    Spec {
        words: &["help"],
        arguments: COMMAND,
        options: &[],
        about: "all commands, or one of them",
        build: |given| Ok(Command::Help { command: given.rest() }),
    },
    Spec {
        words: &["vm", "list"],
        arguments: &[],
        options: &[],
        about: "every VM in a line",
        build: |_| Ok(Command::VmList),
    },
    Spec {
        words: &["vm", "info"],
        arguments: VM,
        options: &[],
        about: "all about one VM",
        build: |given| Ok(Command::VmInfo { name: given.first() }),
    },
    Spec {
        words: &["vm", "create"],
        arguments: NEW_VM,
        options: &CREATE_OPTIONS,
        about: "define a VM; 'vm start' runs it",
        build: create,
    },
    Spec {
        words: &["vm", "start"],
        arguments: VM,
        options: &[],
        about: "load the image into clean memory and run it",
        build: |given| verb(given, Verb::Start),
    },
    Spec {
        words: &["vm", "stop"],
        arguments: VM,
        options: &[FORCE],
        about: "press the VM's power button; with --force, end it now",
        build: |given| verb(given, if given.has("--force") { Verb::ForceStop } else { Verb::Stop }),
    },
    Spec {
        words: &["vm", "pause"],
        arguments: VM,
        options: &[],
        about: "let the VM and its time stand still",
        build: |given| verb(given, Verb::Pause),
    },
    Spec {
        words: &["vm", "resume"],
        arguments: VM,
        options: &[],
        about: "let a paused VM go on",
        build: |given| verb(given, Verb::Resume),
    },
    Spec {
        words: &["vm", "reset"],
        arguments: VM,
        options: &[],
        about: "restart the VM as at power-on",
        build: |given| verb(given, Verb::Reset),
    },
    Spec {
        words: &["vm", "destroy"],
        arguments: VM,
        options: &[],
        about: "forget a VM that has ended, and give all it holds back",
        build: |given| verb(given, Verb::Destroy),
    },
    Spec {
        words: &["vm", "console"],
        arguments: VM,
        options: &[],
        about: "type to the VM's serial port; Ctrl-] comes back",
        build: |given| Ok(Command::VmConsole { name: given.first() }),
    },
    Spec {
        words: &["vm", "log"],
        arguments: VM,
        options: &[TAIL],
        about: "what the VM wrote to its serial port",
        build: |given| Ok(Command::VmLog { name: given.first(), tail: tail(given)? }),
    },
    Spec {
        words: &["vm", "trace"],
        arguments: VM,
        options: &[EXITS],
        about: "print the first exits of the next start, to be replayed",
        build: |given| Ok(Command::VmTrace { name: given.first(), exits: exits(given)? }),
    },
    Spec {
        words: &["mem"],
        arguments: &[],
        options: &[],
        about: "who holds the machine's memory",
        build: |_| Ok(Command::Mem),
    },
    Spec {
        words: &["cpu"],
        arguments: &[],
        options: &[],
        about: "the CPU and what of VT-x it has",
        build: |_| Ok(Command::Cpu),
    },
    Spec {
        words: &["sched"],
        arguments: &[],
        options: &[],
        about: "the scheduler: each VM's quantum, runs, time and waits",
        build: |_| Ok(Command::Sched),
    },
    Spec {
        words: &["stats"],
        arguments: ANY_VM,
        options: &[],
        about: "VM exits by reason, of all VMs or one",
        build: |given| Ok(Command::Stats { name: given.rest() }),
    },
    Spec {
        words: &["dmesg"],
        arguments: &[],
        options: &[TAIL],
        about: "Lamina's own log",
        build: |given| Ok(Command::Dmesg { tail: tail(given)? }),
    },
    Spec {
        words: &["version"],
        arguments: &[],
        options: &[],
        about: "which Lamina this is",
        build: |_| Ok(Command::Version),
    },
    Spec {
        words: &["reboot"],
        arguments: &[],
        options: &[],
        about: "restart the machine, VMs and all",
        build: |_| Ok(Command::Reboot),
    },
    Spec {
        words: &["poweroff"],
        arguments: &[],
        options: &[],
        about: "switch the machine off, VMs and all",
        build: |_| Ok(Command::Poweroff),
    },
];

fn verb(given: &Arguments, verb: Verb) -> Result<Command, String> {
    Ok(Command::VmVerb { verb, name: given.first() })
}

fn tail(given: &Arguments) -> Result<Option<usize>, String> {
    given
        .option(TAIL.name)
        .map(|lines| lines.parse().map_err(|_| format!("--tail {lines}: not a number of lines")))
        .transpose()
}

/// What `vm trace` prints unless told otherwise.
const TRACED_EXITS: u32 = 200;

fn exits(given: &Arguments) -> Result<u32, String> {
    let count =
        given.option(EXITS.name).map(|count| count.parse().map_err(|_| format!("--exits {count}: not a number")));
    count.transpose().map(|count| count.unwrap_or(TRACED_EXITS))
}

fn create(given: &Arguments) -> Result<Command, String> {
    let image = given.option("--image").unwrap_or_default();
    let name = given.first();
    let mut vm = VmConfig::new(&name, image).map_err(|error| {
        let name_is_wrong = VmConfig::new("name", image).is_ok();
        if name_is_wrong { format!("{name}: {error}") } else { format!("--image {image}: {error}") }
    })?;
    let settings: Vec<_> = CREATE
        .iter()
        .flat_map(|(option, key)| given.options(option.name).map(move |text| (option, *key, text)))
        .collect();
    for (option, key, text) in settings {
        vm.set(key, text).map_err(|error| format!("{} {text}: {error}", option.name))?;
    }
    vm.check().map_err(|(wrong, error)| {
        let option = CREATE.iter().find(|(_, key)| *key == wrong).map_or("", |(option, _)| option.name);
        format!("{option}: {error}")
    })?;
    Ok(Command::VmCreate(Box::new(vm)))
}

/// The words that may follow `words`, in the table's order, each once.
pub(super) fn next_words(words: &[String]) -> Vec<&'static str> {
    let mut next: Vec<&'static str> = Vec::new();
    for spec in COMMANDS {
        let begun = spec.words.iter().zip(words).all(|(expected, word)| *expected == word.as_str());
        if let (true, Some(word)) = (begun, spec.words.get(words.len()))
            && !next.contains(word)
        {
            next.push(word);
        }
    }
    next
}

/// The command that a line's words begin with.
pub(super) fn find(words: &[String]) -> Option<&'static Spec> {
    COMMANDS
        .iter()
        .find(|spec| spec.words.len() <= words.len() && spec.words.iter().zip(words).all(|(a, b)| *a == b.as_str()))
}

/// The options that every command takes.
pub(super) const JSON: &str = "--json";

/// The image formats, for completion.
pub(super) fn formats() -> Vec<String> {
    ["auto", "linux", "pvh", "multiboot", "flat16", "flat32", "flat64"].map(|name| name.to_string()).to_vec()
}
