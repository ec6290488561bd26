//! Several processors: finds them by the MADT, starts them by INIT-SIPI-SIPI, and then all at once: their APIC IDs, a
//! ticket lock and LOCK XADD, IPIs of every kind, TLB shootdown, timers, INIT and a second start, waking from HLT, and
//! TSCs that agree. One theme is one file; `crew.rs` has them all work on one job.
//!
//! Command line: `cpus=N` expected (default: as many as the MADT has), `x2apic=1` for x2APIC mode (default: xAPIC),
//! `rounds=N` of everything that is repeated (default 20), `tsc_bound=N` TSC ticks that one processor's TSC may be behind
//! another's (default 0).
//! Expected: `verdict: pass smp: ...`.
#![no_std]
#![no_main]

mod crew;
mod ipi;
mod life;
mod memory;
mod time;

use guest::boot_info::option;
use guest::{apic, check, clock, cpu, fail, guest_main, pass, pic, println, smp};

guest_main!(main);

/// How often everything that is repeated is done.
fn rounds() -> u32 {
    option("rounds").unwrap_or(20).clamp(1, 1_000_000) as u32
}

fn main() {
    cpu::disable_interrupts();
    pic::init();
    println!("smp: TSC {} Hz, APIC timer {} Hz", clock::tsc_hz(), clock::apic_timer_hz());
    if option("x2apic") == Some(1) {
        const X2APIC: u32 = 1 << 21;
        if cpu::cpuid(1, 0).ecx & X2APIC == 0 {
            fail!("x2apic=1: CPUID shows no x2APIC");
        }
        apic::enter_x2apic();
    }
    let count = smp::find();
    let expected = option("cpus").unwrap_or(count as u64);
    check!(count as u64 == expected, "the MADT has {count} processors, {expected} were expected");

    crew::muster(count);
    println!("smp: {count} CPUs are up");
    crew::all(check_identity);
    memory::check();
    ipi::check();
    time::check();
    life::check();
    pass!("{count} CPUs in {} mode, {} rounds", if apic::is_x2apic() { "x2APIC" } else { "xAPIC" }, rounds());
}

/// What a processor is told about itself: its APIC ID in three places, and who is the bootstrap processor.
fn check_identity(me: usize) {
    const TOPOLOGY: u32 = 0xB;
    const MULTI_THREADING: u32 = 1 << 28;
    let id = apic::own_id();
    check!(id == smp::apic_id(me), "CPU {me} has APIC ID {id}, the MADT told {}", smp::apic_id(me));
    let leaf = cpu::cpuid(1, 0);
    check!(leaf.ebx >> 24 == id & 0xFF, "CPU {me}, APIC ID {id}: its initial APIC ID is {}", leaf.ebx >> 24);
    if crew::count() > 1 {
        let most = leaf.ebx >> 16 & 0xFF;
        check!(leaf.edx & MULTI_THREADING != 0, "CPU {me}: CPUID.1:EDX.HTT is 0 on a machine with more CPUs");
        check!(most as usize >= crew::count(), "CPU {me}: CPUID.1:EBX has room for {most} APIC IDs");
    }
    if cpu::cpuid(0, 0).eax >= TOPOLOGY {
        for level in (0..2).map(|level| cpu::cpuid(TOPOLOGY, level)).filter(|level| level.ebx != 0) {
            check!(level.edx == id, "CPU {me}, APIC ID {id}: CPUID.0BH:EDX is {}", level.edx);
        }
    }
    let bootstrap = cpu::read_msr(apic::APIC_BASE_MSR) & apic::BASE_BSP != 0;
    check!(bootstrap == (me == 0), "CPU {me}: the BSP flag of IA32_APIC_BASE is {bootstrap}");
}
