//! What each CPU did last, for the epitaph of a hypervisor that panics: the vCPU it ran and the exits it handled.
//!
//! Recording costs one store per exit and one short copy per turn. Nothing here allocates or waits, so that a panic can
//! come from anywhere.

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use lamina_core::sched::MAX_CPUS;
use lamina_core::vmx::ExitReason;
use lamina_hw::cpu;
use spin::Mutex;

/// Exits that are remembered.
const EXITS: usize = 16;
/// Bytes of a VM's name that are remembered.
const NAME_BYTES: usize = 32;

/// The record of one CPU.
struct Flight {
    /// Exit-reason fields, the newest at `written - 1`, modulo the length.
    exits: [AtomicU32; EXITS],
    written: AtomicU64,
    vcpu: Mutex<Vcpu>,
}

/// The vCPU that has the CPU, or had it last.
#[derive(Clone, Copy)]
struct Vcpu {
    name: [u8; NAME_BYTES],
    name_len: usize,
    index: u16,
}

/// The records, by the CPUs' numbers.
static FLIGHTS: [Flight; MAX_CPUS] = [const { Flight::new() }; MAX_CPUS];

impl Flight {
    const fn new() -> Self {
        Self {
            exits: [const { AtomicU32::new(0) }; EXITS],
            written: AtomicU64::new(0),
            vcpu: Mutex::new(Vcpu { name: [0; NAME_BYTES], name_len: 0, index: 0 }),
        }
    }
}

/// The record of the CPU that calls.
fn own() -> &'static Flight {
    // No CPU has a number that is not below the length; the remainder only spares the check's branch to a panic.
    &FLIGHTS[usize::from(cpu::this().0) % MAX_CPUS]
}

/// The CPU is about to run this vCPU.
pub(crate) fn turn(vm: &str, index: u16) {
    let mut vcpu = own().vcpu.lock();
    vcpu.name_len = vm.len().min(NAME_BYTES);
    vcpu.index = index;
    for (target, byte) in vcpu.name.iter_mut().zip(vm.bytes()) {
        *target = byte;
    }
}

/// The vCPU exited with this exit-reason field. Only the CPU itself records, so no other store comes in between.
pub(crate) fn exit(reason: u32) {
    let flight = own();
    let written = flight.written.load(Ordering::Relaxed);
    if let Some(slot) = flight.exits.get(slot(written)) {
        slot.store(reason, Ordering::Relaxed);
    }
    flight.written.store(written.wrapping_add(1), Ordering::Relaxed);
}

fn slot(number: u64) -> usize {
    usize::try_from(number % EXITS as u64).unwrap_or(0)
}

/// The record of the CPU that panics, in two lines.
pub(crate) struct Epitaph;

impl fmt::Display for Epitaph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flight = own();
        let written = flight.written.load(Ordering::Relaxed);
        // The panic may have come while the record was written.
        let vcpu = flight.vcpu.try_lock().map(|vcpu| *vcpu);
        match vcpu {
            Some(vcpu) if vcpu.name_len > 0 => {
                let name = vcpu.name.get(..vcpu.name_len).and_then(|name| core::str::from_utf8(name).ok());
                writeln!(f, "last vCPU on this CPU: VM {}, vCPU {}", name.unwrap_or("?"), vcpu.index)?;
            }
            Some(_) => writeln!(f, "no vCPU has run on this CPU yet")?,
            None => writeln!(f, "last vCPU on this CPU: not known")?,
        }
        write!(f, "last exits, newest first:")?;
        for number in (written.saturating_sub(EXITS as u64)..written).rev() {
            let reason = flight.exits.get(slot(number)).map_or(0, |slot| slot.load(Ordering::Relaxed));
            let name = ExitReason::of(reason).map_or("undefined", ExitReason::name);
            let failure = if ExitReason::is_entry_failure(reason) { ", entry failed" } else { "" };
            let separator = if number + 1 == written { "" } else { "," };
            write!(f, "{separator} {} ({name}{failure})", reason & 0xffff)?;
        }
        writeln!(f, "{}", if written == 0 { " none" } else { "" })
    }
}
