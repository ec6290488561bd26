//! The states of a VM, and every way from one to another.
//!
//! [`transition`] is the only place that says what may follow what: the operator's [`Verb`]s and what the guest does
//! ([`Event`]) both go through it, before anything is done. A verb that does not fit is a [`Refusal`], one line.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Where a VM is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum State {
    /// Created, never started.
    Defined,
    /// It is being built: its memory is scrubbed and its image loaded. No vCPU of it runs yet.
    Starting,
    /// Its vCPUs run or wait for an interrupt.
    Running,
    /// Its vCPUs and its time stand still, because the operator wants it.
    Paused,
    /// Its vCPUs and its time stand still, because it touched a page that the host has no memory for. It goes on by
    /// itself when there is memory.
    PausedMemory,
    /// Its vCPUs and its time stand still, because it faulted and its policy is to pause.
    PausedFault,
    /// Still running; its power button was pressed and it is expected to power off.
    Stopping,
    /// It ended, or was ended: powered off, or left through the exit port.
    Stopped,
    /// It did what it cannot go on from.
    Crashed,
    /// It crashed, and its policy is to keep it as it was then, with all that it holds.
    Preserved,
    /// It faulted, or reset itself too soon, and is started anew after its back-off. It holds nothing meanwhile.
    Restarting,
    /// It is no more; its memory and its name are given back.
    Destroyed,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 12] = [
        Self::Defined,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::PausedMemory,
        Self::PausedFault,
        Self::Stopping,
        Self::Stopped,
        Self::Crashed,
        Self::Preserved,
        Self::Restarting,
        Self::Destroyed,
    ];

    /// The state's name, as the console shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Defined => "defined",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::PausedMemory => "paused (memory)",
            Self::PausedFault => "paused (fault)",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
            Self::Preserved => "crashed (preserved)",
            Self::Restarting => "restarting",
            Self::Destroyed => "destroyed",
        }
    }

    /// Whether the VM's vCPUs may be given the CPU.
    #[must_use]
    pub const fn is_runnable(self) -> bool {
        matches!(self, Self::Running | Self::Stopping)
    }

    /// Whether the VM was started and has not ended for good.
    #[must_use]
    pub const fn is_alive(self) -> bool {
        self.is_runnable() || self.pause_reason().is_some() || matches!(self, Self::Starting | Self::Restarting)
    }

    /// Whether the VM faulted and does not run: those that come after it are not restarted until it does.
    #[must_use]
    pub const fn is_down(self) -> bool {
        matches!(self, Self::Crashed | Self::Preserved | Self::PausedFault | Self::Restarting)
    }

    /// Why the VM is paused, if it is.
    #[must_use]
    pub const fn pause_reason(self) -> Option<PauseReason> {
        match self {
            Self::Paused => Some(PauseReason::Operator),
            Self::PausedMemory => Some(PauseReason::Memory),
            Self::PausedFault => Some(PauseReason::Fault),
            _ => None,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a VM is paused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PauseReason {
    /// The operator wants it.
    Operator,
    /// The host has no memory for the page that it touched.
    Memory,
    /// It faulted.
    Fault,
}

/// What the operator can ask of a VM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verb {
    /// Load the image into scrubbed memory and run it.
    Start,
    /// Press the power button: the guest is to end by itself.
    Stop,
    /// End it now, whatever it is doing.
    ForceStop,
    /// Let its vCPUs and its time stand still.
    Pause,
    /// Let them go on.
    Resume,
    /// Start it anew, as at power-on.
    Reset,
    /// Give everything back.
    Destroy,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 7] =
        [Self::Start, Self::Stop, Self::ForceStop, Self::Pause, Self::Resume, Self::Reset, Self::Destroy];

    /// The verb as typed on the console.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::ForceStop => "stop --force",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Reset => "reset",
            Self::Destroy => "destroy",
        }
    }
}

/// What happens to a VM without the operator: what its guest does, and what the host finds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Event {
    /// It is built; its vCPUs may run.
    Started,
    /// It could not be built, by what the log says; what it held for that is given back.
    StartFailed,
    /// It powered itself off.
    PowerOff,
    /// It left through the exit port.
    Exit,
    /// It did what it cannot go on from.
    Crash,
    /// It did, and is to stand still.
    FaultPause,
    /// It did, and is to be kept as it is.
    FaultPreserve,
    /// It did, or reset itself too soon, and is to be started anew after a while.
    FaultRestart,
    /// That while is over.
    Restart,
    /// It asked for a reset.
    Reset,
    /// It touched a page that the host has no memory for.
    OutOfMemory,
    /// There is memory for that page.
    MemoryBack,
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 12] = [
        Self::Started,
        Self::StartFailed,
        Self::PowerOff,
        Self::Exit,
        Self::Crash,
        Self::FaultPause,
        Self::FaultPreserve,
        Self::FaultRestart,
        Self::Restart,
        Self::Reset,
        Self::OutOfMemory,
        Self::MemoryBack,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Started => "the end of a start",
            Self::StartFailed => "a failed start",
            Self::OutOfMemory => "want of memory",
            Self::MemoryBack => "memory to go on",
            Self::PowerOff => "the guest's power-off",
            Self::Exit => "the guest's exit",
            Self::Crash => "a crash",
            Self::FaultPause => "a pause after a fault",
            Self::FaultPreserve => "a crash that is preserved",
            Self::FaultRestart => "a restart after a fault",
            Self::Restart => "the end of a back-off",
            Self::Reset => "the guest's reset",
        }
    }
}

/// What moves a VM from state to state: the operator or the guest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cause {
    /// The operator asks.
    Verb(Verb),
    /// The guest does.
    Event(Event),
}

impl From<Verb> for Cause {
    fn from(verb: Verb) -> Self {
        Self::Verb(verb)
    }
}

impl From<Event> for Cause {
    fn from(event: Event) -> Self {
        Self::Event(event)
    }
}

/// The state that follows `cause` in `state`.
///
/// # Errors
/// A [`Refusal`], when it cannot happen there; the VM stays as it is.
pub fn transition(state: State, cause: impl Into<Cause>) -> Result<State, Refusal> {
    let cause = cause.into();
    next(state, cause).ok_or(Refusal { state, cause })
}

/// The table: one row for each cause, with the states it is allowed in and where it leads.
const fn next(state: State, cause: Cause) -> Option<State> {
    use State::{
        Crashed, Defined, Destroyed, Paused, PausedFault, PausedMemory, Preserved, Restarting, Running, Starting,
        Stopped, Stopping,
    };
    match (cause, state) {
        (Cause::Verb(Verb::Start), Defined | Stopped | Crashed | Preserved | Restarting) => Some(Starting),
        // A guest that is built, or paused, cannot answer its power button.
        (Cause::Verb(Verb::Stop), Running) => Some(Stopping),
        // There is no guest to ask.
        (Cause::Verb(Verb::Stop), Restarting) => Some(Stopped),
        // Of a VM that is being built, this gives up the building.
        (
            Cause::Verb(Verb::ForceStop),
            Starting | Running | Paused | PausedMemory | PausedFault | Stopping | Restarting,
        ) => Some(Stopped),
        // It has crashed before; now it gives back what it holds.
        (Cause::Verb(Verb::ForceStop), Preserved) => Some(Crashed),
        // A VM that waits for memory goes on by itself; one that is paused besides does not.
        (Cause::Verb(Verb::Pause), Running | PausedMemory) => Some(Paused),
        // Not of `PausedMemory`: without memory it could not go on. If the page that it waits for is still missing after
        // `Paused`, it touches it again and waits again.
        (Cause::Verb(Verb::Resume), Paused | PausedFault) => Some(Running),
        (
            Cause::Verb(Verb::Reset),
            Running | Paused | PausedMemory | PausedFault | Stopping | Preserved | Restarting,
        ) => Some(Starting),
        (Cause::Verb(Verb::Destroy), Defined | Stopped | Crashed | Preserved) => Some(Destroyed),
        (Cause::Event(Event::Started), Starting) => Some(Running),
        (Cause::Event(Event::StartFailed), Starting) => Some(Stopped),
        (Cause::Event(Event::PowerOff | Event::Exit), Running | Stopping) => Some(Stopped),
        // The host may find a paused VM broken, so a fault needs no running vCPU.
        (Cause::Event(Event::Crash), Running | Paused | PausedMemory | Stopping) => Some(Crashed),
        (Cause::Event(Event::FaultPause), Running | Paused | PausedMemory) => Some(PausedFault),
        (Cause::Event(Event::FaultPreserve), Running | Paused | PausedMemory) => Some(Preserved),
        // Of a VM that was asked to end, its own early reset.
        (Cause::Event(Event::FaultRestart), Running | Paused | PausedMemory | Stopping) => Some(Restarting),
        (Cause::Event(Event::Restart), Restarting) => Some(Starting),
        // After its reset a guest knows nothing of a power button pressed before.
        (Cause::Event(Event::Reset), Running | Stopping) => Some(Starting),
        // A guest that was asked to end goes on ending afterwards: its kernel remembers the button, the state does not.
        (Cause::Event(Event::OutOfMemory), Running | Stopping) => Some(PausedMemory),
        (Cause::Event(Event::MemoryBack), PausedMemory) => Some(Running),
        _ => None,
    }
}

/// A verb or event that does not fit the VM's state. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The state that the VM is in.
    pub state: State,
    /// What does not fit it.
    pub cause: Cause,
}

impl Refusal {
    /// The refusal as one line for the operator, about the VM called `name`.
    #[must_use]
    pub fn line(&self, name: &str) -> String {
        let state = self.state;
        let needed = allowed_states(self.cause);
        match self.cause {
            Cause::Event(event) => {
                format!("vm {name} is {state}: {} is possible in a {needed} VM only", event.name())
            }
            Cause::Verb(verb) => match way_out(state, verb) {
                Some((command, end)) => format!(
                    "vm {name} is {state}: '{}' needs a {needed} VM; use 'vm {command} {name}' {end}",
                    verb.name()
                ),
                None => format!("vm {name} is {state}: '{}' needs a {needed} VM", verb.name()),
            },
        }
    }
}

/// `defined, stopped or crashed`: the states in which the table allows `cause`.
fn allowed_states(cause: Cause) -> String {
    let names: Vec<&str> =
        State::ALL.into_iter().filter(|&state| next(state, cause).is_some()).map(State::name).collect();
    match names.split_last() {
        Some((last, [])) => String::from(*last),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// What the operator probably wants instead: a command, and what it is good for.
const fn way_out(state: State, refused: Verb) -> Option<(&'static str, &'static str)> {
    use State::{
        Crashed, Defined, Destroyed, Paused, PausedFault, PausedMemory, Preserved, Restarting, Running, Starting,
        Stopped, Stopping,
    };
    Some(match (refused, state) {
        (_, Destroyed) => return None,
        (Verb::Destroy, Starting | Running | Paused | PausedMemory | PausedFault | Stopping | Restarting) => {
            ("stop --force", "first")
        }
        (Verb::Start | Verb::Stop | Verb::Pause | Verb::Resume | Verb::Reset, Starting) => {
            ("stop --force", "to give the start up, or wait for it")
        }
        (Verb::Start, Running) => ("reset", "to restart it"),
        (Verb::Resume, Running) => ("info", "to see what it does"),
        (Verb::Start | Verb::Pause, Paused) => ("resume", "to let it go on"),
        (Verb::Start | Verb::Pause, PausedFault) => ("reset", "to start it anew, or see 'vm faults'"),
        (Verb::Start | Verb::Resume, PausedMemory) => {
            ("stop --force", "to end it, or free memory ('alloc' shows who holds it) and it goes on by itself")
        }
        (Verb::Stop, Paused) => ("stop --force", "to end it as it is, or resume it first"),
        (Verb::Stop, PausedMemory | PausedFault) => ("stop --force", "to end it as it is"),
        (Verb::Stop, Preserved) => ("stop --force", "to give back what it holds"),
        (Verb::Start | Verb::Stop | Verb::Pause | Verb::Resume, Stopping) => ("stop --force", "to end it now"),
        (Verb::Pause | Verb::Resume, Restarting) => ("start", "to start it now"),
        (Verb::Resume | Verb::Reset, Defined | Stopped | Crashed | Preserved) => ("start", "to start it"),
        (Verb::Stop | Verb::ForceStop | Verb::Pause, Defined | Stopped | Crashed | Preserved) => {
            ("info", "to see how it came to this")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};
    use std::collections::BTreeSet;

    /// The whole table once more, as a picture: one row for each cause, one column for each state in the order of
    /// [`State::ALL`], each the initial of the state that follows (`X` destroyed, `T` stopping, `B` starting, being built,
    /// `M` paused for want of memory, `F` paused for a fault, `K` kept after a crash, `Y` yet to be started anew), or `-` for a
    /// refusal.
    const PICTURE: [(Cause, &str); 19] = [
        //                                      DBRPMFTSCKYX
        (Cause::Verb(Verb::Start), "B------BBBB-"),
        (Cause::Verb(Verb::Stop), "--T-------S-"),
        (Cause::Verb(Verb::ForceStop), "-SSSSSS--CS-"),
        (Cause::Verb(Verb::Pause), "--P-P-------"),
        (Cause::Verb(Verb::Resume), "---R-R------"),
        (Cause::Verb(Verb::Reset), "--BBBBB--BB-"),
        (Cause::Verb(Verb::Destroy), "X------XXX--"),
        (Cause::Event(Event::Started), "-R----------"),
        (Cause::Event(Event::StartFailed), "-S----------"),
        (Cause::Event(Event::PowerOff), "--S---S-----"),
        (Cause::Event(Event::Exit), "--S---S-----"),
        (Cause::Event(Event::Crash), "--CCC-C-----"),
        (Cause::Event(Event::FaultPause), "--FFF-------"),
        (Cause::Event(Event::FaultPreserve), "--KKK-------"),
        (Cause::Event(Event::FaultRestart), "--YYY-Y-----"),
        (Cause::Event(Event::Restart), "----------B-"),
        (Cause::Event(Event::Reset), "--B---B-----"),
        (Cause::Event(Event::OutOfMemory), "--M---M-----"),
        (Cause::Event(Event::MemoryBack), "----R-------"),
    ];

    fn initial(state: State) -> char {
        match state {
            State::Defined => 'D',
            State::Starting => 'B',
            State::Running => 'R',
            State::Paused => 'P',
            State::PausedMemory => 'M',
            State::PausedFault => 'F',
            State::Preserved => 'K',
            State::Restarting => 'Y',
            State::Stopping => 'T',
            State::Stopped => 'S',
            State::Crashed => 'C',
            State::Destroyed => 'X',
        }
    }

    fn causes() -> impl Iterator<Item = Cause> {
        Verb::ALL.into_iter().map(Cause::from).chain(Event::ALL.into_iter().map(Cause::from))
    }

    #[test]
    fn the_table_is_the_picture() {
        assert_eq!(PICTURE.map(|(cause, _)| cause).to_vec(), causes().collect::<Vec<_>>());
        for (cause, row) in PICTURE {
            let answers: String =
                State::ALL.into_iter().map(|state| transition(state, cause).map_or('-', initial)).collect();
            assert_eq!(answers, row, "{cause:?}");
        }
    }

    #[test]
    fn every_living_vm_can_be_ended_and_every_ended_one_destroyed() {
        for state in State::ALL {
            if state.is_alive() {
                let ended = transition(state, Verb::ForceStop).unwrap();
                assert!(!ended.is_alive());
                assert_eq!(transition(ended, Verb::Destroy), Ok(State::Destroyed));
            } else if state != State::Destroyed {
                assert_eq!(transition(state, Verb::Destroy), Ok(State::Destroyed));
            }
            assert!(!state.is_runnable() || state.is_alive());
        }
    }

    #[test]
    fn every_state_but_the_first_is_reached() {
        let reached: BTreeSet<State> = State::ALL
            .into_iter()
            .flat_map(|state| causes().filter_map(move |cause| transition(state, cause).ok()))
            .collect();
        assert_eq!(reached, State::ALL.into_iter().skip(1).collect());
    }

    #[test]
    fn a_refusal_is_one_clear_line() {
        let refused = |state, cause: Cause| transition(state, cause).unwrap_err().line("hello");
        assert_eq!(
            refused(State::Running, Verb::Start.into()),
            "vm hello is running: 'start' needs a defined, stopped, crashed, crashed (preserved) or restarting VM; use 'vm reset hello' to restart it"
        );
        assert_eq!(
            refused(State::Running, Verb::Destroy.into()),
            "vm hello is running: 'destroy' needs a defined, stopped, crashed or crashed (preserved) VM; use 'vm stop --force hello' first"
        );
        assert_eq!(
            refused(State::Stopped, Event::Reset.into()),
            "vm hello is stopped: the guest's reset is possible in a running or stopping VM only"
        );
        assert_eq!(
            refused(State::Paused, Verb::Stop.into()),
            "vm hello is paused: 'stop' needs a running or restarting VM; use 'vm stop --force hello' to end it as it is, or resume it first"
        );
    }

    #[test]
    fn the_way_out_is_never_refused_itself() {
        for state in State::ALL {
            for verb in Verb::ALL {
                if transition(state, verb).is_ok() {
                    continue;
                }
                let Some((command, _)) = way_out(state, verb) else {
                    assert!(
                        state == State::Destroyed || (state, verb) == (State::Paused, Verb::Pause),
                        "{state} {verb:?}"
                    );
                    continue;
                };
                let Some(advised) = Verb::ALL.into_iter().find(|verb| verb.name() == command) else {
                    assert_eq!(command, "info");
                    continue;
                };
                assert!(transition(state, advised).is_ok(), "{state}: {verb:?} leads to {command}");
            }
        }
    }

    #[test]
    fn a_vm_that_waits_for_memory_is_paused_until_there_is_some() {
        let waiting = transition(State::Running, Event::OutOfMemory).unwrap();
        assert_eq!(
            (waiting.pause_reason(), State::Paused.pause_reason()),
            (Some(PauseReason::Memory), Some(PauseReason::Operator))
        );
        assert_eq!(
            transition(waiting, Verb::Resume).unwrap_err().line("web"),
            "vm web is paused (memory): 'resume' needs a paused or paused (fault) VM; use 'vm stop --force web' to end it, or free memory \
             ('alloc' shows who holds it) and it goes on by itself"
        );
        assert_eq!(transition(waiting, Event::MemoryBack), Ok(State::Running));
        // The operator's pause outlasts the want of memory.
        let paused = transition(waiting, Verb::Pause).unwrap();
        assert!(transition(paused, Event::MemoryBack).is_err());
        assert_eq!(transition(paused, Verb::Resume), Ok(State::Running));
    }

    proptest! {
        #[test]
        fn a_random_life_keeps_its_rules(picks in proptest::collection::vec(0..Verb::ALL.len() + Event::ALL.len(), 0..60)) {
            let causes: Vec<Cause> = causes().collect();
            let mut state = State::Defined;
            let mut built = false;
            for pick in picks {
                let before = state;
                match transition(state, causes[pick]) {
                    Ok(next) => state = next,
                    Err(refusal) => {
                        prop_assert_eq!((refusal.state, refusal.cause), (before, causes[pick]));
                        prop_assert!(!refusal.line("web").contains(char::is_control));
                    }
                }
                // Guest code runs only in a machine that was built since the last start, and never again after the end.
                match (before, state) {
                    (_, State::Starting) => built = false,
                    (State::Starting, State::Running) => built = true,
                    _ => {}
                }
                prop_assert!(!state.is_runnable() || built);
                prop_assert!(before != State::Destroyed || state == State::Destroyed);
                prop_assert!(before == state || state != State::Defined);
                prop_assert!(!(before.is_alive() && state == State::Destroyed), "what lives is not destroyed");
                prop_assert_eq!(state.pause_reason().is_some(), state.is_alive() && !state.is_runnable() && !matches!(state, State::Starting | State::Restarting));
                prop_assert!(!(state.is_down() && state.is_runnable()));
            }
        }
    }
}
