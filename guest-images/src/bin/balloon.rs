//! A driver of the memory balloon (virtio-mmio): gives as many pages as the host asks for and takes them back when it
//! asks for fewer. All the time the pages that it keeps hold a pattern of their own address; a page taken back must
//! read zero.
//!
//! Command line: `balloon=0x..` is the device's address (default 0xfed10000), `irq=N` its IOAPIC input (16),
//! `touch=MIB` how much memory is written at first (all), `keep=MIB` how much is never given (1), `rounds=N` after how
//! many targets it ends (never), `watch=1` has a second processor read the last page all the time, which must not read what was in
//! it once the host has it. Expected: with `rounds`, `verdict: pass balloon: ...`.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use guest::apic;
use guest::boot_info::{self, Loader, Region, option};
use guest::virtio::{self, Device, F_VERSION_1, Queue, QueueMemory, register};
use guest::{check, cpu, fail, guest_main, paging, pass, println, smp, trap};

guest_main!(main);

const PAGE_SIZE: u64 = 4096;
const PAGES_PER_MIB: u64 = 256;
/// Device ID of the traditional memory balloon.
const DEVICE_BALLOON: u32 = 5;
/// VIRTIO_BALLOON_F_MUST_TELL_HOST: pages are told before they are used again, which this driver does.
const F_MUST_TELL_HOST: u64 = 1 << 0;
/// Where Lamina has it.
const DEFAULT_ADDRESS: u64 = 0xFED1_0000;
const DEFAULT_IRQ: u64 = 16;
/// `num_pages` and `actual` in the configuration space.
const NUM_PAGES: u64 = register::CONFIG;
const ACTUAL: u64 = register::CONFIG + 4;
/// The vector that this driver takes for the device's interrupt.
const VECTOR: u8 = 0x50;
/// IOAPIC redirection entry: level-triggered.
const LEVEL: u32 = 1 << 15;
/// How many page numbers go to the host at once.
const BATCH: usize = 256;

static INFLATE: QueueMemory = QueueMemory::new();
static DEFLATE: QueueMemory = QueueMemory::new();
/// The device's registers, for the interrupt handler; 0 until they are known.
static BASE: AtomicU32 = AtomicU32::new(0);
/// Interrupts since the start.
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

/// The page that the second processor reads, 0 while there is none; whether the host has it; and how often it was read.
static WATCHED: AtomicU64 = AtomicU64::new(0);
static GIVEN: AtomicBool = AtomicBool::new(false);
static READS: AtomicU64 = AtomicU64::new(0);

/// The memory that this driver gives from: pages of one range of RAM, the last of which are with the host.
struct Pool {
    start: u64,
    pages: u64,
    given: u64,
    /// The first so many pages hold the pattern, unless they are given.
    filled: u64,
}

fn main() {
    let mut pool = Pool::find();
    println!("balloon: {} pages from {:#x} on", pool.pages, pool.start);
    let keep = option("keep").unwrap_or(1).saturating_mul(PAGES_PER_MIB);
    check!(keep < pool.pages, "keep={} MiB leaves nothing to give", keep / PAGES_PER_MIB);
    pool.fill(option("touch").map_or(pool.pages, |mib| mib.saturating_mul(PAGES_PER_MIB).min(pool.pages)));
    println!("balloon: {} pages filled", pool.filled);

    let (device, mut inflate, mut deflate) = start_device();
    if option("watch") == Some(1) {
        check!(smp::find() > 1, "watch=1 needs a second processor");
        smp::start(1, watch);
    }
    let rounds = option("rounds").unwrap_or(0);
    let mut reached = 0;
    let mut round = 0;
    loop {
        let target = wait_for_target(&device, reached);
        reached = target;
        round += 1;
        let possible = u64::from(target).min(pool.pages - keep);
        println!("balloon: target {target} pages");
        if pool.given < possible {
            pool.give(&device, &mut inflate, possible);
        } else {
            pool.take_back(&device, &mut deflate, possible);
        }
        pool.verify(0..pool.filled.min(pool.pages - pool.given));
        check!(device.read(register::STATUS) & virtio::STATUS_NEEDS_RESET == 0, "the device needs a reset");
        println!("balloon: {} pages given", pool.given);
        if possible < u64::from(target) {
            println!("balloon: {} pages more are not to be had", u64::from(target) - possible);
        }
        if round == rounds {
            break;
        }
    }
    // Where the host was always faster than we slept, they wait until now.
    cpu::enable_interrupts();
    check!(INTERRUPTS.load(Relaxed) > 0, "no interrupt came");
    pass!("{rounds} targets, {} pages given in the end", pool.given);
}

/// Finds, negotiates with and starts the device; gives its inflate and its deflate queue.
fn start_device() -> (Device, Queue, Queue) {
    let address = option("balloon").unwrap_or(DEFAULT_ADDRESS);
    check!(address < 1 << 32 && address.is_multiple_of(4), "balloon={address:#x} is no address of registers");
    let broken = |why: &str| -> ! { fail!("the balloon at {address:#x}: {why}") };
    // SAFETY: the command line or the default names registers; what is not there reads all-ones.
    let device = unsafe { Device::at(address, DEVICE_BALLOON) }.unwrap_or_else(|why| broken(why));
    let features = device.negotiate(F_VERSION_1 | F_MUST_TELL_HOST).unwrap_or_else(|why| broken(why));
    println!("balloon: device at {address:#x}, features {features:#x}");
    check!(features & F_VERSION_1 != 0, "the device is a legacy one");
    // SAFETY: each queue has memory of its own.
    let (inflate, deflate) = unsafe { (Queue::new(device, 0, &INFLATE), Queue::new(device, 1, &DEFLATE)) };
    let (inflate, deflate) = (inflate.unwrap_or_else(|why| broken(why)), deflate.unwrap_or_else(|why| broken(why)));
    BASE.store(address as u32, Relaxed);
    trap::on(VECTOR, interrupt);
    apic::enable();
    let irq = option("irq").unwrap_or(DEFAULT_IRQ);
    check!(irq < 24, "irq={irq} is no input of the IOAPIC");
    // In xAPIC mode the ID register has the ID where a redirection entry has its destination.
    apic::ioapic_write(0x10 + 2 * irq as u8 + 1, apic::read(apic::register::ID) & 0xFF00_0000);
    apic::ioapic_write(0x10 + 2 * irq as u8, LEVEL | u32::from(VECTOR));
    device.start();
    (device, inflate, deflate)
}

/// Acknowledges whatever the device says. What it was, `wait_for_target` and the queues see for themselves.
fn interrupt(_: &mut trap::TrapFrame) {
    let base = u64::from(BASE.load(Relaxed));
    // SAFETY: `start_device` stored the address of the device's registers before it let interrupts come.
    unsafe {
        let status = apic::mmio_read(base + register::INTERRUPT_STATUS);
        apic::mmio_write(base + register::INTERRUPT_ACK, status);
    }
    INTERRUPTS.fetch_add(1, Relaxed);
    apic::end_of_interrupt();
}

/// Sleeps until the host asks for another number of pages than `reached`.
fn wait_for_target(device: &Device, reached: u32) -> u32 {
    let mut target = reached;
    cpu::halt_until(|| {
        target = device.read(NUM_PAGES);
        target != reached
    });
    target
}

impl Pool {
    /// The largest range of RAM that holds neither this kernel nor what its loader told it.
    fn find() -> Self {
        let mapped = paging::map_all();
        let (map, map_len) = boot_info::memory_map_address();
        let info_len = if boot_info::loader() == Loader::Pvh { 56 } else { 120 };
        let range = |start: u32, len: u32| (u64::from(start), u64::from(start) + u64::from(len));
        let command_line = boot_info::command_line().len() as u32 + 1;
        let taken = [
            paging::image(),
            paging::loader_gdt(),
            range(boot_info::info_address(), info_len),
            range(map, map_len),
            range(boot_info::command_line_address(), command_line),
        ];
        let mut best = (0, 0);
        for region in boot_info::memory_map().filter(|region| region.kind == Region::RAM) {
            let end = (region.start + region.len_bytes).min(mapped);
            // A free range begins where the region does or something taken ends.
            for start in taken.iter().map(|&(_, end)| end).chain([region.start]) {
                let start = start.next_multiple_of(PAGE_SIZE);
                let stop = taken.iter().filter(|&&(_, e)| e > start).map(|&(s, _)| s).fold(end, u64::min);
                let stop = stop & !(PAGE_SIZE - 1);
                if (region.start..end).contains(&start) && stop.saturating_sub(start) > best.1 - best.0 {
                    best = (start, stop);
                }
            }
        }
        Self { start: best.0, pages: (best.1 - best.0) / PAGE_SIZE, given: 0, filled: 0 }
    }

    fn address(&self, page: u64) -> u64 {
        self.start + page * PAGE_SIZE
    }

    /// Fills the first `pages` pages with their pattern.
    fn fill(&mut self, pages: u64) {
        (0..pages).for_each(|page| self.write_pattern(page));
        self.filled = pages;
    }

    fn write_pattern(&self, page: u64) {
        let page = self.address(page);
        for address in (page..page + PAGE_SIZE).step_by(512) {
            // SAFETY: the pool is mapped RAM that nothing else uses.
            unsafe { (address as *mut u64).write_volatile(pattern(address)) };
        }
    }

    fn verify(&self, pages: core::ops::Range<u64>) {
        for page in pages {
            let page = self.address(page);
            for address in (page..page + PAGE_SIZE).step_by(512) {
                let found = read(address);
                if found != pattern(address) {
                    fail!("{address:#x} was kept and holds {found:#x}, {:#x} was written", pattern(address));
                }
            }
        }
    }

    /// Gives pages until the host has `target`. The last page is the one that is watched.
    fn give(&mut self, device: &Device, queue: &mut Queue, target: u64) {
        while self.given < target {
            // One that is watched goes alone: the fewer instructions pass, the less can make a CPU forget it by chance.
            let is_watched = self.given == 0 && option("watch") == Some(1);
            let count = if is_watched { 1 } else { (target - self.given).min(BATCH as u64) };
            let first = self.pages - self.given - count;
            // What is given has something in it, so that a zero later proves that it was scrubbed.
            (first..first + count).for_each(|page| self.write_pattern(page));
            if is_watched {
                WATCHED.store(self.address(self.pages - 1), SeqCst);
                wait_for_reads();
            }
            self.tell(queue, first, count);
            if is_watched {
                GIVEN.store(true, SeqCst);
                wait_for_reads();
                println!("balloon: the other CPU lost sight of the page");
                WATCHED.store(0, SeqCst);
            }
            self.given += count;
            device.write(ACTUAL, self.given as u32);
        }
    }

    /// Takes pages back until the host has `target`, and checks that there is nothing in them.
    fn take_back(&mut self, device: &Device, queue: &mut Queue, target: u64) {
        while self.given > target {
            let count = (self.given - target).min(BATCH as u64);
            let first = self.pages - self.given;
            self.tell(queue, first, count);
            self.given -= count;
            device.write(ACTUAL, self.given as u32);
            for page in first..first + count {
                self.check_zero(page);
                if page < self.filled {
                    self.write_pattern(page);
                }
            }
        }
    }

    fn check_zero(&self, page: u64) {
        let page = self.address(page);
        let bits = (page..page + PAGE_SIZE).step_by(8).fold(0, |bits, address| bits | read(address));
        check!(bits == 0, "page {page:#x} was given and is not zero when it comes back");
    }

    /// Sends the numbers of `count` pages and waits until the host has taken them.
    fn tell(&self, queue: &mut Queue, first: u64, count: u64) {
        let mut numbers = [0u32; BATCH];
        for (number, page) in numbers.iter_mut().zip(first..first + count) {
            *number = (self.address(page) / PAGE_SIZE) as u32;
        }
        let numbers = core::hint::black_box(&numbers);
        queue.send(numbers.as_ptr() as u64, 4 * count as u32);
        cpu::halt_until(|| queue.is_idle());
    }
}

/// Waits until the second processor has read its page some more times.
fn wait_for_reads() {
    let begin = READS.load(SeqCst);
    while READS.load(SeqCst) < begin + 10_000 {
        core::hint::spin_loop();
    }
}

/// The second processor: it never leaves the guest by itself, so that it keeps whatever its TLB holds.
fn watch(_: usize) -> ! {
    loop {
        let given = GIVEN.load(SeqCst);
        let page = WATCHED.load(SeqCst);
        if page != 0 {
            let found = read(page);
            check!(!given || found == 0, "{page:#x} was given, and another CPU still reads {found:#x} there");
            READS.fetch_add(1, SeqCst);
        }
    }
}

/// The word that belongs at `address`.
fn pattern(address: u64) -> u64 {
    (address | 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn read(address: u64) -> u64 {
    // SAFETY: the pool is mapped RAM that nothing else uses.
    unsafe { (address as *const u64).read_volatile() }
}
