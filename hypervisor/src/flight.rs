//! What each CPU did last, for the epitaph of a hypervisor that panics: the vCPU it ran and the exits it handled.
//!
//! Recording costs one store per exit and one per turn. Nothing here allocates or waits, so that a panic can
//! come from anywhere.

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use lamina_core::sched::{CpuId, MAX_CPUS, VcpuId};
use lamina_core::vmx::ExitReason;

/// Exits that are remembered.
const EXITS: usize = 16;

/// The record of one CPU.
struct Flight {
    /// Exit-reason fields, the newest at `written - 1`, modulo the length.
    exits: [AtomicU32; EXITS],
    written: AtomicU64,
    /// The vCPU that has the CPU, or had it last: its VM's number above its index. 0 is none.
    vcpu: AtomicU64,
}

static FLIGHTS: [Flight; MAX_CPUS] = [const {
    Flight { exits: [const { AtomicU32::new(0) }; EXITS], written: AtomicU64::new(0), vcpu: AtomicU64::new(0) }
}; MAX_CPUS];

/// The CPU is about to run this vCPU.
pub(crate) fn turn(cpu: CpuId, vcpu: VcpuId) {
    if let Some(flight) = FLIGHTS.get(usize::from(cpu.0)) {
        flight.vcpu.store(u64::from(vcpu.vm) << 16 | u64::from(vcpu.index), Ordering::Relaxed);
    }
}

/// The CPU's vCPU exited with this exit-reason field. Only the CPU itself records, so no other store comes in between.
pub(crate) fn exit(cpu: CpuId, reason: u32) {
    let Some(flight) = FLIGHTS.get(usize::from(cpu.0)) else { return };
    let written = flight.written.load(Ordering::Relaxed);
    if let Some(slot) = flight.exits.get(slot(written)) {
        slot.store(reason, Ordering::Relaxed);
    }
    flight.written.store(written.wrapping_add(1), Ordering::Relaxed);
}

fn slot(number: u64) -> usize {
    usize::try_from(number % EXITS as u64).unwrap_or(0)
}

/// The record of this CPU, in two lines.
pub(crate) struct Epitaph(pub(crate) CpuId);

impl fmt::Display for Epitaph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(flight) = FLIGHTS.get(usize::from(self.0.0)) else { return Ok(()) };
        let written = flight.written.load(Ordering::Relaxed);
        match flight.vcpu.load(Ordering::Relaxed) {
            0 => writeln!(f, "no vCPU has run on this CPU yet")?,
            vcpu => writeln!(f, "last vCPU on this CPU: VM {}, vCPU {}", vcpu >> 16, vcpu & 0xffff)?,
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
