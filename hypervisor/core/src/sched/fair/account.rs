//! [`Account`]: where a VM stands: its virtual time, what its cap still allows, what its reservation still owes it.

use crate::sched::{VmParams, WEIGHT_MAX};

/// Virtual time per tick at the greatest weight. Larger than 1, so that rounding down gives nobody time for free.
const SCALE: u64 = 16 * WEIGHT_MAX as u64;

/// What a cap saves up at most, and what it must have before a VM that was held back runs again: so much of the cap's
/// time, in milliseconds.
const SAVED_MS: u64 = 80;
const REFILL_MS: u64 = 20;
/// With less than this left, the VM is held back.
const LEAST_MS: u64 = 1;
/// How far a VM's virtual time may be from the others', in its own quanta. Ahead it must be able to be by more than one: a VM
/// that runs for its reservation is, as long as its share by weight is less than that.
const BEHIND_QUANTA: u64 = 4;
const AHEAD_QUANTA: u64 = 2;
/// How far a reservation may be behind and still be made up, in milliseconds.
const OWED_MS: u64 = 1000;

/// A VM's account.
#[derive(Clone, Default)]
pub(super) struct Account {
    /// `v_i = used_i / w_i`, what runs now charged in advance for its whole slice.
    pub(super) v: u128,
    /// What the cap allows from `refilled_at` on, in hundredths of a tick. Below 0 after a turn that took too long.
    budget: i64,
    refilled_at: u64,
    /// Until when the reservation is paid, by all that the VM has used.
    pub(super) paid_until: u64,
    /// The cap holds it back, and until when.
    pub(super) held: Option<u64>,
    /// The cap has saved up enough for a vCPU beside those that its whole CPUs are for.
    saved_up: bool,
    /// vCPUs that are ready, and that run.
    pub(super) queued: usize,
    pub(super) running: usize,
}

/// What was charged for a turn in advance.
#[derive(Clone, Copy, Default)]
pub(super) struct Charge {
    v: u128,
    budget: i64,
    paid: u64,
    /// It was picked because its reservation was due.
    pub(super) reserved: bool,
}

impl Account {
    pub(super) fn new(v: u128, now: u64) -> Self {
        Self { v, refilled_at: now, paid_until: now, ..Self::default() }
    }

    /// Charges for `ticks`.
    pub(super) fn charge(&mut self, params: &VmParams, ticks: u64, reserved: bool) -> Charge {
        let budget = if params.cap_percent.is_some() { hundredths(ticks) } else { 0 };
        let paid = per_percent(ticks, params.reservation_percent);
        let charge = Charge { v: virtual_time(ticks, params.weight), budget, paid, reserved };
        self.v = self.v.saturating_add(charge.v);
        self.budget = self.budget.saturating_sub(charge.budget);
        self.paid_until = self.paid_until.saturating_add(charge.paid);
        charge
    }

    /// Takes a charge back.
    pub(super) fn refund(&mut self, charge: Charge) {
        self.v = self.v.saturating_sub(charge.v);
        self.budget = self.budget.saturating_add(charge.budget);
        self.paid_until = self.paid_until.saturating_sub(charge.paid);
    }

    /// Adds to the cap's budget what time brought, and sees whether it holds the VM back.
    pub(super) fn refill(&mut self, params: &VmParams, tsc_hz: u64, now: u64) {
        let Some(cap) = params.cap_percent.map(|percent| u64::from(percent.max(1))) else {
            (self.budget, self.refilled_at, self.held) = (0, now, None);
            return;
        };
        let saved = signed((cap * SAVED_MS).saturating_mul(ms(tsc_hz)));
        let brought = signed(cap.saturating_mul(now.saturating_sub(self.refilled_at)));
        self.refilled_at = self.refilled_at.max(now);
        self.budget = self.budget.saturating_add(brought).min(saved);
        let of = |time: u64| signed((cap * time).saturating_mul(ms(tsc_hz)));
        self.saved_up = self.budget >= of(REFILL_MS);
        if self.held.is_none() && self.budget < of(LEAST_MS) {
            // This time stays, whatever other turns give back: CPUs that idle were told it.
            let missing = u64::try_from(of(REFILL_MS).saturating_sub(self.budget)).unwrap_or(0);
            self.held = Some(self.refilled_at.saturating_add(missing.div_ceil(cap)));
        }
    }

    /// The longest slice that the cap allows.
    pub(super) fn allowed(&self, params: &VmParams) -> u64 {
        if params.cap_percent.is_none() {
            return u64::MAX;
        }
        u64::try_from(self.budget / 100).unwrap_or(0)
    }

    /// How many more of the VM's vCPUs may run at a time: as many as the cap has whole CPUs, and one for the rest: where there
    /// are whole ones, only when enough is saved up, for their vCPUs are not to be held back on its account.
    pub(super) fn free(&self, params: &VmParams) -> usize {
        let Some(cap) = params.cap_percent else { return usize::MAX };
        let whole = (cap / 100) as usize;
        let rest = whole == 0 || cap % 100 != 0 && self.saved_up;
        (whole + usize::from(rest)).saturating_sub(self.running)
    }

    /// Whether the reservation is owed time now.
    pub(super) fn is_owed(&self, params: &VmParams, now: u64) -> bool {
        params.reservation_percent > 0 && self.held.is_none() && self.paid_until <= now
    }

    /// Keeps the account near the others' virtual time `around` and near the clock: nobody saves up time, or pays for ever
    /// for time that nobody else wanted.
    pub(super) fn bound(&mut self, params: &VmParams, around: u128, tsc_hz: u64, now: u64) {
        let behind = virtual_time(params.quantum.saturating_mul(BEHIND_QUANTA), params.weight);
        let ahead = virtual_time(params.quantum.saturating_mul(AHEAD_QUANTA), params.weight);
        self.v = self.v.clamp(around.saturating_sub(behind), around.saturating_add(ahead));
        let ahead = per_percent(params.quantum, params.reservation_percent).saturating_add(params.quantum);
        let owed = now.saturating_sub(OWED_MS.saturating_mul(ms(tsc_hz)));
        self.paid_until = self.paid_until.clamp(owed, now.saturating_add(ahead).max(owed));
    }

    /// The VM was asleep, and wakes among VMs whose virtual time is `around`.
    pub(super) fn arrive(&mut self, params: &VmParams, around: u128, now: u64) {
        self.v = self.v.max(around.saturating_sub(virtual_time(credit(params), params.weight)));
        self.paid_until = self.paid_until.max(now);
    }
}

/// What a sleeper has in hand when it wakes, in ticks.
const fn credit(params: &VmParams) -> u64 {
    params.quantum / 2
}

/// `ticks / weight`
pub(super) fn virtual_time(ticks: u64, weight: u32) -> u128 {
    let weight = u64::from(weight.max(1));
    match ticks.checked_mul(SCALE) {
        Some(product) => u128::from(product / weight),
        None => u128::from(ticks) * u128::from(SCALE) / u128::from(weight),
    }
}

/// The time in which `percent` of a CPU is `ticks`.
const fn per_percent(ticks: u64, percent: u32) -> u64 {
    if percent == 0 { 0 } else { ticks.saturating_mul(100) / percent as u64 }
}

fn hundredths(ticks: u64) -> i64 {
    signed(ticks.saturating_mul(100))
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

const fn ms(tsc_hz: u64) -> u64 {
    let ticks = tsc_hz / 1000;
    if ticks == 0 { 1 } else { ticks }
}
