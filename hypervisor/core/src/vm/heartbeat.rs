//! The heartbeat: whether a VM goes on, told from outside, for guests that have no watchdog driver.
//!
//! [`Heartbeat`] is shown each vCPU at the end of each of its turns. A VM is hung when each of its vCPUs, for the whole `limit` of
//! its own time (in which it ran or was halted; not paused, not waiting for a CPU), gave no sign of life and had nothing to wait
//! for. Signs of life are
//!
//! - an exit that is the guest's doing: all but the hypervisor's timer, a host interrupt, and PAUSE, by which a guest spins;
//! - an event that was delivered to it;
//! - a state (registers, RIP, RFLAGS) in which it was not among the last [`KNOWN_STATES`] different ones.
//!
//! The last is what tells a busy loop from a hung one: a loop that computes comes along with new values, one that waits for what
//! does not come goes around a few states for ever. A vCPU that is halted, or goes around, with interrupts enabled waits,
//! as long as something can interrupt it; one with interrupts disabled waits only for what masks do not hold back (NMI,
//! INIT). One that was never started is none.

use crate::vmx::GuestField;
use crate::x86::{Gprs, VcpuState};
use alloc::vec;
use alloc::vec::Vec;

/// How many states of a vCPU are remembered. A loop that waits for a lock has some five instructions.
pub const KNOWN_STATES: usize = 8;

/// The fewest looks at a vCPU that executes before it can count as silent, however long they took: one that found the CPU only
/// twice may have been found twice at the same place by chance.
pub const LOOKS_MIN: u32 = 8;

/// What a vCPU was found doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// It executes instructions, in this [`state`].
    Executing {
        /// See [`state`].
        state: u64,
        /// RFLAGS.IF is set.
        interruptible: bool,
    },
    /// It is halted.
    Halted {
        /// RFLAGS.IF was set.
        interruptible: bool,
    },
    /// It waits for its start-up IPI.
    NotStarted,
}

/// What can make a vCPU go on that waits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sources {
    /// A timer of its own, a device's interrupt that is not masked, or one that is pending.
    pub interrupt: bool,
    /// What comes whether interrupts are enabled or not.
    pub nmi: bool,
}

/// All of a vCPU's registers in one number: equal states have equal numbers, and different ones hardly ever.
#[must_use]
pub fn state(vmcs: &dyn VcpuState, gprs: &Gprs) -> u64 {
    let Gprs { rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15 } = *gprs;
    let [rip, rsp, rflags] = [GuestField::Rip, GuestField::Rsp, GuestField::Rflags].map(|field| vmcs.read(field));
    let registers = [rip, rsp, rflags, rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
    // A multiplication by an odd number and a shift lose nothing, so one register that differs makes a difference.
    registers.into_iter().fold(0, |sum: u64, register| {
        let mixed = (sum ^ register).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 29
    })
}

/// What is known of a vCPU.
#[derive(Clone, Debug)]
struct Pulse {
    found: Found,
    known: [Option<u64>; KNOWN_STATES],
    /// Where the next state goes.
    next: usize,
    /// Its own time at its last sign of life, or at the first look. `None` before that.
    sign_at: Option<u64>,
    /// Ticks of its own time without a sign, as of the last look.
    silent: u64,
    /// Looks without a sign.
    looks: u32,
}

impl Pulse {
    /// One that was not looked at yet: it is not dead.
    const NEW: Self = Self {
        found: Found::Executing { state: 0, interruptible: false },
        known: [None; KNOWN_STATES],
        next: 0,
        sign_at: None,
        silent: 0,
        looks: 0,
    };

    /// Whether the state is a new one; it is known from now on.
    fn is_new(&mut self, state: u64) -> bool {
        if self.known.contains(&Some(state)) {
            return false;
        }
        if let Some(place) = self.known.get_mut(self.next) {
            *place = Some(state);
        }
        self.next = (self.next + 1) % KNOWN_STATES;
        true
    }

    /// Whether something can make it go on, as it was found.
    const fn waits(&self, sources: Sources) -> bool {
        match self.found {
            Found::NotStarted => false,
            Found::Executing { interruptible, .. } | Found::Halted { interruptible } => {
                sources.nmi || interruptible && sources.interrupt
            }
        }
    }

    const fn is_dead(&self, limit: u64, sources: Sources) -> bool {
        let silent = match self.found {
            Found::NotStarted => return true,
            Found::Halted { .. } => self.silent >= limit,
            Found::Executing { .. } => self.silent >= limit && self.looks >= LOOKS_MIN,
        };
        silent && !self.waits(sources)
    }
}

/// The heartbeat of a VM.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    limit: u64,
    pulses: Vec<Pulse>,
}

impl Heartbeat {
    /// The heartbeat of a VM with this many vCPUs, from now on; `limit` is in ticks. Each vCPU's silence counts from the first
    /// look at it.
    #[must_use]
    pub fn new(limit: u64, vcpus: usize) -> Self {
        Self { limit, pulses: vec![Pulse::NEW; vcpus] }
    }

    /// Takes note of how vCPU `index` was found at the end of a turn, at tick `own_now` of its own time, and whether it gave a
    /// `sign` during that: an exit or an event. Answers in how many ticks it is to be looked at again, if it is halted.
    pub fn look(&mut self, index: usize, own_now: u64, found: Found, sign: bool, sources: Sources) -> u64 {
        let limit = self.limit;
        let Some(pulse) = self.pulses.get_mut(index) else { return limit };
        pulse.found = found;
        let new = matches!(found, Found::Executing { state, .. } if pulse.is_new(state));
        let sign_at = match pulse.sign_at {
            Some(before) if !sign && !new && !pulse.waits(sources) => {
                pulse.looks = pulse.looks.saturating_add(1);
                before
            }
            _ => {
                pulse.looks = 0;
                own_now
            }
        };
        pulse.sign_at = Some(sign_at);
        pulse.silent = own_now.saturating_sub(sign_at);
        match limit.saturating_sub(pulse.silent) {
            // What others do can change that: again and again, if seldom.
            0 => limit,
            left => left,
        }
    }

    /// Whether the VM is hung; `sources` are those of each vCPU. To be asked after a look.
    #[must_use]
    pub fn is_hung(&self, mut sources: impl FnMut(usize) -> Sources) -> bool {
        self.pulses.iter().enumerate().all(|(index, pulse)| pulse.is_dead(self.limit, sources(index)))
    }

    /// For how many ticks a vCPU was silent when it was looked at last, and how it was found.
    #[must_use]
    pub fn last(&self, index: usize) -> Option<(u64, Found)> {
        self.pulses.get(index).map(|pulse| (pulse.silent, pulse.found))
    }
}

#[cfg(test)]
mod tests;
