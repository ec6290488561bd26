//! Measuring one operation at a time: RDTSC, the operation, RDTSC; and what many rounds of that come to.

use guest::{check, println};

/// The most rounds of a row.
pub(crate) const ROUNDS_MAX: usize = 4096;
/// Rounds before those that count, so that what is done once only is not in them.
const WARM_UP: usize = 16;
/// Rounds with a mark before and behind the operation. Of several, one is without what happens now and then.
const MARKED: usize = 3;
/// The most rows.
const ROWS_MAX: usize = 64;

/// TSC ticks that instructions took, from RDTSC to RDTSC: 2 where there are none. `before` and `after` are not in it. RAX, RDX
/// and R8 are the macro's own: the first two can be used by the instructions, but must be set by them. An interval of more than
/// 32 bits of TSC is not told from a shorter one.
macro_rules! timed {
    ([$($instruction:expr),*] $(; $($operand:tt)+)?) => { timed!([], [$($instruction),*], [] $(; $($operand)+)?) };
    ([$($before:expr),*], [$($instruction:expr),*], [$($after:expr),*] $(; $($operand:tt)+)?) => {{
        let ticks: u32;
        ::core::arch::asm!(
            $($before,)*
            // What came before is done before the first reading.
            "lfence",
            "rdtsc",
            "mov r8d, eax",
            $($instruction,)*
            "rdtsc",
            "sub eax, r8d",
            $($after,)*
            $($($operand)+,)?
            out("eax") ticks, out("edx") _, out("r8") _,
        );
        ticks
    }};
}
pub(crate) use timed;

/// Does nothing, and is what the emulator Bochs can be told to stop at: who traces instructions begins and ends there.
fn mark() {
    // SAFETY: BX is exchanged with itself.
    unsafe { core::arch::asm!("xchg bx, bx", options(nomem, nostack, preserves_flags)) };
}

/// What a number of rounds came to, in TSC ticks.
struct Row {
    name: &'static str,
    rounds: usize,
    marked: usize,
    mean: u64,
    min: u32,
    p50: u32,
    p99: u32,
    max: u32,
}

/// All rows so far. They are printed in the end: while a line is on its way, the host has work.
pub(crate) struct Report {
    rounds: usize,
    samples: [u32; ROUNDS_MAX],
    rows: [Option<Row>; ROWS_MAX],
    len: usize,
}

impl Report {
    /// An empty report, of rows of so many rounds.
    pub(crate) fn new(rounds: usize) -> Self {
        check!((1..=ROUNDS_MAX).contains(&rounds), "rounds={rounds}: 1 to {ROUNDS_MAX}");
        Self { rounds, samples: [0; ROUNDS_MAX], rows: [const { None }; ROWS_MAX], len: 0 }
    }

    /// Measures an operation in all rounds; it gives the ticks it took.
    pub(crate) fn row(&mut self, name: &'static str, mut operation: impl FnMut() -> u32) {
        for _ in 0..WARM_UP {
            operation();
        }
        self.measure(name, MARKED, core::iter::repeat(()), |()| operation());
    }

    /// The same for one that is more than what is between two readings of the TSC, so that marks around it would say nothing.
    pub(crate) fn row_without_marks(&mut self, name: &'static str, mut operation: impl FnMut() -> u32) {
        for _ in 0..WARM_UP {
            operation();
        }
        self.measure(name, 0, core::iter::repeat(()), |()| operation());
    }

    /// Measures an operation on each of these, which it can be done to only once; all rounds at most.
    pub(crate) fn row_of_each<T>(
        &mut self,
        name: &'static str,
        things: impl Iterator<Item = T>,
        operation: impl FnMut(T) -> u32,
    ) {
        self.measure(name, MARKED, things, operation);
    }

    fn measure<T>(
        &mut self,
        name: &'static str,
        marked: usize,
        things: impl Iterator<Item = T>,
        mut operation: impl FnMut(T) -> u32,
    ) {
        let mut rounds = 0;
        for (sample, thing) in self.samples[..self.rounds].iter_mut().zip(things) {
            let is_marked = rounds < marked;
            if is_marked {
                mark();
            }
            *sample = operation(thing);
            if is_marked {
                mark();
            }
            rounds += 1;
        }
        check!(rounds > 0, "{name}: nothing to measure");
        self.add(name, rounds, marked.min(rounds));
    }

    /// Makes a row of the first samples.
    fn add(&mut self, name: &'static str, rounds: usize, marked: usize) {
        let samples = &mut self.samples[..rounds];
        samples.sort_unstable();
        // By the nearest rank: so many per cent of all rounds took no longer.
        let percentile = |percent: usize| samples[(rounds * percent).div_ceil(100) - 1];
        let sum: u64 = samples.iter().map(|&sample| u64::from(sample)).sum();
        self.rows[self.len] = Some(Row {
            name,
            rounds,
            marked,
            mean: sum / rounds as u64,
            min: samples[0],
            p50: percentile(50),
            p99: percentile(99),
            max: samples[rounds - 1],
        });
        self.len += 1;
    }

    /// Prints a line for each row; gives how many there are.
    pub(crate) fn print(&self) -> usize {
        for Row { name, rounds, marked, mean, min, p50, p99, max } in self.rows.iter().flatten() {
            println!("row: {name} rounds={rounds} marked={marked} mean={mean} min={min} p50={p50} p99={p99} max={max}");
        }
        self.len
    }
}
