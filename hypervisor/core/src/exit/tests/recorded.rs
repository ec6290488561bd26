//! Recordings of guests on a machine (`vm trace`), replayed exit by exit: each must be answered as it was there.
//!
//! A recording begins at the guest's reset, so the devices are in step with it: what an exit leaves in one is what the next
//! exit finds. What a handler reads of memory is in the record itself.

use super::*;
use crate::exit::replay::{Record, Setting, outcome_word};
use crate::memory::MemoryError;

/// Debian's Linux, booted by PVH, until it has looked at all of CPUID: control registers and MSRs on the way.
const LINUX: &str = include_str!("recordings/linux.txt");
/// The guest that pokes ports.
const PORT_POKE: &str = include_str!("recordings/port-poke.txt");
/// The first exits of the guest that pokes registers in memory: MSRs, ports, memory touched for the first time.
const MMIO_POKE: &str = include_str!("recordings/mmio-poke.txt");

/// Memory that holds what was written, and zeros.
#[derive(Default)]
struct Sparse(BTreeMap<u64, u8>);

impl GuestMemory for Sparse {
    fn read(&self, gpa: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), MemoryError> {
        for (address, byte) in (gpa.0..).zip(bytes) {
            *byte = self.0.get(&address).copied().unwrap_or(0);
        }
        Ok(())
    }

    fn write(&mut self, gpa: GuestPhysAddr, bytes: &[u8]) -> Result<(), MemoryError> {
        self.0.extend((gpa.0..).zip(bytes.iter().copied()));
        Ok(())
    }
}

/// A machine as the recorded one was at its guest's reset.
struct Replayer {
    ram: RamLayout,
    board: Board,
    apic: LocalApic,
    cpu: CpuState,
    counters: ExitCounters,
}

impl Replayer {
    fn new(setting: &Setting) -> Self {
        let host = |leaf: u32, subleaf: u32| {
            let answer = setting.host.iter().find(|(number, _)| *number == (leaf, subleaf));
            answer.expect("the recording has every leaf that the policy asks for").1
        };
        let config = CpuidConfig {
            tsc_hz: setting.tsc_hz,
            vcpu_count: 1,
            apic_id: 0,
            rdtscp: setting.rdtscp,
            invpcid: setting.invpcid,
            steal_time: setting.steal_time,
        };
        let cpu = CpuState::new(&host, config, 0);
        let mut apic = LocalApic::new(PlainPage::boxed(), 0, cpu.cpuid.physical_bits());
        apic.enter_virtual_wire_mode();
        let board = Board::new(&BoardConfig {
            clock: TickClock::new(setting.tsc_hz),
            ram_len_bytes: setting.memory_bytes,
            boot_time_unix_s: setting.boot_time_unix_s,
            ioapic_id: 1,
            balloon: false,
            watchdog_fired: false,
        });
        Self { ram: RamLayout::new(setting.memory_bytes), board, apic, cpu, counters: ExitCounters::new() }
    }

    /// What the run loop does before each entry.
    fn service(&mut self, now: u64) {
        self.apic.expire(now);
        self.board.expire(now);
        while let Some(message) = self.board.take_message().or_else(|| self.apic.take_ipi()) {
            if self.apic.matches(&message) {
                self.apic.accept(&message);
            }
        }
    }

    fn replay(&mut self, record: &Record) -> (std::string::String, Gprs) {
        let mut vcpu = FakeVcpu {
            fields: record.vmcs.iter().copied().collect(),
            cr0: record.cr0,
            cr4: record.cr4,
            long_mode: record.cr0 & cr0::PG != 0,
        };
        let mut memory = Sparse::default();
        for (gpa, bytes) in &record.memory {
            memory.write(GuestPhysAddr(*gpa), bytes).unwrap();
        }
        self.service(record.now);
        let (mut gprs, mut cr2) = (record.before, 0);
        let outcome = handle(
            &record.exit,
            &mut Context {
                state: &mut vcpu,
                gprs: &mut gprs,
                cr2: &mut cr2,
                memory: &mut memory,
                ram: &self.ram,
                board: &mut self.board,
                apic: &mut self.apic,
                cpu: &mut self.cpu,
                now: record.now,
                counters: &mut self.counters,
            },
        );
        self.board.serial_output(|_| ());
        (outcome_word(&outcome), gprs)
    }
}

/// Replays a recording; answers with how often each exit reason is in it.
fn replay(recording: &str) -> BTreeMap<ExitReason, usize> {
    let mut setting = Setting::default();
    let lines: std::vec::Vec<&str> = recording
        .lines()
        .filter(|line| !line.starts_with('#') && !setting.take_line(line).expect("a line of the setting"))
        .collect();
    assert_eq!(std::format!("{setting}").lines().count(), setting.host.len() + 1);
    let mut replayer = Replayer::new(&setting);
    let mut counts = BTreeMap::new();
    for (number, line) in lines.iter().enumerate() {
        let record: Record = line.parse().unwrap();
        assert_eq!(replayer.replay(&record), (record.outcome.clone(), record.after), "record {number}: {line}");
        *counts.entry(ExitReason::of(record.exit.reason).unwrap()).or_default() += 1;
    }
    counts
}

#[test]
fn linux_is_answered_as_on_the_machine() {
    let counts = replay(LINUX);
    for reason in [ExitReason::Cpuid, ExitReason::ControlRegisterAccess, ExitReason::Rdmsr, ExitReason::Wrmsr] {
        assert!(counts.contains_key(&reason), "{reason} is not in the recording");
    }
    assert!(counts.values().sum::<usize>() >= 200, "{counts:?}");
}

#[test]
fn ports_are_answered_as_on_the_machine() {
    let counts = replay(PORT_POKE);
    assert!(counts.get(&ExitReason::IoInstruction).is_some_and(|&count| count >= 60), "{counts:?}");
}

#[test]
fn memory_is_answered_as_on_the_machine() {
    let counts = replay(MMIO_POKE);
    assert!(counts.get(&ExitReason::EptViolation).is_some_and(|&count| count >= 9), "{counts:?}");
}
