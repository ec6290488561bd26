//! A CPU's way from its first instruction in the hypervisor to the kernel, and how the boot CPU watches it.
//!
//! Both go from stage to stage by compare-and-exchange, so that a CPU which the boot CPU has given up cannot come online behind
//! its back.

use super::{Entry, StartError};
use crate::cpu::{self, Cpu, CpuBlock, MemoryTypes, Taken};
use crate::vmx::VmxRoot;
use crate::{apic, power, time};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use lamina_core::boot::tsc_skew::{Round, least_skew};
use spin::Mutex;
use x86_64::registers::control::Cr4;

/// How long each stage may take, in microseconds. None takes a thousandth of it.
const STAGE_US: u64 = 1_000_000;
/// How often the clocks are compared.
const ROUNDS: usize = 32;
/// The clocks may differ by what no message between CPUs could show: a microsecond, or so many ticks.
const SKEW_US: u64 = 1;
const SKEW_TICKS: u64 = 200;
/// There are no more rounds.
const NO_MORE_ROUNDS: u32 = u32::MAX;

/// The CPU sets itself up.
const SETTING_UP: u32 = 0;
/// It answers questions about its TSC.
const COMPARING: u32 = 1;
/// It enters VMX operation.
const ENTERING: u32 = 2;
/// It is as it should be, and waits to be listed.
const READY: u32 = 3;
/// It is listed.
const ONLINE: u32 = 4;
/// It is not as it should be, and has said why.
const FAILED: u32 = 5;
/// The boot CPU has given it up.
const GIVEN_UP: u32 = 6;

/// What every CPU must have as the boot CPU has it.
#[derive(Debug)]
pub(super) struct Expected {
    cr4: u64,
    memory_types: MemoryTypes,
    features: [(u32, [u32; 2]); 4],
}

impl Expected {
    pub(super) fn of_this_cpu() -> Self {
        /// CR4.VMXE: each CPU sets it when it is ready.
        const VMXE: u64 = 1 << 13;
        Self { cr4: Cr4::read_raw() & !VMXE, memory_types: MemoryTypes::read(), features: features() }
    }
}

/// What this CPU's CPUID says of its instructions: a vCPU may have been told of any of them. (Leaf, two registers of it.)
fn features() -> [(u32, [u32; 2]); 4] {
    /// CPUID.01H:ECX.OSXSAVE and CPUID.07H:ECX.OSPKE repeat bits of CR4.
    const OSXSAVE: u32 = 1 << 27;
    const OSPKE: u32 = 1 << 4;
    let [_, _, ecx_1, edx_1] = cpu::cpuid(1, 0);
    let highest = cpu::cpuid(0, 0)[0];
    let of = |leaf| if leaf <= highest { cpu::cpuid(leaf, 0) } else { [0; 4] };
    let [_, ebx_7, ecx_7, _] = of(7);
    let [eax_d, _, _, edx_d] = of(0xd);
    let [_, _, ecx_ext, edx_ext] = cpu::cpuid(0x8000_0001, 0);
    [
        (1, [ecx_1 & !OSXSAVE, edx_1]),
        (7, [ebx_7, ecx_7 & !OSPKE]),
        (0xd, [eax_d, edx_d]),
        (0x8000_0001, [ecx_ext, edx_ext]),
    ]
}

/// What a CPU that starts is given, and where it tells how far it is.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Arrival {
    /// 1 until a CPU has taken it (0). The assembly knows it and the next field.
    pub(super) ticket: AtomicU32,
    pub(super) stack_top: u64,
    block: &'static CpuBlock,
    expected: &'static Expected,
    entry: Entry,
    stage: AtomicU32,
    failure: Mutex<Option<StartError>>,
    /// The round that the boot CPU asks in, and the one that was answered, with the TSC then.
    asked: AtomicU32,
    answered: AtomicU32,
    tsc: AtomicU64,
}

/// Where the CPU enters Rust, on its own stack and the hypervisor's page tables.
pub(super) extern "C" fn main(arrival: &'static Arrival) -> ! {
    cpu::adopt(arrival.block);
    match arrival.settle() {
        Ok(root) => (arrival.entry)(arrival.block.id(), root),
        Err(error) => {
            *arrival.failure.lock() = Some(error);
            arrival.stage.store(FAILED, Ordering::Release);
            power::halt()
        }
    }
}

impl Arrival {
    pub(super) fn new(stack_top: u64, block: &'static CpuBlock, expected: &'static Expected, entry: Entry) -> Self {
        Self {
            ticket: AtomicU32::new(1),
            stack_top,
            block,
            expected,
            entry,
            stage: AtomicU32::new(SETTING_UP),
            failure: Mutex::new(None),
            asked: AtomicU32::new(0),
            answered: AtomicU32::new(0),
            tsc: AtomicU64::new(0),
        }
    }

    /// Whether a CPU has begun with it.
    pub(super) fn is_claimed(&self) -> bool {
        self.ticket.load(Ordering::Acquire) == 0
    }

    /// Takes the ticket back; false where a CPU was quicker.
    pub(super) fn withdraw(&self) -> bool {
        self.ticket.swap(0, Ordering::AcqRel) != 0
    }

    /// Makes this CPU as the boot CPU is. Comes back when it is listed as online.
    fn settle(&self) -> Result<VmxRoot, StartError> {
        // SAFETY: what the boot CPU runs with; paging is on already, with the same tables.
        unsafe { Cr4::write_raw(self.expected.cr4) };
        let cpu = Cpu::take_over()?;
        apic::init_other();
        match self.expected.memory_types.take() {
            Taken::Same => {}
            Taken::Changed => log::warn!(
                "the CPU with local APIC ID {} gets the boot CPU's MTRRs and PAT: the firmware left it others",
                self.block.apic_id()
            ),
            Taken::Impossible => return Err(StartError::MemoryTypes),
        }
        if let Some(((leaf, _), _)) = features().iter().zip(&self.expected.features).find(|(own, boot)| own != boot) {
            return Err(StartError::Features(*leaf));
        }
        self.go(SETTING_UP, COMPARING);
        self.answer_rounds();
        self.await_stage(ENTERING);
        let root = VmxRoot::enter(&cpu)?;
        self.go(ENTERING, READY);
        self.await_stage(ONLINE);
        Ok(root)
    }

    /// Goes to the next stage; halts for good where the boot CPU no longer waits for it.
    fn go(&self, from: u32, to: u32) {
        if self.stage.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_err() {
            power::halt();
        }
    }

    /// Waits for the boot CPU to set this stage.
    fn await_stage(&self, wanted: u32) {
        loop {
            match self.stage.load(Ordering::Acquire) {
                GIVEN_UP => power::halt(),
                stage if stage == wanted => return,
                _ => core::hint::spin_loop(),
            }
        }
    }

    /// Tells this CPU's TSC whenever it is asked.
    fn answer_rounds(&self) {
        let mut last = 0;
        while last != NO_MORE_ROUNDS && self.stage.load(Ordering::Acquire) == COMPARING {
            let asked = self.asked.load(Ordering::Acquire);
            if asked != last {
                self.tsc.store(time::now_in_order(), Ordering::Release);
                self.answered.store(asked, Ordering::Release);
                last = asked;
            }
            core::hint::spin_loop();
        }
    }

    /// On the boot CPU: leads the CPU, which has begun, through the stages until it is online.
    ///
    /// # Errors
    /// Why it is not used; it is halted then.
    pub(super) fn watch(&self) -> Result<&'static CpuBlock, StartError> {
        let watched = self.lead();
        if watched.is_err() {
            self.stage.store(GIVEN_UP, Ordering::Release);
        }
        watched
    }

    fn lead(&self) -> Result<&'static CpuBlock, StartError> {
        self.until(COMPARING)?;
        let skew = least_skew(&self.compare_clocks()?);
        let tolerated = time::us_to_ticks(SKEW_US).max(SKEW_TICKS);
        if skew.unsigned_abs() > tolerated {
            return Err(StartError::TscSkew(skew, tolerated));
        }
        self.set(COMPARING, ENTERING)?;
        self.until(READY)?;
        cpu::set_online(self.block);
        self.set(READY, ONLINE)?;
        Ok(self.block)
    }

    fn set(&self, from: u32, to: u32) -> Result<(), StartError> {
        let set = self.stage.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        set.map(|_| ()).map_err(|_| StartError::Hung)
    }

    fn until(&self, wanted: u32) -> Result<(), StartError> {
        let mut stage = SETTING_UP;
        time::wait_until(STAGE_US, || {
            stage = self.stage.load(Ordering::Acquire);
            stage == wanted || stage == FAILED
        });
        match stage {
            FAILED => Err(self.failure.lock().clone().unwrap_or(StartError::Hung)),
            stage if stage == wanted => Ok(()),
            _ => Err(StartError::Hung),
        }
    }

    fn compare_clocks(&self) -> Result<[Round; ROUNDS], StartError> {
        let mut rounds = [Round { asked: 0, answered: 0, heard: 0 }; ROUNDS];
        for (number, round) in (1..).zip(&mut rounds) {
            round.asked = time::now_in_order();
            self.asked.store(number, Ordering::Release);
            if !time::wait_until(STAGE_US, || self.answered.load(Ordering::Acquire) == number) {
                return Err(StartError::Hung);
            }
            round.heard = time::now_in_order();
            round.answered = self.tsc.load(Ordering::Acquire);
        }
        self.asked.store(NO_MORE_ROUNDS, Ordering::Release);
        Ok(rounds)
    }
}
