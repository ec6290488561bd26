//! [`Targets`]: the VMs that a verb is for, and what it will do to each.
//!
//! VMs called by their names must all be there and all be able to follow the verb, or nothing is done. Of a group, or
//! of all VMs, those follow that can, and the others stay as they are: `vm stop --all` stops what runs.

use super::{State, Verb, transition};
use crate::config::nearest;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// The VMs that a verb is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Targets {
    /// These, by name.
    Names(Vec<String>),
    /// All of this group.
    Group(String),
    /// All there are.
    All,
}

/// A VM as [`Targets::plan`] has to know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its group.
    pub group: Option<&'a str>,
    /// Its state.
    pub state: State,
}

impl Targets {
    /// The indices of the VMs that are meant, each once, as they were named or as they stand.
    ///
    /// # Errors
    /// One line: there is no such VM, or none at all.
    pub fn resolve(&self, vms: &[Candidate<'_>]) -> Result<Vec<usize>, String> {
        let matching = |wanted: &dyn Fn(&Candidate<'_>) -> bool| -> Vec<usize> {
            vms.iter().enumerate().filter(|(_, vm)| wanted(vm)).map(|(index, _)| index).collect()
        };
        match self {
            Self::Names(names) => {
                let mut found = Vec::new();
                for name in names {
                    let index = vms.iter().position(|vm| vm.name == name).ok_or_else(|| unknown_vm(name, vms))?;
                    if !found.contains(&index) {
                        found.push(index);
                    }
                }
                Ok(found)
            }
            Self::Group(group) => {
                let found = matching(&|vm| vm.group == Some(group.as_str()));
                if found.is_empty() { Err(unknown_group(group, vms)) } else { Ok(found) }
            }
            Self::All if vms.is_empty() => Err(String::from("there are no VMs")),
            Self::All => Ok(matching(&|_| true)),
        }
    }

    /// The indices of the VMs that `verb` is to be done to; nothing is to be done unless all of it is.
    ///
    /// # Errors
    /// One line: as [`Targets::resolve`], or the first VM that cannot follow and why.
    pub fn plan(&self, verb: Verb, vms: &[Candidate<'_>]) -> Result<Vec<usize>, String> {
        let mut able = Vec::new();
        let mut refusal = None;
        for index in self.resolve(vms)? {
            let Some(vm) = vms.get(index) else { continue };
            match transition(vm.state, verb) {
                Ok(_) => able.push(index),
                Err(refused) => refusal = refusal.or_else(|| Some(refused.line(vm.name))),
            }
        }
        match refusal {
            Some(line) if matches!(self, Self::Names(_)) => Err(line),
            Some(line) if able.is_empty() => Err(format!("no VM of {} can follow: {line}", self.shown())),
            _ => Ok(able),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Names(names) => names.join(", "),
            Self::Group(group) => format!("group {group}"),
            Self::All => String::from("all"),
        }
    }
}

fn unknown_vm(name: &str, vms: &[Candidate<'_>]) -> String {
    let shown = name.escape_debug();
    if vms.iter().any(|vm| vm.group == Some(name)) {
        return format!("no VM is called {shown}, but a group is; write --group {shown}");
    }
    match nearest(name, vms.iter().map(|vm| vm.name)) {
        Some(near) => format!("no VM is called {shown}; did you mean {near}?"),
        None => format!("no VM is called {shown}; 'vm list' shows them"),
    }
}

fn unknown_group(group: &str, vms: &[Candidate<'_>]) -> String {
    let shown = group.escape_debug();
    match nearest(group, vms.iter().filter_map(|vm| vm.group)) {
        Some(near) => format!("no VM is of group {shown}; did you mean {near}?"),
        None => format!("no VM is of group {shown}; 'vm list' shows the groups"),
    }
}
