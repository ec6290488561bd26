//! The exit model: what mix of VM exits is usual for a VM, and whether the last window is far outside of it.
//!
//! Every window gives one rate for each exit reason `r`, taken as `x_r = log2(1 + exits per second)`: rates differ by factors. Of
//! each reason a mean `m_r` and a variance `v_r` are kept by exponential averaging: `m += (x - m) / 8`, `v += ((x - m)^2 - v) / 8`.
//! What is far outside teaches little: `(x - m)^2` counts as `4 (v + (1/4)^2)` at most, and a suspect window moves the means by
//! 1/64 alone. So a storm does not become usual at once, but in some minutes.
//!
//! A window is one of several things: *usual*, or *a storm of r* for some `r`. By naive Bayes the rates are independent of each
//! other given which of them it is, and all but `r`'s are as usual in a storm of `r`. So they cancel, and the odds are
//!
//! ```text
//! odds(storm of r : usual) = P(storm of r) / P(usual) * U(x_r) / N(x_r; m_r, s_r^2)
//! s_r^2 = v_r + (1/4)^2 + (log2 e)^2 / (1 + exits that are usual in a window)
//! ```
//!
//! `N` is the normal density; its variance never falls below a quarter of an octave, and has the noise of counting in it. `U` is
//! the density of a storm's rate, the same from [`STORM_PER_S`] to the most that can be counted: below that an exit reason costs the
//! host so little that it is none, and a rate below its mean is none either. A storm is expected once in 2^10 windows, of each
//! reason alike. The reason with the highest odds is the one that stands out; from [`SUSPECT_LOG2_ODDS`] on the VM is suspect. That
//! is a remark for the operator; nothing else follows from it.
//!
//! All numbers are fixed-point, with 16 bits behind the point: the hypervisor has no use for the FPU, which is the guests'.

use crate::exit::REASON_COUNT;

/// Exits per second for one reason from which on they may be a storm: some percent of a CPU.
pub const STORM_PER_S: u64 = 4096;
/// A VM is suspect from odds of 2^10 to 1 on.
pub const SUSPECT_LOG2_ODDS: u32 = 10;
/// So many windows are learned from before one is judged.
pub const WINDOWS_TO_LEARN: u32 = 8;

/// One, in fixed-point.
const ONE: i64 = 1 << 16;
/// `log2(e)` and its square, `log2(2 pi)`.
const LOG2_E: i64 = 94_548;
const LOG2_E_SQUARED: i64 = 136_404;
const LOG2_2_PI: i64 = 173_768;
/// `log2` of the prior odds, 2^-10 over 80 reasons, and of the width of [`STORM_PER_S`] to 2^32, 20 octaves.
const LOG2_PRIOR: i64 = -16 * ONE - 21_098;
const LOG2_WIDTH: i64 = 283_246;
/// The square of a quarter of an octave.
const LEAST_VARIANCE: i64 = ONE / 16;
/// The variance before anything is known of it: an octave's square.
const FIRST_VARIANCE: i64 = ONE;

/// A reason that stands out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Suspicion {
    /// The basic exit reason.
    pub reason: u16,
    /// Its exits per second in the last window.
    pub per_s: u64,
    /// What was usual.
    pub usual_per_s: u64,
    /// The odds against the window being a usual one, as a power of 2.
    pub log2_odds: u32,
}

/// What is usual for a reason.
#[derive(Clone, Copy, Debug)]
struct Usual {
    mean: i64,
    variance: i64,
}

/// The model of a VM.
#[derive(Clone, Debug)]
pub struct ExitModel {
    /// The counters at the end of the last window.
    last: [u64; REASON_COUNT],
    usual: [Usual; REASON_COUNT],
    windows: u32,
    suspicion: Option<Suspicion>,
}

impl ExitModel {
    /// A model that knows nothing, of a VM whose counters are all 0.
    #[must_use]
    pub const fn new() -> Self {
        let usual = Usual { mean: 0, variance: FIRST_VARIANCE };
        Self { last: [0; REASON_COUNT], usual: [usual; REASON_COUNT], windows: 0, suspicion: None }
    }

    /// The suspicion of the last window.
    #[must_use]
    pub const fn suspicion(&self) -> Option<Suspicion> {
        self.suspicion
    }

    /// A window of `us` microseconds of the VM's time has ended with these counters. Judges it, and learns from it.
    pub fn observe(&mut self, by_reason: &[u64; REASON_COUNT], us: u64) -> Option<Suspicion> {
        let us = us.max(1);
        let mut rates = [0; REASON_COUNT];
        for ((rate, last), &count) in rates.iter_mut().zip(&mut self.last).zip(by_reason) {
            *rate = count.saturating_sub(*last).saturating_mul(1_000_000) / us;
            *last = count;
        }
        self.suspicion = if self.windows < WINDOWS_TO_LEARN { None } else { self.judge(&rates, us) };
        for (usual, &rate) in self.usual.iter_mut().zip(&rates) {
            let off = log2(rate.saturating_add(1)) - usual.mean;
            match (self.windows, self.suspicion) {
                (0, _) => usual.mean += off,
                (_, Some(_)) => usual.mean += off / 64,
                (_, None) => {
                    usual.mean += off / 8;
                    let most = 4 * (usual.variance + LEAST_VARIANCE);
                    usual.variance += ((off * off / ONE).min(most) - usual.variance) / 8;
                }
            }
        }
        self.windows = self.windows.saturating_add(1);
        self.suspicion
    }

    /// The reason with the highest odds, if they are high enough.
    fn judge(&self, rates: &[u64; REASON_COUNT], us: u64) -> Option<Suspicion> {
        let of = |(reason, (usual, &rate)): (usize, (&Usual, &u64))| {
            let log2_odds = usual.log2_odds(rate, us)?;
            let reason = u16::try_from(reason).ok()?;
            Some(Suspicion { reason, per_s: rate, usual_per_s: usual.per_s(), log2_odds })
        };
        let candidates = self.usual.iter().zip(rates).enumerate().filter_map(of);
        candidates.max_by_key(|candidate| candidate.log2_odds).filter(|found| found.log2_odds >= SUSPECT_LOG2_ODDS)
    }
}

impl Default for ExitModel {
    fn default() -> Self {
        Self::new()
    }
}

impl Usual {
    /// Exits per second.
    fn per_s(&self) -> u64 {
        exp2(self.mean).saturating_sub(1)
    }

    /// The odds of a storm with this rate, as a power of 2, if they are not below 1.
    fn log2_odds(&self, per_s: u64, window_us: u64) -> Option<u32> {
        let off = log2(per_s.saturating_add(1)) - self.mean;
        if per_s < STORM_PER_S || off <= 0 {
            return None;
        }
        let in_window = self.per_s().saturating_mul(window_us) / 1_000_000;
        let counting = LOG2_E_SQUARED / i64::try_from(in_window.saturating_add(1)).unwrap_or(i64::MAX);
        let variance = self.variance + LEAST_VARIANCE + counting;
        // -log2 N(x; m, s^2) = (log2(2 pi) + log2(s^2)) / 2 + (x - m)^2 / (2 s^2) * log2(e)
        let log2_variance = log2(variance.unsigned_abs()) - 16 * ONE;
        let distance = off * off / (2 * variance) * LOG2_E / ONE;
        let log2_odds = LOG2_PRIOR - LOG2_WIDTH + (LOG2_2_PI + log2_variance) / 2 + distance;
        u32::try_from(log2_odds / ONE).ok()
    }
}

/// `log2(n)` in fixed-point, linear between the powers of 2 (at most 0.09 too little); 0 for 0.
fn log2(n: u64) -> i64 {
    let Some(power) = n.checked_ilog2() else { return 0 };
    let fraction = if power >= 16 { n >> (power - 16) } else { n << (16 - power) };
    i64::from(power) * ONE + i64::try_from(fraction).unwrap_or(ONE) - ONE
}

/// `2^x`, the inverse of [`log2`].
fn exp2(x: i64) -> u64 {
    let (power, fraction) = (x.div_euclid(ONE), x.rem_euclid(ONE).unsigned_abs() + (1 << 16));
    match power {
        i64::MIN..0 => 0,
        0..16 => fraction >> (16 - power),
        16..63 => fraction << (power - 16),
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests;
