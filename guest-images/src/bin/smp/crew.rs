//! All processors on one job: [`all`] runs a function on each, [`barrier`] lets them wait for each other, [`wait_for`]
//! waits for anything, and fails the guest where it does not come.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use guest::apic::{self, ICR_ASSERT, ICR_OTHERS, register};
use guest::boot_info::option;
use guest::{clock, cpu, fail, smp, trap};

/// Seconds of guest time after which what is waited for does not come any more.
const LIMIT_S: u64 = 60;
/// Wakes a processor that is halted between two jobs.
const WAKE_VECTOR: u8 = 0x30;

static COUNT: AtomicUsize = AtomicUsize::new(0);
static JOB: AtomicUsize = AtomicUsize::new(0);
static GENERATION: AtomicU32 = AtomicU32::new(0);
static DONE: AtomicUsize = AtomicUsize::new(0);
/// The spurious-interrupt vector register as each processor's start found it.
static SVR_AT_START: [AtomicU32; smp::MAX_CPUS] = [const { AtomicU32::new(0) }; smp::MAX_CPUS];

/// The last start of each processor that has come to wait for jobs.
static READY: [AtomicU32; smp::MAX_CPUS] = [const { AtomicU32::new(0) }; smp::MAX_CPUS];

/// What a processor does in a job: it is told its index, and leaves interrupts off as it found them.
pub(crate) type Job = fn(usize);

/// How many processors there are.
pub(crate) fn count() -> usize {
    COUNT.load(Relaxed)
}

/// The SVR that the last start of a processor found.
pub(crate) fn svr_at_start(index: usize) -> u32 {
    SVR_AT_START[index].load(SeqCst)
}

/// Starts all processors but this one, and has them wait for jobs.
pub(crate) fn muster(count: usize) {
    COUNT.store(count, SeqCst);
    trap::on(WAKE_VECTOR, |_| apic::end_of_interrupt());
    enable_apic(0);
    for index in 1..count {
        smp::start(index, work);
    }
}

/// Software-enables the local APIC, in the mode that the command line asks for. In xAPIC mode the first eight
/// processors get a logical ID of the flat model, a bit each; in x2APIC mode the logical ID is given.
fn enable_apic(index: usize) {
    if option("x2apic") == Some(1) {
        apic::enter_x2apic();
    }
    SVR_AT_START[index].store(apic::read(register::SVR), SeqCst);
    apic::enable();
    if !apic::is_x2apic() && index < 8 {
        apic::write(register::LDR, 1 << (24 + index));
    }
}

/// The life of a started processor.
pub(crate) fn work(index: usize) -> ! {
    enable_apic(index);
    let mut seen = GENERATION.load(SeqCst);
    READY[index].store(smp::starts(index), SeqCst);
    loop {
        cpu::halt_until(|| GENERATION.load(SeqCst) != seen);
        seen = GENERATION.load(SeqCst);
        // SAFETY: only `all` stores into JOB, and it stores a `Job`.
        let job = unsafe { core::mem::transmute::<usize, Job>(JOB.load(SeqCst)) };
        job(index);
        DONE.fetch_add(1, SeqCst);
    }
}

/// Waits until a processor that was started waits for jobs.
pub(crate) fn wait_until_ready(index: usize) {
    wait_for("a started CPU waits for jobs", || READY[index].load(SeqCst) == smp::starts(index));
}

/// Runs a job on every processor, and returns when all have done it.
pub(crate) fn all(job: Job) {
    for index in 1..count() {
        wait_until_ready(index);
    }
    JOB.store(job as usize, SeqCst);
    DONE.store(0, SeqCst);
    GENERATION.fetch_add(1, SeqCst);
    apic::send_ipi(0, ICR_OTHERS | ICR_ASSERT | u32::from(WAKE_VECTOR));
    job(0);
    wait_for("all CPUs have done the job", || DONE.load(SeqCst) == count() - 1);
}

/// Waits until all processors are here. Interrupts stay on or off as they are.
pub(crate) fn barrier() {
    static ARRIVED: AtomicUsize = AtomicUsize::new(0);
    static PHASE: AtomicUsize = AtomicUsize::new(0);
    let phase = PHASE.load(SeqCst);
    if ARRIVED.fetch_add(1, SeqCst) == count() - 1 {
        ARRIVED.store(0, SeqCst);
        PHASE.store(phase + 1, SeqCst);
    } else {
        wait_for("all CPUs are at the barrier", || PHASE.load(SeqCst) != phase);
    }
}

/// Waits, by PAUSE, until `done()` holds.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begin = cpu::read_tsc();
    while !done() {
        core::hint::spin_loop();
        if cpu::read_tsc().saturating_sub(begin) > LIMIT_S * clock::tsc_hz() {
            fail!("CPU {}: waited {LIMIT_S} s in vain until {what}", smp::current());
        }
    }
}
