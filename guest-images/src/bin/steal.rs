//! Is told its steal time, as Linux is: finds KVM's CPUID leaf, enables MSR_KVM_STEAL_TIME on each of its CPUs, spins on all of
//! them, and holds what it is told against what its TSC says that it lost: a gap between two readings of which the one follows
//! the other at once. ("KVM-specific MSRs" and "KVM CPUID bits" in Linux's documentation.)
//!
//! Command line: `ms=N` of guest time to spin for (default 500), `cpus=N` to do so on (default 1), `least=PERCENT` and
//! `most=PERCENT` of that time that must have been stolen from each (default 0 and 100), `exclusive=1` where never two of its
//! CPUs run at once: each must see all others preempted.
//! Expected: `verdict: pass steal: ...`, after a line `steal: CPU n lost ... us` for each CPU.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};

use guest::boot_info::option;
use guest::cpu::{self, Cpuid, cpuid};
use guest::timer::{microseconds, ticks};
use guest::{check, clock, fail, guest_main, pass, println, smp};

guest_main!(main);

const MSR_KVM_STEAL_TIME: u32 = 0x4B56_4D03;
const MSR_ENABLE: u64 = 1;
/// KVM_FEATURE_STEAL_TIME.
const STEAL_TIME: u32 = 1 << 5;
/// KVM_FEATURE_CLOCKSOURCE, KVM_FEATURE_CLOCKSOURCE2, KVM_FEATURE_CLOCKSOURCE_STABLE_BIT.
const CLOCKS: u32 = 1 << 0 | 1 << 3 | 1 << 24;
/// The most CPUs that this kernel spins on.
const CPUS_MAX: usize = 8;
/// A shorter gap is the hypervisor's own work, which is nobody's time, or an exit of this guest's.
const GAP_US: u64 = 1_000;

/// `struct kvm_steal_time`.
#[repr(C, align(64))]
struct Area {
    steal: AtomicU64,
    version: AtomicU32,
    flags: AtomicU32,
    preempted: AtomicU8,
    padding: [AtomicU8; 47],
}

/// One CPU's area, and what it found.
struct Place {
    area: Area,
    spins: AtomicBool,
    lost: AtomicU64,
    stolen_us: AtomicU64,
    done: AtomicBool,
}

/// What padding holds, to see that it is left alone.
const PADDING: u8 = 0x5A;

static PLACES: [Place; CPUS_MAX] = [const {
    Place {
        area: Area {
            steal: AtomicU64::new(u64::MAX),
            version: AtomicU32::new(0),
            flags: AtomicU32::new(u32::MAX),
            preempted: AtomicU8::new(u8::MAX),
            padding: [const { AtomicU8::new(PADDING) }; 47],
        },
        spins: AtomicBool::new(false),
        lost: AtomicU64::new(0),
        stolen_us: AtomicU64::new(0),
        done: AtomicBool::new(false),
    }
}; CPUS_MAX];

fn main() {
    cpu::disable_interrupts();
    let cpus = option("cpus").unwrap_or(1) as usize;
    check!((1..=CPUS_MAX).contains(&cpus), "cpus={cpus}: 1 to {CPUS_MAX}");
    check_leaves();
    check_msr();
    if cpus > 1 {
        let found = smp::find();
        check!(cpus <= found, "cpus={cpus}: there are {found}");
        for index in 1..cpus {
            smp::start(index, |me| {
                measure(me);
                cpu::stop()
            });
        }
    }
    println!("steal: spinning on {cpus} CPU(s)");
    measure(0);
    for place in &PLACES[..cpus] {
        while !place.done.load(SeqCst) {
            core::hint::spin_loop();
        }
    }
    for (index, place) in PLACES[..cpus].iter().enumerate() {
        report(index, place);
    }
    pass!("{cpus} CPU(s) knew what they lost");
}

/// The leaf with this signature, looked for as Linux does.
fn find_kvm() -> Option<u32> {
    let signature = |leaf: u32| {
        let Cpuid { ebx, ecx, edx, .. } = cpuid(leaf, 0);
        [ebx, ecx, edx].map(u32::to_le_bytes)
    };
    let wanted = [*b"KVMK", *b"VMKV", *b"M\0\0\0"];
    (clock::HYPERVISOR_LEAF..clock::HYPERVISOR_LEAF + 0x1_0000).step_by(0x100).find(|&leaf| signature(leaf) == wanted)
}

fn check_leaves() {
    let Some(base) = find_kvm() else { fail!("no leaf has KVM's signature") };
    check!(base != clock::HYPERVISOR_LEAF, "KVM's signature has taken the place of Lamina's own");
    check!(cpuid(base, 0).eax > base, "leaf {base:#x} names {:#x} as the highest", cpuid(base, 0).eax);
    let features = cpuid(base + 1, 0);
    check!(features.eax & STEAL_TIME != 0, "KVM's features are {:#x}: no steal time", features.eax);
    check!(features.eax & CLOCKS == 0, "KVM's features are {:#x}: a clock that is not there", features.eax);
    println!("steal: KVM's leaves are at {base:#x}, its features {:#x}", features.eax);
}

fn check_msr() {
    check!(cpu::read_msr(MSR_KVM_STEAL_TIME) == 0, "MSR_KVM_STEAL_TIME is not 0 at first");
    let address = address(0);
    for bit in 1..6 {
        // SAFETY: the address is that of this CPU's area; a reserved bit is set, so nothing follows but an exception.
        let written = unsafe { cpu::try_write_msr(MSR_KVM_STEAL_TIME, address | MSR_ENABLE | 1 << bit) };
        check!(written.is_err(), "MSR_KVM_STEAL_TIME took reserved bit {bit}");
    }
    // Where there is no RAM nothing is told, and nothing else happens.
    // SAFETY: no memory of this kernel is there.
    unsafe { cpu::write_msr(MSR_KVM_STEAL_TIME, 0xF_0000_0000 | MSR_ENABLE) };
    check!(cpu::read_msr(MSR_KVM_STEAL_TIME) == 0xF_0000_0001, "MSR_KVM_STEAL_TIME does not read as written");
    check!(PLACES[0].area.version.load(SeqCst) == 0, "an area was written that was not named");
}

/// The area's guest-physical address: memory is identity mapped.
fn address(index: usize) -> u64 {
    (&raw const PLACES[index].area) as u64
}

/// Steal time in nanoseconds and version, by the protocol.
fn read(area: &Area) -> (u64, u32) {
    loop {
        let version = area.version.load(SeqCst);
        let steal = area.steal.load(SeqCst);
        if version & 1 == 0 && area.version.load(SeqCst) == version {
            return (steal, version);
        }
    }
}

/// Spins on this CPU. The readings of the TSC follow one another as fast as can be; what lies between two of them was lost.
fn measure(me: usize) {
    let place = &PLACES[me];
    let area = &place.area;
    // SAFETY: the area is a static of the right size and alignment, made of atomics.
    unsafe { cpu::write_msr(MSR_KVM_STEAL_TIME, address(me) | MSR_ENABLE) };
    let (first, version) = read(area);
    check!(version != 0, "CPU {me} was not told its steal time when it asked for it");
    place.spins.store(true, SeqCst);
    let gap = ticks(GAP_US);
    let begin = cpu::read_tsc();
    let end = begin + ticks(option("ms").unwrap_or(500) * 1000);
    let (mut before, mut lost, mut told) = (begin, 0, first);
    while before < end {
        let now = cpu::read_tsc();
        if now - before >= gap {
            lost += now - before;
            let (steal, _) = read(area);
            check!(steal >= told, "CPU {me} was told {steal} ns after {told} ns");
            told = steal;
            check_others(me);
        }
        before = now;
    }
    let (last, _) = read(area);
    let since_start = microseconds(before) * 1000;
    check!(last <= since_start, "CPU {me} was told {last} ns, of {since_start} ns since the VM began");
    check!(area.flags.load(SeqCst) == 0, "CPU {me}: the flags are {:#x}", area.flags.load(SeqCst));
    check!(area.preempted.load(SeqCst) == 0, "CPU {me} runs and is told that it does not");
    check!(area.padding.iter().all(|byte| byte.load(SeqCst) == PADDING), "CPU {me}: padding was written");
    place.lost.store(lost, SeqCst);
    place.stolen_us.store((last - first) / 1000, SeqCst);
    place.spins.store(false, SeqCst);
    stays_off(me, area);
    place.done.store(true, SeqCst);
}

/// This CPU has just been given back: where it has the only one, the others that spin have none.
fn check_others(me: usize) {
    if option("exclusive") != Some(1) {
        return;
    }
    for (other, place) in PLACES.iter().enumerate().filter(|(other, place)| *other != me && place.spins.load(SeqCst)) {
        let preempted = place.area.preempted.load(SeqCst);
        check!(preempted == 1, "CPU {other} spins, CPU {me} has the only CPU, and `preempted` is {preempted}");
    }
}

/// Switched off, the area is the guest's own again, whatever it loses meanwhile.
fn stays_off(me: usize, area: &Area) {
    // SAFETY: switching it off takes nothing away.
    unsafe { cpu::write_msr(MSR_KVM_STEAL_TIME, 0) };
    let (before, version) = read(area);
    let end = cpu::read_tsc() + ticks(50_000);
    while cpu::read_tsc() < end {}
    check!((before, version) == read(area), "CPU {me} switched steal time off and was told all the same");
}

/// Holds what a CPU was told against what it lost: 5 % of that, or 1 % of all the time.
fn report(index: usize, place: &Place) {
    let all_us = option("ms").unwrap_or(500) * 1000;
    let lost_us = microseconds(place.lost.load(SeqCst));
    let stolen_us = place.stolen_us.load(SeqCst);
    println!("steal: CPU {index} lost {lost_us} us, told {stolen_us} us, of {all_us} us");
    let bound = (lost_us / 20).max(all_us / 100);
    check!(lost_us.abs_diff(stolen_us) <= bound, "CPU {index} lost {lost_us} us and was told {stolen_us} us");
    let (least, most) = (option("least").unwrap_or(0), option("most").unwrap_or(100));
    let in_bounds = (least * all_us..=most * all_us).contains(&(stolen_us * 100));
    check!(in_bounds, "CPU {index}: {stolen_us} of {all_us} us were stolen, not {least} to {most} %");
}
