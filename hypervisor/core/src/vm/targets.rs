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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    const VMS: [Candidate<'static>; 4] = [
        Candidate { name: "web-1", group: Some("web"), state: State::Running },
        Candidate { name: "web-2", group: Some("web"), state: State::Stopped },
        Candidate { name: "db", group: None, state: State::Paused },
        Candidate { name: "log", group: Some("aux"), state: State::Defined },
    ];

    fn names(names: &[&str]) -> Targets {
        Targets::Names(names.iter().map(|&name| name.into()).collect())
    }

    fn group(name: &str) -> Targets {
        Targets::Group(name.into())
    }

    #[test]
    fn names_are_all_or_nothing() {
        assert_eq!(names(&["db", "web-1", "db"]).plan(Verb::ForceStop, &VMS), Ok(Vec::from([2, 0])));
        assert_eq!(
            names(&["web-1", "web-2"]).plan(Verb::Stop, &VMS).unwrap_err(),
            "vm web-2 is stopped: 'stop' needs a running or restarting VM; use 'vm info web-2' to see how it came to this"
        );
        assert_eq!(names(&["web-1", "bd"]).plan(Verb::Stop, &VMS).unwrap_err(), "no VM is called bd; did you mean db?");
        assert_eq!(
            names(&["web"]).plan(Verb::Stop, &VMS).unwrap_err(),
            "no VM is called web, but a group is; write --group web"
        );
    }

    #[test]
    fn of_a_group_and_of_all_those_follow_that_can() {
        assert_eq!(group("web").plan(Verb::Stop, &VMS), Ok(Vec::from([0])));
        assert_eq!(group("web").plan(Verb::Start, &VMS), Ok(Vec::from([1])));
        assert_eq!(Targets::All.plan(Verb::ForceStop, &VMS), Ok(Vec::from([0, 2])));
        assert_eq!(
            group("aux").plan(Verb::Stop, &VMS).unwrap_err(),
            "no VM of group aux can follow: vm log is defined: 'stop' needs a running or restarting VM; use 'vm info log' to see how it \
             came to this"
        );
        assert_eq!(group("wbe").plan(Verb::Stop, &VMS).unwrap_err(), "no VM is of group wbe; did you mean web?");
        assert_eq!(Targets::All.plan(Verb::Stop, &[]).unwrap_err(), "there are no VMs");
    }

    proptest! {
        #[test]
        fn a_plan_holds_only_vms_that_can_follow_each_once(
            states in proptest::collection::vec(0..State::ALL.len(), 0..12),
            verb in 0..Verb::ALL.len(),
            picks in proptest::collection::vec(0usize..14, 1..5),
            kind in any::<u8>(),
        ) {
            let all: Vec<String> = (0..states.len()).map(|vm| format!("v{vm}")).collect();
            let vms: Vec<Candidate<'_>> = states.iter().zip(&all).enumerate().map(|(index, (&state, name))| {
                Candidate { name, group: (index % 2 == 0).then_some("even"), state: State::ALL[state] }
            }).collect();
            let targets = match kind % 3 {
                0 => Targets::Names(picks.iter().map(|pick| format!("v{pick}")).collect()),
                1 => group("even"),
                _ => Targets::All,
            };
            let verb = Verb::ALL[verb];
            match targets.plan(verb, &vms) {
                Ok(plan) => {
                    prop_assert!(!plan.is_empty());
                    for (place, &vm) in plan.iter().enumerate() {
                        prop_assert!(transition(vms[vm].state, verb).is_ok() && !plan[..place].contains(&vm));
                    }
                    if let Targets::Names(names) = &targets {
                        prop_assert!(names.iter().all(|name| plan.iter().any(|&vm| vms[vm].name == name)));
                    }
                }
                Err(line) => prop_assert_eq!(line.lines().count(), 1),
            }
        }
    }
}
