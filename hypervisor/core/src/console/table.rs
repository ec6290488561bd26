//! Every command of the console, in one table: its words, arguments, options, one line of help, and how it is built.

use super::command::{Arguments, Command, Request};
use super::create::{CREATE_OPTIONS, create};
use crate::config::{VCPUS_MAX, ValueError, VmChange, alloc_strategy, grace, overcommit_percent, sched_policy};
use crate::fault::FaultKind;
use crate::vm::{Targets, Verb};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// What an argument or an option's value is, for completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// The name of a VM that exists.
    Vm,
    /// The name of a group that has VMs.
    Group,
    /// Names of VMs and groups, parted by commas.
    Names,
    /// A VM or a vCPU of one: `NAME/VCPU`.
    Vcpu,
    /// A key that `vm set` changes, with its `=`.
    Change,
    /// A scheduling policy.
    Policy,
    /// An allocation strategy.
    Strategy,
    /// A file of the ramdisk.
    File,
    /// A command's words.
    Command,
    /// An image format.
    Format,
    /// What follows a fault.
    OnFault,
    /// A kind of fault that no guest can bring about.
    Injected,
    /// true or false.
    Flag,
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

const fn argument(name: &'static str, kind: Kind) -> Argument {
    Argument { name, kind, required: true, rest: false }
}

pub(super) const fn option(name: &'static str, value: &'static str, kind: Kind, required: bool) -> Opt {
    Opt { name, value: Some((value, kind)), required }
}

const fn switch(name: &'static str) -> Opt {
    Opt { name, value: None, required: false }
}

const VM: &[Argument] = &[argument("NAME", Kind::Vm)];
const NEW_VM: &[Argument] = &[argument("NAME", Kind::Other)];
const ANY_VM: &[Argument] = &[Argument { name: "NAME", kind: Kind::Vm, required: false, rest: false }];
const COMMAND: &[Argument] = &[Argument { name: "COMMAND", kind: Kind::Command, required: false, rest: true }];
const VMS: &[Argument] = &[Argument { name: "NAME...", kind: Kind::Vm, required: false, rest: true }];
const CHANGE: &[Argument] =
    &[argument("NAME", Kind::Vm), Argument { name: "KEY=VALUE...", kind: Kind::Change, required: true, rest: true }];
const FAULT: &[Argument] =
    &[argument("NAME", Kind::Vm), Argument { name: "NUMBER", kind: Kind::Other, required: false, rest: false }];
const PIN: &[Argument] = &[argument("NAME[/VCPU]", Kind::Vcpu), argument("CPUS", Kind::Other)];

const REFUSAL: &[Argument] = &[argument("N", Kind::Other), argument("'COMMAND'", Kind::Other)];
const INJECTION: &[Argument] = &[argument("NAME", Kind::Vm), argument("KIND", Kind::Injected)];

const TAIL: Opt = option("--tail", "LINES", Kind::Other, false);
const EXITS: Opt = option("--exits", "COUNT", Kind::Other, false);
const FORCE: Opt = switch("--force");
const GRACE: Opt = option("--grace", "TIME", Kind::Other, false);
const GROUP: Opt = option("--group", "GROUP", Kind::Group, false);
const ALL: Opt = switch("--all");
const ONCE: Opt = switch("--once");
/// Instead of names.
const MANY: &[Opt] = &[GROUP, ALL];

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
        words: &["vm", "set"],
        arguments: CHANGE,
        options: &[],
        about: "change weight, cap, quantum, priority, memory... while it runs",
        build: set,
    },
    Spec {
        words: &["vm", "pin"],
        arguments: PIN,
        options: &[],
        about: "run the VM, or one vCPU of it, on these CPUs only, as 0-3,5 or all",
        build: pin,
    },
    Spec {
        words: &["vm", "start"],
        arguments: VMS,
        options: MANY,
        about: "load the image into clean memory and run it",
        build: |given| verb(given, Verb::Start),
    },
    Spec {
        words: &["vm", "stop"],
        arguments: VMS,
        options: &[GROUP, ALL, FORCE, GRACE],
        about: "press the power button, end it after a grace; --force: end it now",
        build: stop,
    },
    Spec {
        words: &["vm", "pause"],
        arguments: VMS,
        options: MANY,
        about: "let the VM and its time stand still",
        build: |given| verb(given, Verb::Pause),
    },
    Spec {
        words: &["vm", "resume"],
        arguments: VMS,
        options: MANY,
        about: "let a paused VM go on",
        build: |given| verb(given, Verb::Resume),
    },
    Spec {
        words: &["vm", "reset"],
        arguments: VMS,
        options: MANY,
        about: "restart the VM as at power-on",
        build: |given| verb(given, Verb::Reset),
    },
    Spec {
        words: &["vm", "destroy"],
        arguments: VMS,
        options: MANY,
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
        words: &["vm", "faults"],
        arguments: FAULT,
        options: &[],
        about: "what a VM came to grief by: its last faults, one of them in full",
        build: faults,
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
        about: "the CPUs and what of VT-x they have",
        build: |_| Ok(Command::Cpu),
    },
    Spec {
        words: &["security"],
        arguments: &[],
        options: &[],
        about: "protections and mitigations, each with its reason",
        build: |_| Ok(Command::Security),
    },
    Spec {
        words: &["sched"],
        arguments: &[],
        options: &[],
        about: "the scheduler: shares against what is due, waits, latencies",
        build: |_| Ok(Command::Sched),
    },
    Spec {
        words: &["sched", "policy"],
        arguments: &[argument("POLICY", Kind::Policy)],
        options: &[],
        about: "schedule by fair, round-robin, fcfs or priority from now on",
        build: |given| Ok(Command::SchedPolicy { policy: named(given, sched_policy)? }),
    },
    Spec {
        words: &["alloc"],
        arguments: &[],
        options: &[],
        about: "the allocator: what there is, reserved, used and wanted",
        build: |_| Ok(Command::Alloc),
    },
    Spec {
        words: &["alloc", "strategy"],
        arguments: &[argument("STRATEGY", Kind::Strategy)],
        options: &[],
        about: "allocate by need, priority, utilization or capacity from now on",
        build: |given| Ok(Command::AllocStrategy { strategy: named(given, alloc_strategy)? }),
    },
    Spec {
        words: &["alloc", "overcommit"],
        arguments: &[argument("RATIO", Kind::Other)],
        options: &[],
        about: "promise this much memory for each byte there is; 1 is none",
        build: |given| Ok(Command::AllocOvercommit { percent: named(given, overcommit_percent)? }),
    },
    Spec {
        words: &["top"],
        arguments: &[],
        options: &[ONCE],
        about: "a live screen of CPUs and VMs; q or Ctrl-C leaves it",
        build: |given| Ok(Command::Top { once: given.has(ONCE.name) }),
    },
    Spec {
        words: &["state"],
        arguments: &[],
        options: &[],
        about: "all there is to know; with --json, in the schema of docs/STATE.md",
        build: |_| Ok(Command::State),
    },
    Spec {
        words: &["config", "save"],
        arguments: &[],
        options: &[],
        about: "print the running configuration as a lamina.toml",
        build: |_| Ok(Command::ConfigSave),
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
        words: &["debug", "refuse"],
        arguments: REFUSAL,
        options: &[],
        about: "do a command on VMs with its Nth request for memory refused",
        build: refusal,
    },
    Spec {
        words: &["debug", "fault"],
        arguments: INJECTION,
        options: &[],
        about: "bring a fault about that no guest can, at the VM's next entry",
        build: injection,
    },
    Spec {
        words: &["reboot"],
        arguments: &[],
        options: &[],
        about: "restart the machine, VMs and all",
        build: |_| Ok(Command::Reboot),
    },
    Spec {
        words: &["debug", "panic"],
        arguments: &[],
        options: &[],
        about: "have the hypervisor panic, to see what it tells then",
        build: |_| Ok(Command::DebugPanic),
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
    Ok(Command::VmVerb { verb, targets: targets(given)?, grace_us: None })
}

fn refusal(given: &Arguments) -> Result<Command, String> {
    let nth = given.first();
    let nth = nth
        .parse()
        .ok()
        .filter(|&nth| nth > 0)
        .ok_or_else(|| format!("{nth}: not the number of a request, from 1 on"))?;
    let line = given.positional().get(1).map_or("", String::as_str);
    match Request::parse(line).map_err(|error| error.message)? {
        Some(Request { command: command @ (Command::VmCreate(_) | Command::VmVerb { .. }), .. }) => {
            Ok(Command::RefuseFrames { nth, command: Box::new(command) })
        }
        _ => Err(format!("'{line}': not a command that changes VMs; write one in quotes, as in 'vm start web'")),
    }
}

fn injection(given: &Arguments) -> Result<Command, String> {
    let kind = given.positional().get(1).map_or("", String::as_str);
    let named = FaultKind::INJECTED.into_iter().find(|injected| injected.name() == kind);
    let kind = named.ok_or_else(|| {
        let names = FaultKind::INJECTED.map(FaultKind::name).join(", ");
        format!("{}: not one of {names}", kind.escape_debug())
    })?;
    Ok(Command::InjectFault { name: given.first(), kind })
}

fn stop(given: &Arguments) -> Result<Command, String> {
    let targets = targets(given)?;
    let grace_us = given
        .option(GRACE.name)
        .map(|text| grace(text).map_err(|error| format!("--grace {}: {error}", text.escape_debug())))
        .transpose()?;
    match (given.has(FORCE.name), grace_us) {
        (true, Some(_)) => Err(String::from("--force waits for nothing; leave it or --grace out")),
        (true, None) => Ok(Command::VmVerb { verb: Verb::ForceStop, targets, grace_us: None }),
        (false, _) => Ok(Command::VmVerb { verb: Verb::Stop, targets, grace_us }),
    }
}

/// Names, or a group, or all: one of the three.
fn targets(given: &Arguments) -> Result<Targets, String> {
    let names = given.positional();
    match (names.is_empty(), given.option(GROUP.name), given.has(ALL.name)) {
        (false, None, false) => Ok(Targets::Names(names.to_vec())),
        (true, Some(group), false) => Ok(Targets::Group(group.into())),
        (true, None, true) => Ok(Targets::All),
        (true, None, false) => Err(String::from("NAME is missing; or give --group GROUP, or --all")),
        _ => Err(String::from("give names, or --group GROUP, or --all, and only one of them")),
    }
}

fn set(given: &Arguments) -> Result<Command, String> {
    let words = given.positional().iter().skip(1).map(String::as_str);
    Ok(Command::VmSet { name: given.first(), change: Box::new(VmChange::parse(words)?) })
}

fn pin(given: &Arguments) -> Result<Command, String> {
    let target = given.first();
    let (name, vcpu) = match target.split_once('/') {
        None => (target.as_str(), None),
        Some((name, index)) => {
            let index = index.parse().ok().filter(|&index| index < VCPUS_MAX);
            let wrong = || format!("{}: a vCPU is NAME/0 to NAME/{}", target.escape_debug(), VCPUS_MAX - 1);
            (name, Some(index.ok_or_else(wrong)?))
        }
    };
    let text = given.positional().get(1).map_or("", String::as_str);
    let cpus = text.parse().map_err(|error| format!("{}: {error}", text.escape_debug()))?;
    Ok(Command::VmPin { name: name.into(), vcpu, cpus })
}

/// The thing that the only argument names.
fn named<T>(given: &Arguments, find: fn(&str) -> Result<T, ValueError>) -> Result<T, String> {
    let name = given.first();
    find(&name).map_err(|error| format!("{}: {error}", name.escape_debug()))
}

fn tail(given: &Arguments) -> Result<Option<usize>, String> {
    given
        .option(TAIL.name)
        .map(|lines| lines.parse().map_err(|_| format!("--tail {lines}: not a number of lines")))
        .transpose()
}

fn faults(given: &Arguments) -> Result<Command, String> {
    let number = given
        .positional()
        .get(1)
        .map(|number| number.parse().map_err(|_| format!("{}: not the number of a fault", number.escape_debug())));
    Ok(Command::VmFaults { name: given.first(), number: number.transpose()? })
}

/// What `vm trace` prints unless told otherwise.
const TRACED_EXITS: u32 = 200;

fn exits(given: &Arguments) -> Result<u32, String> {
    let count =
        given.option(EXITS.name).map(|count| count.parse().map_err(|_| format!("--exits {count}: not a number")));
    count.transpose().map(|count| count.unwrap_or(TRACED_EXITS))
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

/// The command that a line's words begin with; of `sched` and `sched policy` the longer one.
pub(super) fn find(words: &[String]) -> Option<&'static Spec> {
    COMMANDS
        .iter()
        .filter(|spec| spec.words.len() <= words.len() && spec.words.iter().zip(words).all(|(a, b)| *a == b.as_str()))
        .max_by_key(|spec| spec.words.len())
}

/// The option that every command takes.
pub(super) const JSON: &str = "--json";
