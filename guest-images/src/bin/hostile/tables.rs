//! What a CPU of this guest cannot be without: GDT, IDT, TSSes and page tables, made anew after each step, for nothing that a
//! piece of code runs beside is safe from it.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::CPUS;

/// Memory that nobody needs: 512 KiB.
pub(crate) const SCRATCH: u64 = 0x50_0000;
/// A page of 2 MiB that user code reaches.
pub(crate) const USER: u64 = 0x60_0000;

const RAM_END: u64 = 0x80_0000;
/// A page without RAM or devices.
pub(crate) const NOTHING: u64 = 0xC000_0000;
const DEVICES: u64 = 0xFEC0_0000;
const DEVICES_END: u64 = 0xFF00_0000;

/// Words of aligned memory.
#[repr(C, align(8192))]
pub(crate) struct Words<const N: usize>(pub(crate) [AtomicU64; N]);

impl<const N: usize> Words<N> {
    pub(crate) const fn zeroed() -> Self {
        Self([const { AtomicU64::new(0) }; N])
    }

    pub(crate) fn address(&self) -> u64 {
        &raw const self.0 as u64
    }

    pub(crate) fn set(&self, index: usize, value: u64) {
        self.0[index].store(value, Relaxed);
    }
}

/// Selectors of the GDT.
pub(crate) const CODE64: u64 = 0x08;
pub(crate) const DATA: u64 = 0x10;
pub(crate) const CODE32: u64 = 0x18;
pub(crate) const CODE16: u64 = 0x20;
pub(crate) const USER_CODE32: u64 = 0x2B;
pub(crate) const USER_DATA: u64 = 0x33;
pub(crate) const USER_CODE64: u64 = 0x3B;
pub(crate) const USER_CODE16: u64 = 0x7B;
/// Of CPU 0; CPU 1's is 16 bytes on.
pub(crate) const TSS: u64 = 0x40;
const TSS32: usize = 0x60;

/// The last one is at [`USER_CODE16`].
const GDT_ENTRIES: usize = 16;
/// Entries of the six tables: PML4, page-directory-pointer table, four page directories.
const ENTRIES: usize = 6 * 512;

#[unsafe(no_mangle)]
pub(crate) static HOSTILE_GDT: Words<GDT_ENTRIES> = Words::zeroed();
#[unsafe(no_mangle)]
pub(crate) static HOSTILE_IDT: Words<512> = Words::zeroed();
#[unsafe(no_mangle)]
static HOSTILE_IDT32: Words<256> = Words::zeroed();
#[unsafe(no_mangle)]
static HOSTILE_PAGE_TABLES: Words<ENTRIES> = Words::zeroed();
/// Tables to be spoilt.
pub(crate) static SPARE_PAGE_TABLES: Words<ENTRIES> = Words::zeroed();

/// A CPU's block: words that `sandbox.rs` names, and above them the stack for exceptions. Aligned to its size, so that a stack
/// pointer leads to it.
pub(crate) static BLOCKS: [Words<1024>; CPUS] = [const { Words::zeroed() }; CPUS];

static TASK_STATES: [[AtomicU32; 26]; CPUS + 1] = [const { [const { AtomicU32::new(0) }; 26] }; CPUS + 1];

unsafe extern "C" {
    /// The first of 256 stubs, 16 bytes each.
    static hostile_stubs: u8;
    static hostile_legacy_back: u8;
}

/// Makes all of it anew.
pub(crate) fn rebuild() {
    const SEGMENTS: [(usize, u64); 9] = [
        (CODE64 as usize, 0x00AF_9B00_0000_FFFF),
        (DATA as usize, 0x00CF_9300_0000_FFFF),
        (CODE32 as usize, 0x00CF_9B00_0000_FFFF),
        (CODE16 as usize, 0x008F_9B00_0000_FFFF),
        (USER_CODE32 as usize, 0x00CF_FB00_0000_FFFF),
        (USER_DATA as usize, 0x00CF_F300_0000_FFFF),
        (USER_CODE64 as usize, 0x00AF_FB00_0000_FFFF),
        (USER_CODE16 as usize, 0x008F_FB00_0000_FFFF),
        // For the way to real mode and back: 64 KiB from 0, code; the data segment follows it.
        (0x68, 0x0000_9B00_0000_FFFF),
    ];
    HOSTILE_GDT.set(0, 0);
    for (selector, descriptor) in SEGMENTS {
        HOSTILE_GDT.set(selector / 8, descriptor);
    }
    HOSTILE_GDT.set(0x70 / 8, 0x0000_9300_0000_FFFF);
    for (cpu, block) in BLOCKS.iter().enumerate() {
        let task_state = &TASK_STATES[cpu];
        // "64-Bit TSS Format": RSP0 at 4, IST1 at 36, the I/O permission bitmap behind the limit: none.
        let top = block.address() + 8192;
        for at in [1, 9] {
            task_state[at].store(top as u32, Relaxed);
            task_state[at + 1].store((top >> 32) as u32, Relaxed);
        }
        task_state[25].store(104 << 16, Relaxed);
        let [low, high] = task_state_descriptor(task_state);
        HOSTILE_GDT.set(TSS as usize / 8 + 2 * cpu, low);
        HOSTILE_GDT.set(TSS as usize / 8 + 2 * cpu + 1, high);
    }
    // "32-Bit Task-State Segment": ESP0 at 4, SS0 at 8.
    let task_state = &TASK_STATES[CPUS];
    for (at, value) in [(1, SCRATCH as u32 + 0x7_0000), (2, DATA as u32), (25, 104 << 16)] {
        task_state[at].store(value, Relaxed);
    }
    HOSTILE_GDT.set(TSS32 / 8, task_state_descriptor(task_state)[0]);
    gates();
    fill_page_tables(&HOSTILE_PAGE_TABLES);
}

fn task_state_descriptor(task_state: &[AtomicU32; 26]) -> [u64; 2] {
    const AVAILABLE: u64 = 0x89 << 40;
    const LIMIT: u64 = 103;
    let base = task_state.as_ptr() as u64;
    [LIMIT | (base & 0xFF_FFFF) << 16 | AVAILABLE | (base >> 24 & 0xFF) << 56, base >> 32]
}

/// Interrupt gates that every privilege level may use.
fn gates() {
    const GATE: u64 = 0xEE << 40;
    const IST1: u64 = 1 << 32;
    let gate = |target: u64, selector: u64| target & 0xFFFF | selector << 16 | GATE | (target & 0xFFFF_0000) << 32;
    let (stubs, back) = (&raw const hostile_stubs as u64, &raw const hostile_legacy_back as u64);
    for vector in 0..256 {
        let stub = stubs + vector as u64 * 16;
        HOSTILE_IDT.set(2 * vector, gate(stub, CODE64) | IST1);
        HOSTILE_IDT.set(2 * vector + 1, stub >> 32);
        HOSTILE_IDT32.set(vector, gate(back, CODE32));
    }
}

/// Identity, by 2 MiB pages: 8 MiB of RAM, of which user code reaches a page; the devices; and a page where nothing is. An
/// address at random is not mapped, so that what is done there is a page fault mostly and seldom the end.
pub(crate) fn fill_page_tables(tables: &Words<ENTRIES>) {
    const TABLE: u64 = 0b111;
    const PAGE: u64 = 0x83;
    const USER_PAGE: u64 = 0x87;
    let table = |number: u64| (tables.address() + number * 4096) | TABLE;
    tables.set(0, table(1));
    for number in 0..4 {
        tables.set(512 + number, table(2 + number as u64));
    }
    for page in 0..2048 {
        let address = (page as u64) << 21;
        let entry = match address {
            USER => address | USER_PAGE,
            0..RAM_END | NOTHING | DEVICES..DEVICES_END => address | PAGE,
            _ => 0,
        };
        tables.set(1024 + page, entry);
    }
}
