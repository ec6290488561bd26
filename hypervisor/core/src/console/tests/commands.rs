//! From lines to commands, help and completion: all from one table.

use crate::config::{ModuleConfig, VmChange, VmConfig};
use crate::console::complete::{CommandCompleter, Names};
use crate::console::editor::Completer;
use crate::console::table::{COMMANDS, Kind};
use crate::console::{Command, Request, help};
use crate::fault::{FaultKind, OnFault, RestartLimit};
use crate::loader::Format;
use crate::resources::Strategy;
use crate::sched::PolicyKind;
use crate::vm::{Targets, Verb};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use proptest::prelude::{prop_assert, proptest};

fn command(line: &str) -> Command {
    let request = Request::parse(line).unwrap_or_else(|error| panic!("{line}: {error}")).unwrap();
    assert!(!request.json);
    request.command
}

fn error(line: &str) -> String {
    Request::parse(line).expect_err(line).to_string()
}

#[test]
fn every_command() {
    let name = || String::from("web");
    let names = || Targets::Names([name()].into());
    let verb = |verb| Command::VmVerb { verb, targets: names(), grace_us: None };
    let stop = |targets, grace_us| Command::VmVerb { verb: Verb::Stop, targets, grace_us };
    let two = Targets::Names(["web".into(), "db".into()].into());
    let change = VmChange { weight: Some(200), cap_percent: Some(None), ..VmChange::default() };
    let pin = |vcpu, cpus: &str| Command::VmPin { name: name(), vcpu, cpus: cpus.parse().unwrap() };
    for (line, expected) in [
        ("help", Command::Help { command: None }),
        ("help vm create", Command::Help { command: Some("vm create".into()) }),
        ("  vm   list ", Command::VmList),
        ("vm info web", Command::VmInfo { name: name() }),
        ("vm start web", verb(Verb::Start)),
        ("vm stop web", verb(Verb::Stop)),
        ("vm stop web --force", verb(Verb::ForceStop)),
        ("vm stop --force web", verb(Verb::ForceStop)),
        ("vm pause web", verb(Verb::Pause)),
        ("vm resume web", verb(Verb::Resume)),
        ("vm reset 'web'", verb(Verb::Reset)),
        ("vm destroy web", verb(Verb::Destroy)),
        ("vm stop web db", stop(two, None)),
        ("vm stop --group web --grace 10s", stop(Targets::Group("web".into()), Some(10_000_000))),
        ("vm stop --all", stop(Targets::All, None)),
        ("vm set web weight=200 cap=none", Command::VmSet { name: name(), change: Box::new(change) }),
        ("vm pin web 0-3,5", pin(None, "0-3,5")),
        ("vm pin web/2 all", pin(Some(2), "all")),
        ("sched policy round-robin", Command::SchedPolicy { policy: PolicyKind::RoundRobin }),
        ("alloc", Command::Alloc),
        ("alloc strategy capacity", Command::AllocStrategy { strategy: Strategy::Capacity }),
        ("alloc overcommit 1.5", Command::AllocOvercommit { percent: 150 }),
        ("top --once", Command::Top { once: true }),
        ("state", Command::State),
        ("config save", Command::ConfigSave),
        ("vm console web", Command::VmConsole { name: name() }),
        ("vm trace web", Command::VmTrace { name: name(), exits: 200 }),
        ("vm trace web --exits 3", Command::VmTrace { name: name(), exits: 3 }),
        ("vm log web", Command::VmLog { name: name(), tail: None }),
        ("vm faults web", Command::VmFaults { name: name(), number: None }),
        ("vm faults web 3", Command::VmFaults { name: name(), number: Some(3) }),
        ("vm log web --tail 20", Command::VmLog { name: name(), tail: Some(20) }),
        ("mem", Command::Mem),
        ("cpu", Command::Cpu),
        ("security", Command::Security),
        ("debug panic", Command::DebugPanic),
        ("debug fault web host", Command::InjectFault { name: name(), kind: FaultKind::Host }),
        ("sched", Command::Sched),
        ("stats", Command::Stats { name: None }),
        ("stats web", Command::Stats { name: Some(name()) }),
        ("dmesg", Command::Dmesg { tail: None }),
        ("dmesg --tail=5", Command::Dmesg { tail: Some(5) }),
        ("version", Command::Version),
        ("debug refuse 3 'vm start web'", Command::RefuseFrames { nth: 3, command: Box::new(verb(Verb::Start)) }),
        ("reboot", Command::Reboot),
        ("poweroff", Command::Poweroff),
    ] {
        assert_eq!(command(line), expected, "{line}");
        let with_json = Request::parse(&format!("{line} --json")).unwrap().unwrap();
        assert_eq!(with_json, Request { command: expected, json: true });
    }
}

#[test]
fn a_vm_is_created_with_the_keys_of_the_configuration() {
    assert_eq!(
        command("vm create web --image hello"),
        Command::VmCreate(Box::new(VmConfig::new("web", "hello").unwrap()))
    );
    let mut vm = VmConfig::new("web", "boot.bin").unwrap();
    vm.memory_bytes = 32 << 20;
    vm.cmdline = "console=ttyS0 quiet".into();
    vm.initrd = Some("initrd".into());
    vm.quantum_us = 500;
    vm.format = Format::Flat64;
    vm.load_address = Some(0x20_0000);
    vm.entry = Some(0x20_0040);
    let module = |file: &str, cmdline: &str| ModuleConfig { file: file.into(), cmdline: cmdline.into() };
    vm.modules = [module("m", "x y"), module("n", "")].into();
    let line = "vm create --image boot.bin web --memory 32M --cmdline \"console=ttyS0 quiet\" --initrd initrd --quantum 500us \
                --format flat64 --load-address 0x200000 --entry=0x200040 --module 'm x y' --module n";
    assert_eq!(command(line), Command::VmCreate(Box::new(vm)));
}

#[test]
fn a_vm_is_created_with_its_share_and_its_replicas() {
    let mut vm = VmConfig::new("web", "hello").unwrap();
    vm.replicas = 3;
    vm.vcpus = 2;
    vm.memory_bytes = 64 << 20;
    vm.memory_min_bytes = Some(32 << 20);
    vm.memory_max_bytes = Some(128 << 20);
    vm.balloon = false;
    vm.weight = 200;
    vm.cap_percent = Some(150);
    vm.reservation_percent = 50;
    vm.priority = 70;
    vm.affinity = "0-1".parse().unwrap();
    vm.group = Some("front".into());
    vm.after = ["db".into(), "cache".into(), "log".into()].into();
    vm.stop_grace_us = Some(5_000_000);
    vm.on_fault = OnFault::Restart;
    vm.restart_limit = RestartLimit { restarts: 5, within_us: 90_000_000 };
    vm.access_loop = None;
    let line = "vm create web --image hello --replicas 3 --vcpus 2 --memory 64M --memory-min 32M --memory-max 128M \
                --balloon false --weight 200 --cap 150% --reservation 50 --priority 70 --affinity 0-1 --group front \
                --after db,cache --after log --stop-grace 5s --on-fault restart --restart-limit '5 in 90s' --access-loop none";
    let created = command(line);
    assert_eq!(created, Command::VmCreate(Box::new(vm.clone())));
    let replicas = vm.expand();
    let names: Vec<&str> = replicas.iter().map(|vm| vm.name.as_str()).collect();
    assert_eq!(names, ["web-1", "web-2", "web-3"]);
    assert!(replicas.iter().all(|replica| replica.replicas == 1 && replica.memory_bytes == 64 << 20));
}

#[test]
fn a_live_screen_is_no_json() {
    assert_eq!(command("top"), Command::Top { once: false });
    let json = Request::parse("top --json").unwrap().unwrap();
    assert_eq!(json, Request { command: Command::Top { once: true }, json: true });
}

#[test]
fn blank_lines_are_nothing() {
    assert_eq!(Request::parse(""), Ok(None));
    assert_eq!(Request::parse(" \t"), Ok(None));
}

#[test]
fn an_error_says_what_to_type() {
    let create = "usage: vm create NAME --image FILE [--replicas N] [--vcpus N] [--memory SIZE] [--memory-min SIZE] \
                  [--memory-max SIZE] [--balloon BOOL] [--steal-time BOOL] [--cmdline TEXT] [--initrd FILE] [--module FILE] \
                  [--quantum TIME] [--weight N] [--cap PERCENT] [--reservation PERCENT] [--priority N] \
                  [--affinity CPUS] [--group GROUP] [--after NAMES] [--stop-grace TIME] [--on-fault POLICY] \
                  [--restart-limit 'N in TIME'] [--access-loop COUNT] [--watchdog TIME] [--format FORMAT] \
                  [--load-address ADDRESS] [--entry ADDRESS] [--json]";
    let start = "usage: vm start [NAME...] [--group GROUP] [--all] [--json]";
    let stop = "usage: vm stop [NAME...] [--group GROUP] [--all] [--force] [--grace TIME] [--json]";
    let set = "usage: vm set NAME KEY=VALUE... [--json]";
    let refuse = "usage: debug refuse N 'COMMAND' [--json]";
    let pin = "usage: vm pin NAME[/VCPU] CPUS [--json]";
    let cases: &[(&str, String)] = &[
        ("hlep", "unknown command 'hlep'; did you mean 'help'? 'help' lists all".into()),
        ("quux", "unknown command 'quux'; 'help' lists all".into()),
        ("--json", "a command is missing; 'help' lists them".into()),
        ("vm lsit", "unknown command 'vm lsit'; did you mean 'vm list'?".into()),
        ("vm", "vm: a subcommand is missing; one of list, info, create, set, pin, start, stop, pause, resume, reset, destroy, console, log, faults, trace".into()),
        ("vm start", format!("vm start: NAME is missing; or give --group GROUP, or --all; {start}")),
        ("vm start a --all", format!("vm start: give names, or --group GROUP, or --all, and only one of them; {start}")),
        ("vm stop web --froce", format!("vm stop: unknown option --froce, did you mean --force?; {stop}")),
        ("vm stop web --force=1", format!("vm stop: --force takes no value; {stop}")),
        ("vm stop web --force --grace 1s", format!("vm stop: --force waits for nothing; leave it or --grace out; {stop}")),
        ("vm stop web --grace 10", format!("vm stop: --grace 10: not a time; write a number with us, ms or s, such as \"10ms\"; {stop}")),
        ("vm stop web --grace 2000000s", format!("vm stop: --grace 2000000s: a grace time is 0s to 3600s; {stop}")),
        ("vm set web", format!("vm set: KEY=VALUE... is missing; {set}")),
        ("vm set web fast", format!("vm set: fast: write KEY=VALUE, such as weight=200; {set}")),
        ("vm set web weigth=2", format!("vm set: unknown key weigth, did you mean weight?; {set}")),
        ("vm set web speed=2", format!("vm set: unknown key speed; allowed are weight, cap, quantum, priority, reservation, affinity, memory, stop_grace, on_fault, restart_limit, watchdog; {set}")),
        ("vm set web vcpus=2", format!("vm set: vcpus cannot be changed once the VM is defined; what can is weight, cap, quantum, priority, reservation, affinity, memory, stop_grace, on_fault, restart_limit, watchdog; {set}")),
        ("vm set web weight=5 cap=0", format!("vm set: cap=0: a cap is 1 to 6400; {set}")),
        ("vm set web priority=100", format!("vm set: priority=100: a priority is 0 to 99; {set}")),
        ("vm pin web 4-2", format!("vm pin: 4-2: a range begins with its lower CPU, as in 0-3; {pin}")),
        ("vm pin web/64 1", format!("vm pin: web/64: a vCPU is NAME/0 to NAME/63; {pin}")),
        ("vm pin web", format!("vm pin: CPUS is missing; {pin}")),
        ("sched polcy fair", "unknown command 'sched polcy'; did you mean 'sched policy'?".into()),
        ("sched policy fiar", "sched policy: fiar: not one of fair, round-robin, fcfs, priority; usage: sched policy POLICY [--json]".into()),
        ("alloc strategy", "alloc strategy: STRATEGY is missing; usage: alloc strategy STRATEGY [--json]".into()),
        ("alloc overcommit 0.5", "alloc overcommit: 0.5: overcommit is 1.0 (none) to 10.0; usage: alloc overcommit RATIO [--json]".into()),
        ("config", "config: a subcommand is missing; one of save".into()),
        ("vm log web --tail", "vm log: --tail: its LINES is missing; usage: vm log NAME [--tail LINES] [--json]".into()),
        ("vm log web --tail many", "vm log: --tail many: not a number of lines; usage: vm log NAME [--tail LINES] [--json]".into()),
        ("vm faults web last", "vm faults: last: not the number of a fault; usage: vm faults NAME [NUMBER] [--json]".into()),
        ("vm set web on_fault=reboot", format!("vm set: on_fault=reboot: not one of restart, stop, pause, preserve; {set}")),
        ("mem web", "mem: 'web' is one word too many; usage: mem [--json]".into()),
        ("vm create web", format!("vm create: --image is missing; {create}")),
        ("vm create Web --image i", format!("vm create: Web: not a VM name; write a-z, 0-9 and -, at most 31 characters, the first a letter or digit; {create}")),
        ("vm create web --image /i", format!("vm create: --image /i: not a file of the ramdisk; write its path as in \"linux/vmlinuz\", without a leading / and without ..; {create}")),
        ("vm create web --image i --memory 12Q", format!("vm create: --memory 12Q: not a size; write a number with K, M or G, such as \"64M\"; {create}")),
        ("vm create web --image i --entry 1", format!("vm create: --entry: only a flat image has it; give the format flat16, flat32 or flat64, or leave this out; {create}")),
        ("debug refuse 0 'vm start web'", format!("debug refuse: 0: not the number of a request, from 1 on; {refuse}")),
        ("debug refuse 1 mem", format!("debug refuse: 'mem': not a command that changes VMs; write one in quotes, as in 'vm start web'; {refuse}")),
        ("debug fault web triple-fault", "debug fault: triple-fault: not one of invalid-guest-state, entry-failure, unhandled-exit, ept-misconfiguration, machine-check, host; usage: debug fault NAME KIND [--json]".into()),
        ("vm create 'web", "the quote ' is never closed; end the text with '".into()),
    ];
    for (line, expected) in cases {
        assert_eq!(&error(line), expected, "{line}");
    }
    assert!(Request::parse("vm start --json").unwrap_err().json);
    assert!(!Request::parse("vm start").unwrap_err().json);
    assert!(Request::parse("vm start 'a --json").unwrap_err().json);
}

#[test]
fn help_is_the_table() {
    let all = help(None).unwrap();
    assert_eq!(all.commands.len(), COMMANDS.len());
    assert_eq!(help(Some("vm")).unwrap().commands.len(), 15);
    let one = help(Some("vm stop")).unwrap();
    assert_eq!(one.commands[0].usage, "vm stop [NAME...] [--group GROUP] [--all] [--force] [--grace TIME] [--json]");
    assert_eq!(help(Some("vm stpo")).unwrap_err(), "unknown command 'vm stpo'; did you mean 'vm stop'?");
    assert!(help(Some("vm stop now")).is_err());
}

#[test]
fn what_the_usage_line_promises_parses() {
    for spec in COMMANDS {
        let value = |kind| match kind {
            Kind::Format => "linux",
            Kind::Command => "mem",
            Kind::Policy => "fcfs",
            Kind::Strategy => "capacity",
            Kind::Change => "weight=7",
            Kind::Injected => "host",
            _ => "7",
        };
        let mut line = spec.name();
        for argument in spec.arguments {
            let given = if argument.name == "'COMMAND'" { "'vm start web'" } else { value(argument.kind) };
            line += &format!(" {given}");
        }
        for option in spec.options.iter().filter(|option| option.required || option.name == "--tail") {
            line += &format!(" {} {}", option.name, option.value.map_or("", |(_, kind)| value(kind)));
        }
        assert!(Request::parse(&line).is_ok(), "{line}");
        assert!(spec.about.len() < 70 && spec.name().len() < 17, "{} fits no row of help", spec.name());
    }
}

struct System;

impl Names for System {
    fn vm_names(&self) -> Vec<String> {
        ["linux", "hello-1", "hello-2"].map(String::from).to_vec()
    }

    fn group_names(&self) -> Vec<String> {
        ["hello", "db"].map(String::from).to_vec()
    }

    fn files(&self) -> Vec<String> {
        ["linux/vmlinuz", "linux/initrd", "hello"].map(String::from).to_vec()
    }
}

fn completions(line: &str) -> Vec<String> {
    CommandCompleter::new(&System).complete(line).candidates
}

#[test]
fn completion_knows_commands_vms_files_and_options() {
    assert_eq!(completions("v"), ["version", "vm"]);
    assert_eq!(completions("vm re"), ["reset", "resume"]);
    assert_eq!(completions("vm start "), ["hello-1", "hello-2", "linux"]);
    assert_eq!(completions("vm start h"), ["hello-1", "hello-2"]);
    assert_eq!(completions("vm start linux "), ["hello-1", "hello-2"]);
    assert_eq!(completions("vm start linux --"), ["--all", "--group", "--json"]);
    assert_eq!(completions("vm stop linux --"), ["--all", "--force", "--grace", "--group", "--json"]);
    assert_eq!(completions("vm stop --force l"), ["linux"]);
    assert_eq!(completions("vm info linux "), ["--json"]);
    assert_eq!(completions("vm pause --group "), ["db", "hello"]);
    assert_eq!(completions("vm create new --group d"), ["db"]);
    assert_eq!(completions("vm create new --after db,l"), ["db,linux"]);
    assert_eq!(completions("vm create new --after "), ["db", "hello", "hello-1", "hello-2", "linux"]);
    assert_eq!(completions("vm create new --balloon "), ["false", "true"]);
    assert_eq!(completions("vm set linux w"), ["watchdog=", "weight="]);
    assert_eq!(completions("vm set linux weight=2 c"), ["cap="]);
    assert_eq!(completions("vm pin l"), ["linux"]);
    assert_eq!(completions("debug fault linux e"), ["entry-failure", "ept-misconfiguration"]);
    assert_eq!(completions("sched "), ["--json", "policy"]);
    assert_eq!(completions("sched policy f"), ["fair", "fcfs"]);
    assert_eq!(completions("alloc strategy "), ["capacity", "need", "priority", "utilization"]);
    assert_eq!(completions("top -"), ["--json", "--once"]);
    assert_eq!(completions("vm create new --image linux/"), ["linux/initrd", "linux/vmlinuz"]);
    assert_eq!(completions("vm create new --format f"), ["flat16", "flat32", "flat64"]);
    assert_eq!(completions("vm create new --i"), ["--image", "--initrd"]);
    assert_eq!(completions("vm create new --image hello --i"), ["--initrd"]);
    assert_eq!(completions("vm log linux --tail "), [""; 0]);
    assert_eq!(completions("help vm cr"), ["create"]);
    assert_eq!(completions("stats lin"), ["linux"]);
    assert_eq!(completions("nothing like this"), [""; 0]);
    assert_eq!(CommandCompleter::new(&System).complete("vm start he").start, 9);
}

#[test]
fn a_word_is_parted_by_any_white_space() {
    let completion = CommandCompleter::new(&System).complete("\u{2000}");
    assert_eq!(completion.start, 3, "behind the space, which has three bytes");
    assert!(!completion.candidates.is_empty());
    let completion = CommandCompleter::new(&System).complete("vm\u{3000}lis");
    assert_eq!((completion.start, completion.candidates), (5, Vec::from([String::from("list")])));
}

proptest! {
    #[test]
    fn any_line_is_answered_in_one_line(line in "(\\PC|\t|\n){0,60}") {
        if let Err(error) = Request::parse(&line) {
            prop_assert!(!error.message.contains(char::is_control), "{}", error.message);
        }
        let completion = CommandCompleter::new(&System).complete(&line);
        prop_assert!(line.get(completion.start..).is_some());
    }

    #[test]
    fn any_words_after_a_command_are_answered(index in 0..COMMANDS.len(), words in proptest::collection::vec("(--)?[a-zA-Z0-9=/'-]{0,12}", 0..5)) {
        let line = format!("{} {}", COMMANDS[index].name(), words.join(" "));
        if let Err(error) = Request::parse(&line) {
            prop_assert!(!error.message.is_empty() && !error.message.contains(char::is_control));
        }
        for candidate in completions(&line) {
            prop_assert!(candidate.starts_with(line.rsplit(' ').next().unwrap()));
        }
    }
}
