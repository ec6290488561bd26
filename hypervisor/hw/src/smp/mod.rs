//! Starting the machine's other CPUs, one after the other, by INIT and start-up interrupts.
//!
//! Source: Intel SDM volume 3, "MP Initialization Protocol Algorithm for MP Systems" and "Typical AP Initialization Sequence".
//! - `start_up`: the code that a CPU begins with in real mode, and the page tables that it comes to long mode by
//! - `arrival`: what the CPU does then, until the kernel has it; and how the boot CPU watches that
//!
//! A CPU counts as online when it is set up as the boot CPU is, agrees with it on everything that a vCPU could notice, and is in
//! VMX operation. One that falls short is left halted, and said why.

mod arrival;
mod start_up;

use crate::acpi::Platform;
use crate::cpu::{self, CpuBlock};
use crate::mem::{self, MapError};
use crate::vmx::{VmxError, VmxRoot};
use crate::{apic, time};
use alloc::boxed::Box;
use alloc::vec::Vec;
use arrival::{Arrival, Expected};
use lamina_core::sched::{CpuId, MAX_CPUS};
use start_up::StartUp;
pub(crate) use start_up::{START_UP_FRAMES, set_start_up_frames};
use thiserror::Error;

/// Pages of a CPU's stack: as much as the boot CPU's.
const STACK_PAGES: usize = 32;
/// How long a CPU takes to be ready for its start-up after INIT, in microseconds.
const INIT_US: u64 = 10_000;
/// When the start-up is repeated, in microseconds.
const REPEAT_US: u64 = 200;
/// How long a CPU may take from its second start-up to the hypervisor's code, in microseconds.
const ANSWER_US: u64 = 100_000;

/// What the kernel does with a CPU that is online: it never comes back.
pub type Entry = fn(CpuId, VmxRoot) -> !;

/// What [`start`] came to.
#[derive(Debug)]
pub struct Started {
    /// CPUs online, with the boot CPU.
    pub online: usize,
    /// CPUs that the firmware names, with the boot CPU.
    pub present: usize,
    /// (local APIC ID, why) of those that are not used.
    pub failed: Vec<(u32, StartError)>,
}

/// Why a CPU is not used.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum StartError {
    /// There is no place for the code that it would start with.
    #[error(
        "no {START_UP_FRAMES} frames below 640 KiB are usable by the firmware's memory map, and a CPU must start there"
    )]
    NoLowMemory,
    /// Its number cannot be given in a command.
    #[error("its local APIC ID cannot be named without x2APIC mode")]
    Unreachable,
    /// The scheduler has no number for it.
    #[error("the hypervisor knows at most {MAX_CPUS} CPUs")]
    TooMany,
    /// No memory for its stacks.
    #[error(transparent)]
    Memory(#[from] MapError),
    /// It never began.
    #[error("it does not answer INIT and start-up interrupts")]
    Silent,
    /// It began, and got no further.
    #[error("it started and then did not go on")]
    Hung,
    /// Its clock is not the boot CPU's.
    #[error("its TSC is {0} ticks ahead of the boot CPU's, more than {1}: a guest's clock would jump")]
    TscSkew(i64, u64),
    /// Its memory types cannot be made the boot CPU's.
    #[error("its MTRRs are not of the same number as the boot CPU's")]
    MemoryTypes,
    /// It has other instructions.
    #[error("its CPUID leaf {0:#x} names other features than the boot CPU's")]
    Features(u32),
    /// It cannot run the boot CPU's vCPUs.
    #[error(transparent)]
    Vmx(#[from] VmxError),
}

/// Starts the CPUs that the firmware names, up to `limit` with the boot CPU, which calls this once it is in VMX operation itself.
/// Each that comes online gets the next number and goes to `entry`.
pub fn start(platform: &Platform, limit: Option<usize>, entry: Entry) -> Started {
    let own = apic::local_id();
    let others = || platform.apic_ids.iter().copied().filter(|&id| id != own);
    let mut started = Started { online: cpu::online_count(), present: 1 + others().count(), failed: Vec::new() };
    let limit = limit.unwrap_or(usize::MAX);
    if started.present == 1 || limit <= started.online {
        return started;
    }
    let mut start_up = match StartUp::new() {
        Ok(start_up) => start_up,
        Err(error) => {
            started.failed = others().map(|id| (id, error.clone())).collect();
            return started;
        }
    };
    let expected: &'static Expected = Box::leak(Box::new(Expected::of_this_cpu()));
    for apic_id in others() {
        if started.online >= limit {
            break;
        }
        match start_one(&mut start_up, apic_id, expected, entry) {
            Ok(_) => started.online += 1,
            Err(error) => started.failed.push((apic_id, error)),
        }
    }
    started
}

/// The local APIC ID of a CPU that is online.
#[must_use]
pub fn apic_id(cpu: CpuId) -> Option<u32> {
    cpu::online(cpu).map(CpuBlock::apic_id)
}

fn start_one(
    start_up: &mut StartUp,
    apic_id: u32,
    expected: &'static Expected,
    entry: Entry,
) -> Result<&'static CpuBlock, StartError> {
    if !apic::can_reach(apic_id) {
        return Err(StartError::Unreachable);
    }
    let number = cpu::online_count();
    let id = u16::try_from(number).ok().filter(|_| number < MAX_CPUS).map(CpuId).ok_or(StartError::TooMany)?;
    let stack_top = mem::map_stack(STACK_PAGES)?;
    // The CPU's for good: one that hangs may still go on some day.
    let arrival: &'static Arrival =
        Box::leak(Box::new(Arrival::new(stack_top.as_u64(), cpu::new_block(id), expected, entry)));
    start_up.prepare(arrival);
    // SAFETY: the CPU is not online, and start-up code for it is in the frame.
    unsafe { apic::send_init(apic_id) };
    time::wait_until(INIT_US, || false);
    // SAFETY: as above.
    unsafe { apic::send_startup(apic_id, start_up.frame()) };
    if !time::wait_until(REPEAT_US, || arrival.is_claimed()) {
        // SAFETY: as above.
        unsafe { apic::send_startup(apic_id, start_up.frame()) };
        if !time::wait_until(ANSWER_US, || arrival.is_claimed()) && arrival.withdraw() {
            // SAFETY: the CPU never came to where it could hold anything, and no longer can.
            unsafe { apic::send_init(apic_id) };
            return Err(StartError::Silent);
        }
    }
    arrival.watch()
}
