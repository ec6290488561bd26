//! What a guest does: VM exits, instructions on device memory, ports and registers of devices.

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Result, Unstructured};
use lamina_core::bus::Width;
use lamina_core::device::board::spec::{BALLOON_BASE, IOAPIC_BASE};
use lamina_core::device::board::{Board, BoardConfig};
use lamina_core::device::lapic::{LocalApic, PlainPage};
use lamina_core::exit::{Context, ExitCounters, Outcome, RawExit, handle, interrupted_event, merge};
use lamina_core::loader::RamLayout;
use lamina_core::memory::{FlatMemory, GuestMemory, GuestPhysAddr};
use lamina_core::time::TickClock;
use lamina_core::vmx::GuestField;
use lamina_core::x86::cpuid::CpuidConfig;
use lamina_core::x86::{CpuState, Gprs, VcpuState};

const TSC_HZ: u64 = 2_000_000_000;
const MEMORY_BYTES: usize = 2 << 20;
/// Where the instructions are.
const CODE: u64 = 0x2000;
const EPT_VIOLATION: u32 = 48;

/// The guest-state area of a VMCS.
#[derive(Default)]
struct Vmcs {
    fields: BTreeMap<GuestField, u64>,
    cr0: u64,
    cr4: u64,
}

impl VcpuState for Vmcs {
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
    fn set_long_mode(&mut self, _: bool) {}
}

/// A VM with one vCPU.
struct World {
    vmcs: Vmcs,
    gprs: Gprs,
    cr2: u64,
    memory: FlatMemory,
    ram: RamLayout,
    board: Board,
    apic: LocalApic,
    cpu: CpuState,
    now: u64,
    counters: ExitCounters,
}

fn board() -> Board {
    Board::new(&BoardConfig {
        clock: TickClock::new(TSC_HZ),
        ram_len_bytes: MEMORY_BYTES as u64,
        boot_time_unix_s: 1_700_000_000,
        ioapic_id: 1,
        balloon: true,
        watchdog_fired: false,
    })
}

impl World {
    /// With flat segments of the mode: 0 is 16-bit, 1 is 32-bit, all else is 64-bit.
    fn new(mode: u8) -> Self {
        use GuestField as F;
        let host = |leaf: u32, _: u32| if leaf == 0 { [0x16, 0, 0, 0] } else { [u32::MAX; 4] };
        let config =
            CpuidConfig { tsc_hz: TSC_HZ, vcpu_count: 1, apic_id: 0, rdtscp: true, invpcid: true, steal_time: true };
        let mut vmcs = Vmcs::default();
        let (code_rights, limit) =
            [(0x9b, 0xffff), (0xc09b, 0xffff_ffff), (0xa09b, 0xffff_ffff)][usize::from(mode.min(2))];
        for field in [F::EsLimit, F::CsLimit, F::SsLimit, F::DsLimit, F::FsLimit, F::GsLimit] {
            vmcs.write(field, limit);
        }
        for field in [F::EsAccessRights, F::SsAccessRights, F::DsAccessRights, F::FsAccessRights, F::GsAccessRights] {
            vmcs.write(field, 0xc093);
        }
        for (field, value) in
            [(F::CsAccessRights, code_rights), (F::TrAccessRights, 0x8b), (F::Rip, CODE), (F::Rsp, 0x8000)]
        {
            vmcs.write(field, value);
        }
        vmcs.write(F::Rflags, 2);
        let mut memory = FlatMemory::new(MEMORY_BYTES);
        vmcs.cr0 = 0x10 | u64::from(mode > 0);
        if mode > 1 {
            // Identity for 4 GiB by pages of 1 GiB.
            vmcs.cr0 |= 0x8001_0020;
            vmcs.cr4 = 0x20;
            vmcs.write(F::Ia32Efer, 0x500);
            vmcs.write(F::Cr3, 0x1_0000);
            let mut put =
                |at: u64, entry: u64| memory.write(GuestPhysAddr(at), &entry.to_le_bytes()).expect("it is RAM");
            put(0x1_0000, 0x1_1007);
            (0..4).for_each(|gib| put(0x1_1000 + gib * 8, gib << 30 | 0x87));
        }
        Self {
            vmcs,
            gprs: Gprs::default(),
            cr2: 0,
            memory,
            ram: RamLayout::new(MEMORY_BYTES as u64),
            board: board(),
            apic: LocalApic::new(PlainPage::boxed(), 0, 39),
            cpu: CpuState::new(&host, config, 0),
            now: 1_000_000,
            counters: ExitCounters::new(),
        }
    }

    fn registers(&mut self, bytes: &mut Unstructured<'_>) -> Result<()> {
        for number in 0..16 {
            if let Some(register) = self.gprs.by_number_mut(number) {
                *register = bytes.arbitrary()?;
            }
        }
        Ok(())
    }

    fn handle(&mut self, exit: &RawExit) {
        let mut context = Context {
            state: &mut self.vmcs,
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
        match handle(exit, &mut context) {
            Outcome::Populate(gpa) => assert!(self.ram.is_ram(gpa), "{gpa} is to be backed and is not RAM"),
            Outcome::Inject(event) => {
                if let Some(interrupted) = interrupted_event(exit) {
                    let _ = merge(interrupted, event);
                }
            }
            _ => {}
        }
    }
}

/// VM exits, whatever the CPU reports with them, one after the other.
pub fn exit(bytes: &[u8]) {
    let _ = try_exit(&mut Unstructured::new(bytes));
}

fn try_exit(bytes: &mut Unstructured<'_>) -> Result<()> {
    let mut world = World::new(bytes.arbitrary()?);
    world.memory.write(GuestPhysAddr(CODE), bytes.bytes(16)?).expect("it is RAM");
    while !bytes.is_empty() {
        world.registers(bytes)?;
        for _ in 0..bytes.int_in_range(0..=3)? {
            let field = *bytes.choose(GuestField::ALL)?;
            world.vmcs.write(field, bytes.arbitrary()?);
        }
        let exit = RawExit {
            reason: bytes.int_in_range(0..=80)?,
            qualification: bytes.arbitrary()?,
            guest_linear: bytes.arbitrary()?,
            guest_physical: bytes.arbitrary()?,
            interruption_info: bytes.arbitrary()?,
            interruption_error: bytes.arbitrary()?,
            idt_vectoring_info: bytes.arbitrary()?,
            idt_vectoring_error: bytes.arbitrary()?,
            instruction_len: bytes.int_in_range(0..=15)?,
            instruction_info: bytes.arbitrary()?,
        };
        world.now = world.now.saturating_add(bytes.arbitrary::<u32>()?.into());
        world.handle(&exit);
    }
    Ok(())
}

/// An instruction that touches device memory: its bytes are the guest's.
pub fn instructions(bytes: &[u8]) {
    let _ = try_instructions(&mut Unstructured::new(bytes));
}

fn try_instructions(bytes: &mut Unstructured<'_>) -> Result<()> {
    let mut world = World::new(bytes.int_in_range(0..=2)?);
    let (write, page) = (bytes.arbitrary()?, *bytes.choose(&[0xfee0_0000, IOAPIC_BASE, BALLOON_BASE, 0xfed0_0000])?);
    let device = page | u64::from(bytes.arbitrary::<u16>()? & 0xfff);
    world.registers(bytes)?;
    world.gprs.rbx = device;
    world.memory.write(GuestPhysAddr(CODE), bytes.bytes(15)?).expect("it is RAM");
    let exit = RawExit {
        reason: EPT_VIOLATION,
        qualification: if write { 0x182 } else { 0x181 },
        guest_linear: device,
        guest_physical: device,
        ..RawExit::default()
    };
    world.handle(&exit);
    Ok(())
}

/// One access of a driver, or something that happens to the board.
#[derive(Arbitrary, Debug)]
enum Step {
    Read { port: u16, width: u8 },
    Write { port: u16, width: u8, value: u32 },
    IoApic { offset: u8, width: u8, value: u64 },
    Balloon { offset: u16, width: u8, value: u64 },
    Target(u32),
    Pass(u32),
    Typed(u8),
    Output,
    Acknowledge,
    EndOfInterrupt(u8),
    Button,
    Reset,
}

/// A sequence of accesses to the board's devices.
pub fn devices(bytes: &[u8]) {
    let mut bytes = Unstructured::new(bytes);
    let (mut board, mut memory, mut now) = (board(), FlatMemory::new(0x10_0000), 0_u64);
    while let (false, Ok(step)) = (bytes.is_empty(), Step::arbitrary(&mut bytes)) {
        now += 1000;
        do_step(step, &mut board, &mut memory, &mut now);
        // At most one message for each of the inputs.
        assert!((0..25).any(|_| board.take_message().is_none()), "messages without end");
    }
}

fn width(number: u8) -> Width {
    [Width::Byte, Width::Word, Width::Dword, Width::Qword][usize::from(number % 4)]
}

fn do_step(step: Step, board: &mut Board, memory: &mut FlatMemory, now: &mut u64) {
    match step {
        Step::Read { port, width: number } => {
            let value = board.port_read(port, width(number), *now);
            assert!(value.is_none_or(|value| u64::from(value) <= width(number).mask()), "too wide");
        }
        Step::Write { port, width: number, value } => {
            board.port_write(port, width(number), value, *now);
        }
        Step::IoApic { offset, width: number, value } => {
            let gpa = GuestPhysAddr(IOAPIC_BASE + u64::from(offset));
            let _ = board.mmio_write(gpa, width(number), value, *now, memory);
            assert!(board.mmio_read(gpa, width(number), *now).is_some());
        }
        Step::Balloon { offset, width: number, value } => {
            let gpa = GuestPhysAddr(BALLOON_BASE + u64::from(offset & 0xfff));
            let _ = board.mmio_write(gpa, width(number), value, *now, memory);
            let value = board.mmio_read(gpa, width(number), *now);
            assert!(value.is_some_and(|value| value <= width(number).mask()), "too wide");
        }
        Step::Target(pages) => assert!(board.balloon_set_target_pages(pages)),
        Step::Pass(ticks) => {
            *now += u64::from(ticks) << 10;
            board.expire(*now);
            assert!(
                board.next_deadline().is_none_or(|at| at > *now),
                "a deadline that has passed would be due for ever"
            );
        }
        Step::Typed(byte) => {
            board.serial_input(&[byte]);
        }
        Step::Output => board.serial_output(|_| ()),
        Step::Acknowledge => {
            board.pic_acknowledge();
        }
        Step::EndOfInterrupt(vector) => board.ioapic_eoi(vector),
        Step::Button => board.power_button(*now),
        Step::Reset => {
            board.reset();
            *now = 0;
        }
    }
}

/// A driver of the memory balloon that has set its queues up in one page, whatever that holds.
pub fn balloon(bytes: &[u8]) {
    let _ = try_balloon(&mut Unstructured::new(bytes));
}

fn try_balloon(bytes: &mut Unstructured<'_>) -> Result<()> {
    const AREAS: u64 = 0x4000;
    let (mut board, mut memory) = (board(), FlatMemory::new(0x10_0000));
    let mut set = |offset: u64, value: u32, memory: &mut FlatMemory| {
        let _ = board.mmio_write(GuestPhysAddr(BALLOON_BASE + offset), Width::Dword, value.into(), 0, memory);
    };
    // Reset, ACKNOWLEDGE and DRIVER, the features, FEATURES_OK; then each queue; then DRIVER_OK.
    for (offset, value) in [(0x70, 0), (0x70, 3), (0x24, 0), (0x20, 7), (0x24, 1), (0x20, 1), (0x70, 11)] {
        set(offset, value, &mut memory);
    }
    for queue in 0..3_u32 {
        let base = AREAS as u32 + queue * 0x1000;
        let areas = [(0x80, base), (0x84, 0), (0x90, base + 0x400), (0x94, 0), (0xa0, base + 0x800), (0xa4, 0)];
        set(0x30, queue, &mut memory);
        set(0x38, 1 << bytes.int_in_range(0..=6)?, &mut memory);
        areas.into_iter().for_each(|(offset, value)| set(offset, value, &mut memory));
        set(0x44, 1, &mut memory);
    }
    set(0x70, 15, &mut memory);
    while !bytes.is_empty() {
        let (at, len) = (bytes.int_in_range(0..=0x2fff)?, bytes.int_in_range(1..=64)?);
        memory.write(GuestPhysAddr(AREAS + at), bytes.bytes(len)?).expect("it is RAM");
        set(0x50, bytes.int_in_range(0..=3)?, &mut memory);
    }
    Ok(())
}
