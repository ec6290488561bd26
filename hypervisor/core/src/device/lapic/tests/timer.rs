//! The timer against a counter that is clocked tick by tick.

use super::*;
use proptest::prelude::*;

/// The chip: a prescaler and a down-counter.
struct Counter {
    periodic: bool,
    divisor: u32,
    initial: u32,
    prescaler: u32,
    count: u32,
}

impl Counter {
    fn start(periodic: bool, divisor: u32, initial: u32) -> Self {
        Self { periodic, divisor, initial, prescaler: divisor, count: initial }
    }

    /// One timer input clock; answers whether the counter reached 0.
    fn tick(&mut self) -> bool {
        if self.count == 0 {
            return false;
        }
        self.prescaler -= 1;
        if self.prescaler > 0 {
            return false;
        }
        self.prescaler = self.divisor;
        self.count -= 1;
        if self.count > 0 {
            return false;
        }
        if self.periodic {
            self.count = self.initial;
        }
        true
    }
}

/// The divide configuration values in the order of the SDM's figure: 2, 4, 8, 16, 32, 64, 128, 1.
const DIVIDE: [(u32, u32); 8] = [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)];
const VECTOR: u8 = 0x31;
const ONE_SHOT: u32 = 0x31;
const PERIODIC: u32 = 0x2_0031;
const TSC_DEADLINE: u32 = 0x4_0031;

/// Whether the timer's interrupt was raised; ends it.
fn fired(apic: &mut LocalApic) -> bool {
    let fired = apic.pending_vector() == Some(VECTOR);
    if fired {
        apic.acknowledge(VECTOR);
        apic.mmio_write(spec::EOI, 0, 0);
    }
    fired
}

proptest! {
    #[test]
    fn counts_like_the_chip(
        periodic: bool,
        divide in 0usize..8,
        initial in 1u32..40,
        start in 0u64..1 << 40,
        steps in proptest::collection::vec(0u64..300, 1..40),
    ) {
        let (bits, divisor) = DIVIDE[divide];
        let mut apic = enabled(0);
        apic.mmio_write(spec::LVT_TIMER, if periodic { PERIODIC } else { ONE_SHOT }, start);
        apic.mmio_write(spec::DIVIDE, bits, start);
        apic.mmio_write(spec::INITIAL_COUNT, initial, start);
        let mut chip = Counter::start(periodic, divisor, initial);
        let mut now = start;
        for step in steps {
            let fires = (0..step).filter(|_| chip.tick()).count();
            now += step;
            prop_assert_eq!(apic.mmio_read(spec::CURRENT_COUNT, now), chip.count, "before the owner calls");
            let due = apic.next_deadline().is_some_and(|deadline| deadline <= now);
            prop_assert_eq!(due, fires > 0, "never early, never late");
            apic.expire(now);
            prop_assert_eq!(fired(&mut apic), fires > 0);
            prop_assert_eq!(apic.mmio_read(spec::CURRENT_COUNT, now), chip.count, "after it");
            // The next deadline is the very tick at which the chip fires.
            match apic.next_deadline() {
                Some(deadline) => prop_assert_eq!(deadline - now, u64::from((chip.count - 1) * divisor + chip.prescaler)),
                None => prop_assert_eq!(chip.count, 0),
            }
        }
    }

    #[test]
    fn the_tsc_deadline_is_exact(deadline in 1u64..u64::MAX, now: u64) {
        let mut apic = enabled(0);
        apic.mmio_write(spec::LVT_TIMER, TSC_DEADLINE, 0);
        apic.msr_write(0x6e0, deadline, now).unwrap();
        prop_assert_eq!(fired(&mut apic), now >= deadline);
        prop_assert_eq!(apic.msr_read(0x6e0, now), Some(if now < deadline { deadline } else { 0 }));
        if now < deadline {
            prop_assert_eq!(apic.next_deadline(), Some(deadline));
            apic.expire(deadline - 1);
            prop_assert!(!fired(&mut apic));
            apic.expire(deadline);
            prop_assert!(fired(&mut apic));
        }
        prop_assert_eq!((apic.next_deadline(), apic.msr_read(0x6e0, deadline)), (None, Some(0)));
    }
}

#[test]
fn the_largest_count_fits() {
    let mut apic = enabled(0);
    apic.mmio_write(spec::LVT_TIMER, PERIODIC, 0);
    apic.mmio_write(spec::DIVIDE, 0xa, 0);
    apic.mmio_write(spec::INITIAL_COUNT, u32::MAX, 7);
    assert_eq!(apic.next_deadline(), Some(7 + (u64::from(u32::MAX) << 7)));
    assert_eq!(apic.mmio_read(spec::CURRENT_COUNT, 7), u32::MAX);
    assert_eq!(apic.mmio_read(spec::CURRENT_COUNT, 7 + 127), u32::MAX);
    assert_eq!(apic.mmio_read(spec::CURRENT_COUNT, 7 + 128), u32::MAX - 1);
}

#[test]
fn a_count_goes_on_at_the_new_rate() {
    let mut apic = enabled(0);
    apic.mmio_write(spec::LVT_TIMER, ONE_SHOT, 0);
    apic.mmio_write(spec::DIVIDE, 0xb, 0);
    apic.mmio_write(spec::INITIAL_COUNT, 100, 0);
    apic.mmio_write(spec::DIVIDE, 0x0, 40);
    assert_eq!(apic.mmio_read(spec::CURRENT_COUNT, 40), 60);
    assert_eq!(apic.next_deadline(), Some(40 + 120));
    apic.mmio_write(spec::DIVIDE, 0x0, 41);
    assert_eq!(apic.next_deadline(), Some(160), "the same divisor again keeps the phase");
    apic.mmio_write(spec::INITIAL_COUNT, 0, 50);
    assert_eq!((apic.next_deadline(), apic.mmio_read(spec::CURRENT_COUNT, 50)), (None, 0), "0 stops");
}

#[test]
fn the_modes_exclude_each_other() {
    let mut apic = enabled(0);
    apic.mmio_write(spec::LVT_TIMER, PERIODIC, 0);
    apic.mmio_write(spec::DIVIDE, 0xb, 0);
    apic.msr_write(0x6e0, 500, 0).unwrap();
    assert_eq!((apic.msr_read(0x6e0, 0), apic.next_deadline()), (Some(0), None), "not in TSC-deadline mode");
    apic.mmio_write(spec::INITIAL_COUNT, 100, 0);
    apic.mmio_write(spec::LVT_TIMER, TSC_DEADLINE, 10);
    assert_eq!(apic.next_deadline(), None, "disarmed");
    assert_eq!(apic.mmio_read(spec::INITIAL_COUNT, 10), 0);
    apic.mmio_write(spec::INITIAL_COUNT, 100, 10);
    assert_eq!((apic.mmio_read(spec::INITIAL_COUNT, 10), apic.next_deadline()), (0, None), "ignored");
    apic.msr_write(0x6e0, 500, 10).unwrap();
    assert_eq!(apic.mmio_read(spec::CURRENT_COUNT, 10), 0);
    apic.mmio_write(spec::LVT_TIMER, TSC_DEADLINE | 1, 10);
    assert_eq!(apic.next_deadline(), Some(500), "the same mode again");
    apic.msr_write(0x6e0, 0, 10).unwrap();
    assert_eq!(apic.next_deadline(), None, "0 disarms");
    apic.msr_write(0x6e0, 500, 10).unwrap();
    apic.mmio_write(spec::LVT_TIMER, ONE_SHOT, 10);
    assert_eq!((apic.next_deadline(), apic.msr_read(0x6e0, 10)), (None, Some(0)));
    apic.mmio_write(spec::INITIAL_COUNT, 100, 10);
    apic.mmio_write(spec::LVT_TIMER, PERIODIC, 20);
    assert_eq!(apic.next_deadline(), Some(110), "from one-shot to periodic the count goes on");
}

#[test]
fn a_masked_timer_runs_on_in_silence() {
    let mut apic = enabled(0);
    apic.mmio_write(spec::LVT_TIMER, PERIODIC | 0x1_0000, 0);
    apic.mmio_write(spec::DIVIDE, 0xb, 0);
    apic.mmio_write(spec::INITIAL_COUNT, 100, 0);
    assert_eq!(apic.next_deadline(), None, "nobody needs to be called");
    assert_eq!(apic.mmio_read(spec::CURRENT_COUNT, 530), 70);
    apic.mmio_write(spec::LVT_TIMER, PERIODIC, 530);
    assert!(!fired(&mut apic), "what passed while masked is gone");
    assert_eq!(apic.next_deadline(), Some(600), "and the phase is kept");
    apic.expire(601);
    assert!(fired(&mut apic));
}

#[test]
fn software_disabling_silences_a_running_timer() {
    let mut apic = enabled(0);
    apic.mmio_write(spec::LVT_TIMER, PERIODIC, 0);
    apic.mmio_write(spec::INITIAL_COUNT, 100, 0);
    apic.mmio_write(spec::SVR, 0xff, 10);
    assert_eq!(apic.next_deadline(), None);
    apic.mmio_write(spec::SVR, 0x1ff, 20);
    apic.expire(500);
    assert!(!fired(&mut apic), "the mask stays until the guest clears it");
}

#[test]
fn an_illegal_vector_is_an_error() {
    let mut apic = enabled(0);
    apic.mmio_write(spec::LVT_ERROR, 0x40, 0);
    apic.mmio_write(spec::LVT_TIMER, 0xf, 0);
    apic.mmio_write(spec::INITIAL_COUNT, 1, 0);
    apic.expire(2);
    assert_eq!(apic.pending_vector(), Some(0x40));
    apic.mmio_write(spec::ESR, 0, 2);
    assert_eq!(apic.mmio_read(spec::ESR, 2), 0x40, "received illegal vector");
}
