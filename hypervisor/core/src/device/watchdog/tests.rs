//! The watchdog, as a driver of a WDAT table uses it.

use super::*;
use proptest::prelude::*;

const TSC_HZ: u64 = 2_000_000;
const MS: u64 = TSC_HZ / 1_000;

/// One that runs since tick 0, with this period.
fn armed(count: u32) -> Watchdog {
    let mut watchdog = Watchdog::new(TickClock::new(TSC_HZ), false);
    assert!(watchdog.write(COUNT, count, 0) && watchdog.write(CONTROL, 1, 0));
    watchdog
}

#[test]
fn one_that_is_not_armed_never_fires() {
    let mut watchdog = Watchdog::new(TickClock::new(TSC_HZ), false);
    assert_eq!(
        (watchdog.read(CONTROL, 0), watchdog.read(STATUS, 0), watchdog.read(LEFT, 0)),
        (Some(0), Some(0), Some(0))
    );
    watchdog.write(LEFT, 1, 0);
    assert_eq!(watchdog.deadline(), u64::MAX, "feeding does not arm it");
    watchdog.expire(u64::MAX - 1);
    assert_eq!(watchdog.fired(), None);
}

#[test]
fn fed_in_time_it_waits_on_and_else_it_fires_once_and_for_all() {
    let mut watchdog = armed(10);
    for period in 1..=10 {
        let now = period * 9 * MS;
        assert_eq!(watchdog.deadline(), now + MS);
        watchdog.expire(now);
        assert_eq!(watchdog.read(LEFT, now), Some(1));
        watchdog.write(LEFT, 0, now);
        assert_eq!((watchdog.fired(), watchdog.read(LEFT, now)), (None, Some(10)));
    }
    watchdog.expire(99 * MS);
    assert_eq!(watchdog.fired(), None);
    watchdog.expire(100 * MS);
    assert_eq!((watchdog.fired(), watchdog.deadline()), (Some(10), u64::MAX));
    watchdog.write(LEFT, 0, 100 * MS);
    assert_eq!((watchdog.fired(), watchdog.deadline()), (Some(10), u64::MAX), "too late");
}

#[test]
fn forgiven_it_waits_for_its_next_feeding() {
    let mut watchdog = armed(10);
    watchdog.expire(10 * MS);
    watchdog.forgive();
    watchdog.expire(1_000 * MS);
    assert_eq!(
        (watchdog.fired(), watchdog.read(CONTROL, 1_000 * MS)),
        (None, Some(1)),
        "it runs, and does not fire again"
    );
    watchdog.write(LEFT, 0, 1_000 * MS);
    assert_eq!((watchdog.deadline(), watchdog.read(LEFT, 1_000 * MS)), (1_010 * MS, Some(10)));
    watchdog.expire(1_010 * MS);
    assert_eq!(watchdog.fired(), Some(10));
}

#[test]
fn a_new_period_counts_from_the_next_feeding_on_and_has_bounds() {
    let mut watchdog = armed(10);
    watchdog.write(COUNT, 50, 5 * MS);
    assert_eq!((watchdog.deadline(), watchdog.read(COUNT, 5 * MS)), (10 * MS, Some(50)));
    watchdog.write(LEFT, 0, 5 * MS);
    assert_eq!(watchdog.deadline(), 55 * MS);
    for (written, kept) in [(0, COUNT_MIN), (u32::MAX, COUNT_MAX)] {
        watchdog.write(COUNT, written, 0);
        assert_eq!(watchdog.read(COUNT, 0), Some(kept));
    }
}

#[test]
fn stopped_it_does_not_fire_and_started_again_it_has_its_whole_period() {
    let mut watchdog = armed(10);
    watchdog.write(CONTROL, 0, 5 * MS);
    watchdog.expire(1_000 * MS);
    assert_eq!(watchdog.fired(), None);
    watchdog.write(CONTROL, 3, 1_000 * MS);
    assert_eq!((watchdog.read(CONTROL, 0), watchdog.deadline()), (Some(3), 1_010 * MS));
    watchdog.write(CONTROL, 1, 1_005 * MS);
    assert_eq!(watchdog.deadline(), 1_010 * MS, "it ran already");
}

#[test]
fn the_boot_status_is_cleared_by_a_one() {
    let mut watchdog = Watchdog::new(TickClock::new(TSC_HZ), true);
    watchdog.write(STATUS, 0, 0);
    assert_eq!(watchdog.read(STATUS, 0), Some(1));
    watchdog.write(STATUS, 1, 0);
    assert_eq!(watchdog.read(STATUS, 0), Some(0));
}

#[test]
fn no_register_no_answer() {
    let mut watchdog = armed(10);
    for port in (COUNT - 4..WATCHDOG_END + 4).filter(|port| ![COUNT, LEFT, CONTROL, STATUS].contains(port)) {
        assert_eq!(watchdog.read(port, 0), None);
        assert!(!watchdog.write(port, 1, 0));
    }
}

proptest! {
    /// It fires exactly if it was armed and not fed for its period.
    #[test]
    fn it_fires_when_it_must(writes in proptest::collection::vec((0u64..30 * MS, 0u16..4, 0u32..20), 1..60)) {
        let mut watchdog = Watchdog::new(TickClock::new(TSC_HZ), false);
        let (mut now, mut count, mut next_count, mut fed_at) = (0, COUNT_AT_POWER_ON, COUNT_AT_POWER_ON, None);
        for (wait, register, value) in writes {
            now += wait;
            watchdog.expire(now);
            let late = fed_at.is_some_and(|at: u64| now - at >= u64::from(count) * MS);
            prop_assert_eq!(watchdog.fired(), late.then_some(count));
            if late {
                return Ok(());
            }
            watchdog.write(COUNT + 4 * register, value, now);
            match register {
                0 => next_count = value.max(1),
                1 if fed_at.is_some() => (count, fed_at) = (next_count, Some(now)),
                2 if value & 1 == 0 => fed_at = None,
                2 if fed_at.is_none() => (count, fed_at) = (next_count, Some(now)),
                _ => {}
            }
        }
    }
}
