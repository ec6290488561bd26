//! Tests of the exit handlers, on a vCPU of maps and vectors.

mod control;
mod events;
mod local;
mod memory_access;
mod ports;
mod random;
mod recorded;
mod registers;
mod replayed;

use super::*;
use crate::device::board::BoardConfig;
use crate::device::lapic::PlainPage;
use crate::memory::{FlatMemory, GuestPhysAddr};
use crate::time::TickClock;
use crate::x86::control::{cr0, cr4};
use crate::x86::cpuid::CpuidConfig;
use crate::x86::msr::spec::efer;
use std::collections::BTreeMap;

/// The guest's TSC.
pub(crate) const TSC_HZ: u64 = 2_000_000_000;
/// The guest's memory.
pub(crate) const MEMORY_LEN: usize = 4 << 20;
/// Where tests put instructions.
pub(crate) const CODE: u64 = 0x2000;
/// The page tables of [`FakeVcpu::bits64`]: 4 GiB, identity.
pub(crate) const PML4: u64 = 0x1_0000;

/// A VMCS's guest-state area in a map.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct FakeVcpu {
    pub(crate) fields: BTreeMap<GuestField, u64>,
    pub(crate) cr0: u64,
    pub(crate) cr4: u64,
    pub(crate) long_mode: bool,
}

impl VcpuState for FakeVcpu {
    fn read(&self, field: GuestField) -> u64 {
        self.fields.get(&field).copied().unwrap_or(0)
    }
    fn write(&mut self, field: GuestField, value: u64) {
        self.fields.insert(field, value);
    }
    fn cr0(&self) -> u64 {
        self.cr0
    }
    fn cr4(&self) -> u64 {
        self.cr4
    }
    fn set_cr0(&mut self, value: u64) {
        self.cr0 = value;
    }
    fn set_cr4(&mut self, value: u64) {
        self.cr4 = value;
    }
    fn set_long_mode(&mut self, active: bool) {
        self.long_mode = active;
    }
}

impl FakeVcpu {
    fn flat(code_rights: u64, data_rights: u64, limit: u64) -> Self {
        use GuestField as F;
        let mut vcpu = Self::default();
        for field in [F::EsLimit, F::CsLimit, F::SsLimit, F::DsLimit, F::FsLimit, F::GsLimit] {
            vcpu.write(field, limit);
        }
        for field in [F::EsAccessRights, F::SsAccessRights, F::DsAccessRights, F::FsAccessRights, F::GsAccessRights] {
            vcpu.write(field, data_rights);
        }
        vcpu.write(F::CsAccessRights, code_rights);
        vcpu.write(F::TrAccessRights, 0x8b);
        vcpu.write(F::Rip, CODE);
        vcpu.write(F::Rsp, 0x8000);
        vcpu.write(F::Rflags, 2);
        vcpu.cr0 = cr0::ET;
        vcpu
    }

    /// 64-bit mode at CPL 0.
    pub(crate) fn bits64() -> Self {
        let mut vcpu = Self::flat(0xa09b, 0xc093, 0xffff_ffff);
        vcpu.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE | cr0::WP;
        vcpu.cr4 = cr4::PAE;
        vcpu.long_mode = true;
        vcpu.write(GuestField::Ia32Efer, efer::LME | efer::LMA);
        vcpu.write(GuestField::Cr3, PML4);
        vcpu
    }

    /// 32-bit protected mode, paging off.
    pub(crate) fn bits32() -> Self {
        let mut vcpu = Self::flat(0xc09b, 0xc093, 0xffff_ffff);
        vcpu.cr0 = cr0::PE | cr0::ET;
        vcpu
    }

    /// Real-address mode.
    pub(crate) fn bits16() -> Self {
        Self::flat(0x9b, 0x93, 0xffff)
    }
}

/// Memory with the page tables of [`FakeVcpu::bits64`] and `code` at [`CODE`].
pub(crate) fn memory_with(code: &[u8]) -> FlatMemory {
    let mut memory = FlatMemory::new(MEMORY_LEN);
    let tables = PML4 + 0x1000;
    memory.write(GuestPhysAddr(PML4), &(tables | 7).to_le_bytes()).unwrap();
    for gib in 0..4u64 {
        memory.write(GuestPhysAddr(tables + gib * 8), &(gib << 30 | 0x87).to_le_bytes()).unwrap();
    }
    memory.write(GuestPhysAddr(CODE), code).unwrap();
    memory
}

/// A host with much more than a guest may see.
pub(crate) fn generous_host(leaf: u32, subleaf: u32) -> [u32; 4] {
    match (leaf, subleaf) {
        (0, _) => [0x16, 0x756e_6547, 0x6c65_746e, 0x4965_6e69],
        (1, _) => [0x0005_0654, 0x0310_0800, u32::MAX, u32::MAX],
        (4, 0) => [0x1c00_4121, 0x01c0_003f, 0x3f, 0],
        (4, 1) => [0x1c00_4143, 0x03c0_003f, 0x3ff, 0],
        (4, 2) => [0x1c03_c163, 0x0280_003f, 0x7fff, 4],
        (4, _) => [0; 4],
        (7, 0) => [2, u32::MAX, u32::MAX, u32::MAX],
        (0xd, 0) => [0x2ff, 0xa88, 0xa88, 0],
        (0xd, 1) => [0xf, 0x988, 0x100, 0],
        (0xd, 2) => [256, 576, 0, 0],
        (0x8000_0000, _) => [0x8000_0008, 0, 0, 0],
        (0x8000_0001, _) => [0, 0, u32::MAX, u32::MAX],
        (0x8000_0008, _) => [0x3027, u32::MAX, 0, 0],
        (0x8000_0002..=0x8000_0004, _) => [0x2020_2020; 4],
        _ => [0xffff_ffff; 4],
    }
}

pub(crate) const CONFIG: CpuidConfig =
    CpuidConfig { tsc_hz: TSC_HZ, vcpu_count: 1, apic_id: 0, rdtscp: true, invpcid: true, steal_time: true };

/// A VM with one vCPU.
pub(crate) struct World {
    pub(crate) vcpu: FakeVcpu,
    pub(crate) gprs: Gprs,
    pub(crate) cr2: u64,
    pub(crate) memory: FlatMemory,
    pub(crate) ram: RamLayout,
    pub(crate) board: Board,
    pub(crate) apic: LocalApic,
    pub(crate) cpu: CpuState,
    pub(crate) now: u64,
    pub(crate) counters: ExitCounters,
}

impl World {
    pub(crate) fn new(vcpu: FakeVcpu, code: &[u8]) -> Self {
        let config = BoardConfig {
            clock: TickClock::new(TSC_HZ),
            ram_len_bytes: MEMORY_LEN as u64,
            boot_time_unix_s: 1_700_000_000,
            ioapic_id: 1,
            balloon: false,
            watchdog_fired: false,
        };
        let mut cpu = CpuState::new(&generous_host, CONFIG, 0x0200_0065);
        assert_eq!(cpu.take_changes(), crate::x86::CpuChanges::all());
        Self {
            vcpu,
            gprs: Gprs::default(),
            cr2: 0,
            memory: memory_with(code),
            ram: RamLayout::new(MEMORY_LEN as u64),
            board: Board::new(&config),
            apic: LocalApic::new(PlainPage::boxed(), 0, 39),
            cpu,
            now: 1_000_000,
            counters: ExitCounters::new(),
        }
    }

    pub(crate) fn handle(&mut self, exit: &RawExit) -> Outcome {
        let mut ctx = Context {
            state: &mut self.vcpu,
            gprs: &mut self.gprs,
            cr2: &mut self.cr2,
            memory: &mut self.memory,
            ram: &self.ram,
            board: &mut self.board,
            apic: &mut self.apic,
            cpu: &mut self.cpu,
            now: self.now,
            counters: &mut self.counters,
        };
        handle(exit, &mut ctx)
    }

    /// An exit for `reason` of an instruction of 2 bytes.
    pub(crate) fn exit(&mut self, reason: ExitReason, qualification: u64) -> Outcome {
        let reason = u32::from(reason.number());
        self.handle(&RawExit { reason, qualification, instruction_len: 2, ..RawExit::default() })
    }

    /// Everything the guest wrote to COM1.
    pub(crate) fn serial(&mut self) -> std::string::String {
        let mut text = std::string::String::new();
        self.board.serial_output(|bytes| text.push_str(&std::string::String::from_utf8_lossy(bytes)));
        text
    }
}

/// The sentence with which a VM crashed.
pub(crate) fn crash_text(outcome: Outcome) -> std::string::String {
    match outcome {
        Outcome::Stop(StopReason::Fault(fault)) => fault.detail,
        other => panic!("no crash: {other:?}"),
    }
}

const GP: Outcome = Outcome::Inject(Event::GENERAL_PROTECTION);
const UD: Outcome = Outcome::Inject(Event::INVALID_OPCODE);
