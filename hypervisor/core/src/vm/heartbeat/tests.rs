//! Hung or not, over what vCPUs are found doing.

use super::*;
use crate::exit::tests::FakeVcpu;
use proptest::prelude::*;
use std::vec::Vec;

const LIMIT: u64 = 1_000;
const NONE: Sources = Sources { interrupt: false, nmi: false };
const INTERRUPT: Sources = Sources { interrupt: true, nmi: false };
const NMI: Sources = Sources { interrupt: false, nmi: true };
const DEAF: Found = Found::Halted { interruptible: false };
const IDLE: Found = Found::Halted { interruptible: true };

fn executing(state: u64) -> Found {
    Found::Executing { state, interruptible: false }
}

/// Looks at the only vCPU every 50 ticks for five limits; when the VM was hung.
fn hung_at(sources: Sources, mut found: impl FnMut(u64) -> (Found, bool)) -> Option<u64> {
    let mut heartbeat = Heartbeat::new(LIMIT, 1);
    (0..5 * LIMIT).step_by(50).find(|&now| {
        let (found, sign) = found(now);
        heartbeat.look(0, now, found, sign, sources);
        heartbeat.is_hung(|_| sources)
    })
}

#[test]
fn halted_with_interrupts_disabled_is_hung_unless_an_nmi_can_come() {
    assert_eq!(hung_at(NONE, |_| (DEAF, false)), Some(LIMIT));
    assert_eq!(hung_at(INTERRUPT, |_| (DEAF, false)), Some(LIMIT), "which nobody takes");
    assert_eq!(hung_at(NMI, |_| (DEAF, false)), None);
}

#[test]
fn halted_with_interrupts_enabled_waits_as_long_as_one_can_come() {
    assert_eq!(hung_at(INTERRUPT, |_| (IDLE, false)), None);
    assert_eq!(hung_at(NONE, |_| (IDLE, false)), Some(LIMIT));
}

#[test]
fn a_jump_to_itself_is_hung_and_so_is_a_spin_for_a_lock() {
    assert_eq!(hung_at(INTERRUPT, |_| (executing(1), false)), Some(LIMIT));
    // Found here and there in a loop of five instructions: the limit counts from when each was seen once.
    let at = hung_at(INTERRUPT, |now| (executing(now / 50 * 7 % 5), false)).unwrap();
    assert!((LIMIT..2 * LIMIT).contains(&at), "{at}");
}

#[test]
fn a_loop_that_computes_is_busy() {
    assert_eq!(hung_at(NONE, |now| (executing(now), false)), None);
    // More states than are remembered, over and over.
    assert_eq!(hung_at(NONE, |now| (executing(now / 50 % 9), false)), None);
}

#[test]
fn a_loop_with_interrupts_enabled_waits_as_long_as_one_can_come() {
    let found = (Found::Executing { state: 1, interruptible: true }, false);
    assert_eq!(hung_at(INTERRUPT, |_| found), None);
    assert_eq!(hung_at(NONE, |_| found), Some(LIMIT));
}

#[test]
fn an_exit_now_and_then_is_life_and_the_last_one_counts() {
    assert_eq!(hung_at(NONE, |now| (executing(1), now % 500 == 0)), None);
    assert_eq!(hung_at(NONE, |now| (executing(1), now == 700)), Some(700 + LIMIT));
}

#[test]
fn a_vcpu_found_too_seldom_is_not_judged() {
    let mut heartbeat = Heartbeat::new(LIMIT, 1);
    for look in 0..=u64::from(LOOKS_MIN) {
        assert!(!heartbeat.is_hung(|_| NONE), "at look {look}");
        heartbeat.look(0, look * LIMIT, executing(1), false, NONE);
    }
    assert!(heartbeat.is_hung(|_| NONE));
}

#[test]
fn all_started_vcpus_must_be_dead() {
    let mut heartbeat = Heartbeat::new(LIMIT, 3);
    heartbeat.look(2, 0, Found::NotStarted, false, NONE);
    heartbeat.look(0, 0, DEAF, false, NONE);
    assert_eq!(heartbeat.look(1, 0, IDLE, true, NONE), LIMIT);
    assert_eq!(heartbeat.look(0, LIMIT - 10, DEAF, false, NONE), 10);
    assert_eq!(heartbeat.look(0, LIMIT, DEAF, false, NONE), LIMIT, "and again");
    assert!(!heartbeat.is_hung(|_| NONE), "vCPU 1 has some time left");
    heartbeat.look(1, LIMIT, IDLE, false, NONE);
    assert!(heartbeat.is_hung(|_| NONE), "vCPU 2 was never started");
    assert!(!heartbeat.is_hung(|index| if index == 1 { INTERRUPT } else { NONE }), "it can be woken meanwhile");
    assert_eq!(heartbeat.last(1), Some((LIMIT, IDLE)));
    assert_eq!(heartbeat.last(3), None);
}

#[test]
fn silence_counts_from_the_first_look() {
    let mut heartbeat = Heartbeat::new(LIMIT, 2);
    assert_eq!(heartbeat.look(0, 5 * LIMIT, DEAF, false, NONE), LIMIT);
    assert!(!heartbeat.is_hung(|_| NONE), "it is watched from now on");
    heartbeat.look(0, 6 * LIMIT, DEAF, false, NONE);
    assert!(!heartbeat.is_hung(|_| NONE), "nobody has looked at vCPU 1");
    heartbeat.look(1, 9 * LIMIT, DEAF, false, NONE);
    assert!(!heartbeat.is_hung(|_| NONE));
    heartbeat.look(1, 10 * LIMIT, DEAF, false, NONE);
    assert!(heartbeat.is_hung(|_| NONE));
}

#[test]
fn each_register_makes_a_state() {
    let vcpu = FakeVcpu::bits64();
    let base = state(&vcpu, &Gprs::default());
    assert_eq!(base, state(&vcpu, &Gprs::default()));
    let mut states = std::vec![base];
    for number in (0..16).filter(|number| *number != 4) {
        let mut gprs = Gprs::default();
        *gprs.by_number_mut(number).unwrap() = 1;
        states.push(state(&vcpu, &gprs));
    }
    for field in [GuestField::Rip, GuestField::Rsp, GuestField::Rflags] {
        let mut vcpu = FakeVcpu::bits64();
        vcpu.write(field, vcpu.read(field) + 1);
        states.push(state(&vcpu, &Gprs::default()));
    }
    let different: std::collections::BTreeSet<u64> = states.iter().copied().collect();
    assert_eq!(different.len(), 19);
}

/// What a vCPU does until the next look, in ticks of its own time.
fn step() -> impl Strategy<Value = (u64, Found, bool)> {
    let found = prop_oneof![
        (0u64..12, any::<bool>()).prop_map(|(state, interruptible)| Found::Executing { state, interruptible }),
        any::<bool>().prop_map(|interruptible| Found::Halted { interruptible }),
    ];
    (0u64..LIMIT / 4, found, any::<bool>())
}

proptest! {
    /// As long as one vCPU gives a sign within each limit, nothing that the others do makes the VM hung.
    #[test]
    fn one_sign_of_life_is_enough(steps in proptest::collection::vec((step(), 0usize..3), 1..200)) {
        let mut heartbeat = Heartbeat::new(LIMIT, 4);
        let mut own = [0; 4];
        for ((wait, found, sign), index) in steps {
            own[index] += wait;
            heartbeat.look(index, own[index], found, sign, NONE);
            own[3] += wait.min(LIMIT - 1);
            heartbeat.look(3, own[3], executing(1), true, NONE);
            prop_assert!(!heartbeat.is_hung(|_| NONE));
        }
    }

    /// Whatever came before, VMs all of whose vCPUs are dead are found hung within a limit of their own time, and not before.
    #[test]
    fn the_dead_are_found(steps in proptest::collection::vec((step(), 0usize..2), 0..100), every in 20u64..100) {
        let mut heartbeat = Heartbeat::new(LIMIT, 2);
        let mut own = [0; 2];
        for ((wait, found, sign), index) in steps {
            own[index] += wait;
            heartbeat.look(index, own[index], found, sign, NONE);
        }
        let died = own;
        for (index, own) in own.into_iter().enumerate() {
            heartbeat.look(index, own, DEAF, true, NONE);
        }
        let mut looks: Vec<bool> = Vec::new();
        while own[0] < died[0] + LIMIT {
            prop_assert!(!heartbeat.is_hung(|_| NONE));
            for (index, own) in own.iter_mut().enumerate() {
                *own += every;
                heartbeat.look(index, *own, DEAF, false, NONE);
            }
            looks.push(heartbeat.is_hung(|_| NONE));
        }
        prop_assert_eq!(looks.pop(), Some(true));
        prop_assert!(looks.iter().all(|hung| !hung));
    }

    /// Time in which a vCPU only waits for a CPU is none of its own: however often it is looked at, it stays as it is.
    #[test]
    fn waiting_for_a_cpu_is_no_silence(looks in 1usize..1000, own in 0..LIMIT) {
        let mut heartbeat = Heartbeat::new(LIMIT, 1);
        for _ in 0..looks {
            heartbeat.look(0, own, DEAF, false, NONE);
            prop_assert!(!heartbeat.is_hung(|_| NONE));
        }
    }
}
