//! Memory that all share: LOCK XADD, a ticket lock that spins by PAUSE, and TLB shootdown by IPI.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{
    AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst,
};
use guest::apic::{self, ICR_ASSERT, ICR_OTHERS};
use guest::{check, cpu, println, smp, trap};

use crate::crew::{self, wait_for};
use crate::rounds;

/// How often each processor adds by LOCK XADD and how often under the lock, per round.
const ADDITIONS: u32 = 500;
const LOCKED_ADDITIONS: u32 = 5;

pub(crate) fn check() {
    crew::all(add);
    let cpus = crew::count() as u64;
    let (sum, expected) = (u64::from(SUM.load(SeqCst)), cpus * u64::from(rounds() * ADDITIONS));
    check!(sum == expected, "LOCK XADD: the sum is {sum} instead of {expected}");
    crew::all(add_locked);
    let (sum, expected) = (LOCKED_SUM.get(), cpus * u64::from(rounds() * LOCKED_ADDITIONS));
    check!(sum == expected, "ticket lock: the sum is {sum} instead of {expected}");
    println!("smp: sums are exact");
    shootdown::check();
}

static SUM: AtomicU32 = AtomicU32::new(0);

fn add(_: usize) {
    for _ in 0..rounds() * ADDITIONS {
        SUM.fetch_add(1, Relaxed);
    }
}

/// A ticket lock: who draws a number is served in its turn.
struct TicketLock {
    next: AtomicU32,
    serving: AtomicU32,
}

impl TicketLock {
    fn with(&self, work: impl FnOnce()) {
        let ticket = self.next.fetch_add(1, Relaxed);
        wait_for("the lock serves its ticket", || self.serving.load(Acquire) == ticket);
        work();
        self.serving.store(ticket.wrapping_add(1), Release);
    }
}

/// A counter that is right only if one processor at a time adds to it.
struct Unguarded(UnsafeCell<u64>);
// SAFETY: it is read and written under the lock, or while one processor runs alone.
unsafe impl Sync for Unguarded {}

impl Unguarded {
    fn get(&self) -> u64 {
        // SAFETY: as above; volatile, so that a broken lock shows.
        unsafe { self.0.get().read_volatile() }
    }

    fn set(&self, value: u64) {
        // SAFETY: as above.
        unsafe { self.0.get().write_volatile(value) };
    }
}

static LOCK: TicketLock = TicketLock { next: AtomicU32::new(0), serving: AtomicU32::new(0) };
static LOCKED_SUM: Unguarded = Unguarded(UnsafeCell::new(0));

fn add_locked(_: usize) {
    for _ in 0..rounds() * LOCKED_ADDITIONS {
        LOCK.with(|| LOCKED_SUM.set(LOCKED_SUM.get() + 1));
    }
}

/// CPU 0 maps one address to another page; all have the old mapping in their TLBs, and drop it when told by IPI.
mod shootdown {
    use super::*;

    const VECTOR: u8 = 0x31;
    /// In the PML4's second entry, where nothing else is mapped.
    const ADDRESS: u64 = 1 << 39;
    const PRESENT_WRITABLE: u64 = 0b11;

    /// Page-directory-pointer table, page directory, page table, and the two pages that they map in turn.
    #[repr(C, align(4096))]
    struct Pages([[AtomicU64; 512]; 5]);
    static PAGES: Pages = Pages([const { [const { AtomicU64::new(0) }; 512] }; 5]);
    static ACKNOWLEDGED: AtomicU32 = AtomicU32::new(0);
    static ROUND: AtomicU32 = AtomicU32::new(0);

    unsafe extern "C" {
        static guest_page_tables: [AtomicU64; 512];
    }

    fn address_of(page: usize) -> u64 {
        &raw const PAGES.0[page] as u64
    }

    fn map(page: usize) {
        PAGES.0[2][0].store(address_of(page) | PRESENT_WRITABLE, SeqCst);
    }

    fn invalidate() {
        // SAFETY: INVLPG only drops translations.
        unsafe { asm!("invlpg [{}]", in(reg) ADDRESS, options(nostack, preserves_flags)) };
    }

    /// What is seen at the address, which is mapped.
    fn look() -> u64 {
        // SAFETY: `check` maps the address to one of two pages before anybody looks.
        unsafe { (ADDRESS as *const u64).read_volatile() }
    }

    /// The page that is mapped in a round.
    fn page_of(round: u32) -> usize {
        3 + (round & 1) as usize
    }

    pub(super) fn check() {
        PAGES.0[3][0].store(3, SeqCst);
        PAGES.0[4][0].store(4, SeqCst);
        PAGES.0[0][0].store(address_of(1) | PRESENT_WRITABLE, SeqCst);
        PAGES.0[1][0].store(address_of(2) | PRESENT_WRITABLE, SeqCst);
        map(page_of(0));
        // SAFETY: the entry code's PML4, whose second entry is not present until now.
        unsafe { guest_page_tables[1].store(address_of(0) | PRESENT_WRITABLE, SeqCst) };
        trap::on(VECTOR, |_| {
            invalidate();
            ACKNOWLEDGED.fetch_add(1, SeqCst);
            apic::end_of_interrupt();
        });
        crew::all(look_and_change);
        println!("smp: no stale translations");
    }

    fn look_and_change(me: usize) {
        cpu::enable_interrupts();
        for round in 0..rounds() {
            let (seen, expected) = (look(), page_of(round) as u64);
            check!(seen == expected, "CPU {me} sees page {seen} instead of {expected} in round {round}");
            crew::barrier();
            if me == 0 {
                map(page_of(round + 1));
                ACKNOWLEDGED.store(0, SeqCst);
                apic::send_ipi(0, ICR_OTHERS | ICR_ASSERT | u32::from(VECTOR));
                invalidate();
                wait_for("all CPUs acknowledge the TLB shootdown", || {
                    ACKNOWLEDGED.load(SeqCst) as usize == crew::count() - 1
                });
                ROUND.store(round + 1, SeqCst);
            }
            wait_for("CPU 0 has changed the mapping", || ROUND.load(SeqCst) == round + 1);
            // Now and then long enough for the host to give the CPU to others, and this vCPU another CPU.
            if round % 8 == 7 {
                smp::wait_us(500);
            }
        }
        cpu::disable_interrupts();
    }
}
