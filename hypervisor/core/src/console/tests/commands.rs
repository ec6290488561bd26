//! From lines to commands, help and completion: all from one table.

use crate::config::{ModuleConfig, VmConfig};
use crate::console::complete::{CommandCompleter, Names};
use crate::console::editor::Completer;
use crate::console::table::{COMMANDS, Kind};
use crate::console::{Command, Request, help};
use crate::loader::Format;
use crate::vm::Verb;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use proptest::prelude::*;

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
    let verb = |verb| Command::VmVerb { verb, name: name() };
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
        ("vm console web", Command::VmConsole { name: name() }),
        ("vm trace web", Command::VmTrace { name: name(), exits: 200 }),
        ("vm trace web --exits 3", Command::VmTrace { name: name(), exits: 3 }),
        ("vm log web", Command::VmLog { name: name(), tail: None }),
        ("vm log web --tail 20", Command::VmLog { name: name(), tail: Some(20) }),
        ("mem", Command::Mem),
        ("cpu", Command::Cpu),
        ("sched", Command::Sched),
        ("stats", Command::Stats { name: None }),
        ("stats web", Command::Stats { name: Some(name()) }),
        ("dmesg", Command::Dmesg { tail: None }),
        ("dmesg --tail=5", Command::Dmesg { tail: Some(5) }),
        ("version", Command::Version),
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
fn blank_lines_are_nothing() {
    assert_eq!(Request::parse(""), Ok(None));
    assert_eq!(Request::parse(" \t"), Ok(None));
}

#[test]
fn an_error_says_what_to_type() {
    let create = "usage: vm create NAME --image FILE [--memory SIZE] [--cmdline TEXT] [--initrd FILE] [--module FILE] \
                  [--quantum TIME] [--format FORMAT] [--load-address ADDRESS] [--entry ADDRESS] [--json]";
    let cases: &[(&str, String)] = &[
        ("hlep", "unknown command 'hlep'; did you mean 'help'? 'help' lists all".into()),
        ("quux", "unknown command 'quux'; 'help' lists all".into()),
        ("--json", "a command is missing; 'help' lists them".into()),
        ("vm lsit", "unknown command 'vm lsit'; did you mean 'vm list'?".into()),
        ("vm", "vm: a subcommand is missing; one of list, info, create, start, stop, pause, resume, reset, destroy, console, log, trace".into()),
        ("vm start", "vm start: NAME is missing; usage: vm start NAME [--json]".into()),
        ("vm start a b", "vm start: 'b' is one word too many; usage: vm start NAME [--json]".into()),
        ("vm stop web --froce", "vm stop: unknown option --froce, did you mean --force?; usage: vm stop NAME [--force] [--json]".into()),
        ("vm stop web --force=1", "vm stop: --force takes no value; usage: vm stop NAME [--force] [--json]".into()),
        ("vm log web --tail", "vm log: --tail: its LINES is missing; usage: vm log NAME [--tail LINES] [--json]".into()),
        ("vm log web --tail many", "vm log: --tail many: not a number of lines; usage: vm log NAME [--tail LINES] [--json]".into()),
        ("mem web", "mem: 'web' is one word too many; usage: mem [--json]".into()),
        ("vm create web", format!("vm create: --image is missing; {create}")),
        ("vm create Web --image i", format!("vm create: Web: not a VM name; write a-z, 0-9 and -, at most 31 characters, the first a letter or digit; {create}")),
        ("vm create web --image /i", format!("vm create: --image /i: not a file of the ramdisk; write its path as in \"linux/vmlinuz\", without a leading / and without ..; {create}")),
        ("vm create web --image i --memory 12Q", format!("vm create: --memory 12Q: not a size; write a number with K, M or G, such as \"64M\"; {create}")),
        ("vm create web --image i --entry 1", format!("vm create: --entry: only a flat image has it; give the format flat16, flat32 or flat64, or leave this out; {create}")),
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
    assert_eq!(help(Some("vm")).unwrap().commands.len(), 12);
    let one = help(Some("vm stop")).unwrap();
    assert_eq!(one.commands[0].usage, "vm stop NAME [--force] [--json]");
    assert_eq!(help(Some("vm stpo")).unwrap_err(), "unknown command 'vm stpo'; did you mean 'vm stop'?");
    assert!(help(Some("vm stop now")).is_err());
}

#[test]
fn what_the_usage_line_promises_parses() {
    for spec in COMMANDS {
        let value = |kind| match kind {
            Kind::Format => "linux",
            Kind::Command => "mem",
            _ => "7",
        };
        let mut line = spec.name();
        spec.arguments.iter().for_each(|argument| line += &format!(" {}", value(argument.kind)));
        for option in spec.options.iter().filter(|option| option.required || option.name == "--tail") {
            line += &format!(" {} {}", option.name, option.value.map_or("", |(_, kind)| value(kind)));
        }
        assert!(Request::parse(&line).is_ok(), "{line}");
        assert!(spec.about.len() < 70 && spec.name().len() < 12, "{} fits no row of help", spec.name());
    }
}

struct System;

impl Names for System {
    fn vm_names(&self) -> Vec<String> {
        ["linux", "hello-1", "hello-2"].map(String::from).to_vec()
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
    assert_eq!(completions("vm start linux "), ["--json"]);
    assert_eq!(completions("vm stop linux --"), ["--force", "--json"]);
    assert_eq!(completions("vm stop --force l"), ["linux"]);
    assert_eq!(completions("vm stop --force linux "), ["--json"]);
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
