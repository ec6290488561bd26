//! Keeps a pattern in every register that is swapped on a vCPU switch: XMM or YMM, MXCSR, the x87 control word and a
//! stack register, DR0 to DR3, IA32_KERNEL_GS_BASE, IA32_STAR and IA32_LSTAR, XCR0. Spins and halts many times and
//! checks that all is still there. Two of these side by side with different patterns prove the swap.
//!
//! Command line: `pattern=N` (default 1), `rounds=N` (default 50), `hz=N` (default 100).
//! Expected: `verdict: pass fpu: ...`.
#![no_std]
#![no_main]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use guest::boot_info::option;
use guest::{apic, apic::register, check, clock, cpu, guest_main, pass, pic, println, trap};

guest_main!(main);

const TIMER_VECTOR: u8 = 0x40;
const KERNEL_GS_BASE: u32 = 0xC000_0102;
const STAR: u32 = 0xC000_0081;
const LSTAR: u32 = 0xC000_0082;
/// CPUID leaf 0xD sub-leaf 1 EAX.
const XSAVEC: u32 = 1 << 1;
static TICKS: AtomicU64 = AtomicU64::new(0);

/// The sixteen vector registers, and what else the FPU keeps.
#[repr(C, align(32))]
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    vectors: [[u64; 4]; 16],
    mxcsr: u32,
    control_word: u16,
    x87: u64,
}

fn on_timer(_: &mut trap::TrapFrame) {
    TICKS.fetch_add(1, Relaxed);
    apic::end_of_interrupt();
}

fn main() {
    let seed = option("pattern").unwrap_or(1);
    let rounds = option("rounds").unwrap_or(50).max(1);
    let avx = enable();
    let compacts = avx && cpu::cpuid(0xd, 1).eax & XSAVEC != 0;
    println!("fpu: pattern {seed}, {}{}", if avx { "YMM" } else { "XMM" }, if compacts { ", XSAVEC" } else { "" });
    trap::on(TIMER_VECTOR, on_timer);
    pic::init();
    apic::enable();
    apic::write(register::DIVIDE, apic::DIVIDE_BY_1);
    apic::write(register::LVT_TIMER, u32::from(TIMER_VECTOR) | apic::TIMER_PERIODIC);
    let hz = option("hz").unwrap_or(100).clamp(1, 1000);
    apic::write(register::INITIAL_COUNT, (clock::apic_timer_hz() / hz) as u32);
    for round in 0..rounds {
        let state = pattern(seed, round, avx);
        let words = system_words(seed, round);
        load(&state, avx);
        load_system(&words);
        wait(round);
        if compacts {
            check_compacted(&state);
        }
        let mut found = state;
        found.vectors = [[0; 4]; 16];
        store(&mut found, avx);
        if found.vectors != state.vectors {
            for (index, (found, expected)) in found.vectors.iter().zip(&state.vectors).enumerate() {
                check!(found == expected, "round {round}: vector register {index} is {found:x?}, not {expected:x?}");
            }
        }
        check!(
            found == state,
            "round {round}: MXCSR {:#x}, FCW {:#x}, ST0 {:#x}",
            found.mxcsr,
            found.control_word,
            found.x87
        );
        let found = store_system();
        check!(found == words, "round {round}: DR0 to DR3 and the MSRs are {found:x?}, not {words:x?}");
        if (round + 1) % 10 == 0 {
            println!("fpu: round {}", round + 1);
        }
    }
    apic::write(register::INITIAL_COUNT, 0);
    pass!("{rounds} rounds of pattern {seed}");
}

/// Switches SSE on, and AVX where CPUID shows it. Returns whether there is AVX.
fn enable() -> bool {
    const CR0_MP: u64 = 1 << 1;
    const CR0_EM_TS: u64 = 1 << 2 | 1 << 3;
    const CR4_OSFXSR_OSXMMEXCPT: u64 = 1 << 9 | 1 << 10;
    const CR4_OSXSAVE: u64 = 1 << 18;
    const XSAVE_AVX: u32 = 1 << 26 | 1 << 28;
    let avx = cpu::cpuid(1, 0).ecx & XSAVE_AVX == XSAVE_AVX;
    let osxsave = if avx { CR4_OSXSAVE } else { 0 };
    // SAFETY: these only enable the FPU, SSE and AVX, which the compiler does not use by itself for this target.
    unsafe {
        let cr0 = cpu::try_write_cr0(cpu::read_cr0() & !CR0_EM_TS | CR0_MP);
        let cr4 = cpu::try_write_cr4(cpu::read_cr4() | CR4_OSFXSR_OSXMMEXCPT | osxsave);
        check!(cr0.is_ok() && cr4.is_ok(), "switching SSE on gave {cr0:?} for CR0, {cr4:?} for CR4");
        if avx {
            let xcr0 = guest::try_asm!("xsetbv", in("ecx") 0, in("eax") 0b111, in("edx") 0);
            check!(xcr0.is_ok(), "XCR0 = 7 gave {xcr0:?}");
        }
        asm!("fninit", options(nostack));
    }
    avx
}

/// A number that is different for every seed, round and place.
fn mix(seed: u64, round: u64, place: u64) -> u64 {
    let mut value = (seed << 40 ^ round << 16 ^ place).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    value ^= value >> 31;
    value.wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

fn pattern(seed: u64, round: u64, avx: bool) -> State {
    let mut vectors = [[0; 4]; 16];
    for (index, vector) in vectors.iter_mut().enumerate() {
        for (lane, word) in vector.iter_mut().enumerate().take(if avx { 4 } else { 2 }) {
            *word = mix(seed, round, index as u64 * 4 + lane as u64);
        }
    }
    // Rounding control is free to vary: bits 14 and 13 of MXCSR, 11 and 10 of the control word. All exceptions masked.
    let rounding = mix(seed, round, 100) & 3;
    // Any finite double: what FLD and FSTP of 64 bits give back unchanged.
    let x87 = mix(seed, round, 101) & !(0x7FF << 52) | 0x3FF << 52;
    State { vectors, mxcsr: 0x1F80 | (rounding as u32) << 13, control_word: 0x037F | (rounding as u16) << 10, x87 }
}

/// DR0 to DR3, IA32_KERNEL_GS_BASE, IA32_LSTAR, IA32_STAR.
fn system_words(seed: u64, round: u64) -> [u64; 7] {
    let mut words = [0; 7];
    for (index, word) in words.iter_mut().enumerate() {
        // Below 2^47: canonical.
        *word = mix(seed, round, 200 + index as u64) >> 17;
    }
    words
}

/// Half of the rounds halt until the next tick, the others spin until it comes.
fn wait(round: u64) {
    let start = TICKS.load(Relaxed);
    if round.is_multiple_of(2) {
        return cpu::halt_until(|| TICKS.load(Relaxed) > start);
    }
    cpu::enable_interrupts();
    while TICKS.load(Relaxed) == start {
        core::hint::spin_loop();
    }
    cpu::disable_interrupts();
}

/// An XSAVE area with x87, SSE and AVX state.
#[repr(C, align(64))]
struct SaveArea([u64; 104]);

/// What CPUID offers to save compactly is saved so: of three states in use, the last lies behind the header.
fn check_compacted(state: &State) {
    const HEADER: usize = 512 / 8;
    const AVX: usize = 576 / 8;
    let mut area = SaveArea([0; 104]);
    // SAFETY: the area has the 832 bytes that x87, SSE and AVX state need, and is aligned to 64.
    unsafe {
        asm!("xsavec64 [{}]", in(reg) &raw mut area, in("eax") 0b111, in("edx") 0, options(nostack, preserves_flags));
    }
    let expected = [0b111, 1 << 63 | 0b111, 0, 0, 0, 0, 0, 0];
    check!(area.0[HEADER..AVX] == expected, "XSAVEC wrote the header {:x?}", &area.0[HEADER..AVX]);
    for (found, vector) in area.0[AVX..].chunks(2).zip(&state.vectors) {
        check!(found == &vector[2..], "XSAVEC saved {found:x?} of {vector:x?}");
    }
}

/// Applies a macro to all vector registers.
macro_rules! each_register {
    ($instruction:ident, $pointer:expr, $($index:literal)*) => {
        // SAFETY: the operands are the sixteen vectors of a `State`, aligned to 32 bytes; the compiler keeps nothing
        // in vector registers on this target.
        unsafe { asm!($($instruction!($index)),*, in("rax") $pointer, options(nostack, preserves_flags)) }
    };
}
macro_rules! load_xmm {
    ($index:literal) => {
        concat!("movaps xmm", $index, ", [rax + 32 * ", $index, "]")
    };
}
macro_rules! load_ymm {
    ($index:literal) => {
        concat!("vmovaps ymm", $index, ", [rax + 32 * ", $index, "]")
    };
}
macro_rules! store_xmm {
    ($index:literal) => {
        concat!("movaps [rax + 32 * ", $index, "], xmm", $index)
    };
}
macro_rules! store_ymm {
    ($index:literal) => {
        concat!("vmovaps [rax + 32 * ", $index, "], ymm", $index)
    };
}

fn load(state: &State, avx: bool) {
    let vectors = &raw const state.vectors;
    // SAFETY: the values mask all exceptions; the x87 stack is emptied first.
    unsafe {
        asm!("fninit", "fldcw [{}]", "ldmxcsr [{}]", "fld qword ptr [{}]", in(reg) &raw const state.control_word,
             in(reg) &raw const state.mxcsr, in(reg) &raw const state.x87, options(nostack, preserves_flags));
    }
    if avx {
        each_register!(load_ymm, vectors, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    } else {
        each_register!(load_xmm, vectors, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    }
}

fn store(state: &mut State, avx: bool) {
    let vectors = &raw mut state.vectors;
    if avx {
        each_register!(store_ymm, vectors, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    } else {
        each_register!(store_xmm, vectors, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    }
    // SAFETY: each instruction writes one field of the state.
    unsafe {
        asm!("fnstcw [{}]", "stmxcsr [{}]", "fstp qword ptr [{}]", in(reg) &raw mut state.control_word,
             in(reg) &raw mut state.mxcsr, in(reg) &raw mut state.x87, options(nostack, preserves_flags));
    }
}

fn load_system(words: &[u64; 7]) {
    // SAFETY: DR7 has every breakpoint off, nothing uses SYSCALL or SWAPGS, and the addresses are canonical.
    let results = unsafe {
        cpu::write_msr(KERNEL_GS_BASE, words[4]);
        cpu::write_msr(LSTAR, words[5]);
        cpu::write_msr(STAR, words[6]);
        [
            cpu::try_write_dr0(words[0]),
            cpu::try_write_dr1(words[1]),
            cpu::try_write_dr2(words[2]),
            cpu::try_write_dr3(words[3]),
        ]
    };
    check!(results.iter().all(Result::is_ok), "writing DR0 to DR3 gave {results:?}");
}

fn store_system() -> [u64; 7] {
    [
        cpu::read_dr0(),
        cpu::read_dr1(),
        cpu::read_dr2(),
        cpu::read_dr3(),
        cpu::read_msr(KERNEL_GS_BASE),
        cpu::read_msr(LSTAR),
        cpu::read_msr(STAR),
    ]
}
