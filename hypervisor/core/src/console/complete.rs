//! Tab: what may come where the cursor is.

use super::create::FORMATS;
use super::editor::{Completer, Completion};
use super::table::{self, JSON, Kind, Spec};
use crate::config::VmChange;
use crate::fault::{FaultKind, OnFault};
use crate::resources::Strategy;
use crate::sched::PolicyKind;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// What completion has to know of the running system.
pub trait Names {
    /// The names of all VMs.
    fn vm_names(&self) -> Vec<String>;
    /// The groups that have VMs, in any order and as often as one likes.
    fn group_names(&self) -> Vec<String>;
    /// The files of the ramdisk.
    fn files(&self) -> Vec<String>;
}

/// Completes the console's commands.
pub struct CommandCompleter<'a> {
    names: &'a dyn Names,
}

impl<'a> CommandCompleter<'a> {
    /// A completer that asks `names` for VMs and files.
    #[must_use]
    pub const fn new(names: &'a dyn Names) -> Self {
        Self { names }
    }

    fn candidates(&self, before: &[String], word: &str) -> Vec<String> {
        let next = table::next_words(before);
        if !next.is_empty() {
            return self.or_options_of_the_shorter(next, before);
        }
        let Some(spec) = table::find(before) else {
            return Vec::new();
        };
        self.after(spec, before, word)
    }

    /// `sched` is a command, and so is `sched policy`: behind `sched` come `policy` and the options of `sched`.
    fn or_options_of_the_shorter(&self, next: Vec<&'static str>, before: &[String]) -> Vec<String> {
        let mut candidates = strings(&next);
        if let Some(spec) = table::find(before) {
            candidates.extend(self.after(spec, before, "-"));
        }
        candidates
    }

    /// What may follow a command's words.
    fn after(&self, spec: &Spec, before: &[String], word: &str) -> Vec<String> {
        let given = before.get(spec.words.len()..).unwrap_or_default();
        if let Some((_, kind)) = given.last().and_then(|last| value_of(spec, last)) {
            return self.of_kind(kind, &[], word);
        }
        let positional = positional(spec, given);
        let argument = spec.arguments.get(positional.len()).or(spec.arguments.last().filter(|last| last.rest));
        match argument {
            Some(argument) if !word.starts_with('-') && argument.kind != Kind::Other => {
                self.of_kind(argument.kind, &positional, word)
            }
            _ => {
                let unused = |name: &&str| !given.iter().any(|word| word == name);
                let options: Vec<&str> =
                    spec.options.iter().map(|option| option.name).chain([JSON]).filter(unused).collect();
                strings(&options)
            }
        }
    }

    fn of_kind(&self, kind: Kind, before: &[String], word: &str) -> Vec<String> {
        let unused = |names: Vec<String>| names.into_iter().filter(|name| !before.contains(name)).collect();
        match kind {
            Kind::Vm => unused(self.names.vm_names()),
            Kind::Vcpu => self.names.vm_names(),
            Kind::Group => self.names.group_names(),
            Kind::Names => {
                let given = word.rfind(',').and_then(|comma| word.get(..=comma)).unwrap_or_default();
                let names = self.names.vm_names().into_iter().chain(self.names.group_names());
                names.map(|name| String::from(given) + &name).collect()
            }
            Kind::Change => VmChange::KEYS.iter().map(|key| String::from(key.name()) + "=").collect(),
            Kind::Policy => strings(&PolicyKind::ALL.map(PolicyKind::name)),
            Kind::Strategy => strings(&Strategy::ALL.map(Strategy::name)),
            Kind::OnFault => strings(&OnFault::ALL.map(OnFault::name)),
            Kind::Injected => strings(&FaultKind::INJECTED.map(FaultKind::name)),
            Kind::Flag => strings(&["true", "false"]),
            Kind::File => self.names.files(),
            Kind::Command => strings(&table::next_words(before)),
            Kind::Format => strings(&FORMATS),
            Kind::Other => Vec::new(),
        }
    }
}

impl Completer for CommandCompleter<'_> {
    fn complete(&self, line: &str) -> Completion {
        let word = line.rsplit(char::is_whitespace).next().unwrap_or_default();
        let before = line.strip_suffix(word).unwrap_or_default();
        let start = before.len();
        let before: Vec<String> =
            before.split_whitespace().filter(|word| *word != JSON).map(ToString::to_string).collect();
        let mut candidates = self.candidates(&before, word);
        candidates.retain(|candidate| candidate.starts_with(word));
        candidates.sort();
        candidates.dedup();
        Completion { start, candidates }
    }
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// The value that an option takes, if the word is an option that takes one.
fn value_of(spec: &Spec, word: &str) -> Option<(&'static str, Kind)> {
    spec.options.iter().find(|option| option.name == word)?.value
}

/// The words that are neither options nor options' values.
fn positional(spec: &Spec, given: &[String]) -> Vec<String> {
    let mut positional = Vec::new();
    let mut words = given.iter();
    while let Some(word) = words.next() {
        if word.starts_with("--") {
            if value_of(spec, word).is_some() {
                words.next();
            }
        } else {
            positional.push(word.clone());
        }
    }
    positional
}
