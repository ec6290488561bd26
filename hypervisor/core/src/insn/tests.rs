//! Instructions by their bytes, on a device that is 64 bytes of plain registers.

use super::alu::{self, Operation};
use super::*;
use crate::exit::tests::{CODE, FakeVcpu, memory_with};
use crate::memory::FlatMemory;
use crate::vmx::GuestField;
use proptest::prelude::*;
use std::vec::Vec;

/// Where the device is.
const DEVICE: u64 = 0xfec0_0000;
/// Status flags.
const CF: u64 = 1;
const PF: u64 = 4;
const AF: u64 = 0x10;
const ZF: u64 = 0x40;
const SF: u64 = 0x80;
const OF: u64 = 0x800;

/// RAM, and a device that remembers what was written.
struct FakeBus {
    memory: FlatMemory,
    device: [u8; 64],
    writes: Vec<(u64, Width, u64)>,
    reads: usize,
    full: bool,
}

impl FakeBus {
    fn slot(&mut self, gpa: GuestPhysAddr, width: Width) -> Option<&mut [u8]> {
        let at = usize::try_from(gpa.0.checked_sub(DEVICE)?).ok()?;
        self.device.get_mut(at..at.checked_add(width as usize)?)
    }
}

impl Bus for FakeBus {
    fn memory(&self) -> &dyn GuestMemory {
        &self.memory
    }
    fn read(&mut self, gpa: GuestPhysAddr, width: Width) -> u64 {
        let mut bytes = [0; 8];
        if let Some(slot) = self.slot(gpa, width) {
            bytes[..slot.len()].copy_from_slice(slot);
            self.reads += 1;
        } else if self.memory.read(gpa, &mut bytes[..width as usize]).is_err() {
            return width.mask();
        }
        u64::from_le_bytes(bytes)
    }
    fn write(&mut self, gpa: GuestPhysAddr, width: Width, value: u64) -> Result<(), MemoryError> {
        assert_eq!(value & !width.mask(), 0, "no more than the width");
        if self.full {
            return Err(MemoryError::OutOfFrames { gpa });
        }
        if let Some(slot) = self.slot(gpa, width) {
            slot.copy_from_slice(&value.to_le_bytes()[..width as usize]);
            self.writes.push((gpa.0 - DEVICE, width, value));
            return Ok(());
        }
        self.memory.write(gpa, &value.to_le_bytes()[..width as usize])
    }
}

struct Run {
    vcpu: FakeVcpu,
    gprs: Gprs,
    bus: FakeBus,
}

impl Run {
    fn new(vcpu: FakeVcpu, code: &[u8]) -> Self {
        let bus = FakeBus { memory: memory_with(code), device: [0; 64], writes: Vec::new(), reads: 0, full: false };
        Self { vcpu, gprs: Gprs { rbx: DEVICE, ..Gprs::default() }, bus }
    }

    fn go(&mut self) -> Result<Completion, Fault> {
        let mut space = AddressSpace::of(&self.vcpu, 39);
        space.remember(DEVICE, GuestPhysAddr(DEVICE), true);
        emulate(&mut Machine { state: &mut self.vcpu, gprs: &mut self.gprs, bus: &mut self.bus, space })
    }

    fn device(&self) -> u64 {
        u64::from_le_bytes(self.bus.device[..8].try_into().unwrap())
    }

    fn set_device(&mut self, value: u64) {
        self.bus.device[..8].copy_from_slice(&value.to_le_bytes());
    }

    fn flags(&self) -> u64 {
        self.vcpu.read(GuestField::Rflags) & !2
    }
}

/// Bytes; RAX, RCX and the device before; RAX, RCX, the device and the status flags after. RBX points to the device.
type Case = (&'static str, &'static [u8], [u64; 3], [u64; 3], u64);

const A: u64 = 0x1122_3344_5566_7788;
const D: u64 = 0x8090_a0b0_c0d0_e0f0;

const CASES_64: &[Case] = &[
    ("mov eax, [rbx]", &[0x8b, 0x03], [A, 0, D], [0xc0d0_e0f0, 0, D], 0),
    ("mov rax, [rbx]", &[0x48, 0x8b, 0x03], [A, 0, D], [D, 0, D], 0),
    ("mov ax, [rbx]", &[0x66, 0x8b, 0x03], [A, 0, D], [0x1122_3344_5566_e0f0, 0, D], 0),
    ("mov al, [rbx]", &[0x8a, 0x03], [A, 0, D], [0x1122_3344_5566_77f0, 0, D], 0),
    ("mov ah, [rbx]", &[0x8a, 0x23], [A, 0, D], [0x1122_3344_5566_f088, 0, D], 0),
    ("mov [rbx], eax", &[0x89, 0x03], [A, 0, D], [A, 0, 0x8090_a0b0_5566_7788], 0),
    ("mov [rbx], rax", &[0x48, 0x89, 0x03], [A, 0, D], [A, 0, A], 0),
    ("mov [rbx], ax", &[0x66, 0x89, 0x03], [A, 0, D], [A, 0, 0x8090_a0b0_c0d0_7788], 0),
    ("mov [rbx], ah", &[0x88, 0x23], [A, 0, D], [A, 0, 0x8090_a0b0_c0d0_e077], 0),
    ("mov byte [rbx], 0xfe", &[0xc6, 0x03, 0xfe], [A, 0, D], [A, 0, 0x8090_a0b0_c0d0_e0fe], 0),
    ("mov word [rbx], 0x1234", &[0x66, 0xc7, 0x03, 0x34, 0x12], [A, 0, D], [A, 0, 0x8090_a0b0_c0d0_1234], 0),
    ("mov dword [rbx], -2", &[0xc7, 0x03, 0xfe, 0xff, 0xff, 0xff], [A, 0, D], [A, 0, 0x8090_a0b0_ffff_fffe], 0),
    ("mov qword [rbx], -2", &[0x48, 0xc7, 0x03, 0xfe, 0xff, 0xff, 0xff], [A, 0, D], [A, 0, u64::MAX - 1], 0),
    ("movnti [rbx], eax", &[0x0f, 0xc3, 0x03], [A, 0, D], [A, 0, 0x8090_a0b0_5566_7788], 0),
    ("mov eax, [abs]", &[0xa1, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0], [A, 0, D], [0xc0d0_e0f0, 0, D], 0),
    ("mov [abs], al", &[0xa2, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0], [A, 0, D], [A, 0, 0x8090_a0b0_c0d0_e088], 0),
    ("movzx eax, byte [rbx]", &[0x0f, 0xb6, 0x03], [A, 0, D], [0xf0, 0, D], 0),
    ("movzx ax, byte [rbx]", &[0x66, 0x0f, 0xb6, 0x03], [A, 0, D], [0x1122_3344_5566_00f0, 0, D], 0),
    ("movzx rax, word [rbx]", &[0x48, 0x0f, 0xb7, 0x03], [A, 0, D], [0xe0f0, 0, D], 0),
    ("movsx eax, byte [rbx]", &[0x0f, 0xbe, 0x03], [A, 0, D], [0xffff_fff0, 0, D], 0),
    ("movsx rax, word [rbx]", &[0x48, 0x0f, 0xbf, 0x03], [A, 0, D], [0xffff_ffff_ffff_e0f0, 0, D], 0),
    ("movsxd rax, dword [rbx]", &[0x48, 0x63, 0x03], [A, 0, D], [0xffff_ffff_c0d0_e0f0, 0, D], 0),
    ("add [rbx], eax", &[0x01, 0x03], [1, 0, 0xffff_ffff], [1, 0, 0], CF | PF | AF | ZF),
    ("lock add [rbx], eax", &[0xf0, 0x01, 0x03], [1, 0, 0x7fff_ffff], [1, 0, 0x8000_0000], PF | AF | SF | OF),
    ("add eax, [rbx]", &[0x03, 0x03], [A, 0, 1], [0x5566_7789, 0, 1], 0),
    ("sub byte [rbx], 1", &[0x80, 0x2b, 1], [0, 0, 0x1_00], [0, 0, 0x1_ff], CF | PF | AF | SF),
    ("sub dword [rbx], -1", &[0x83, 0x2b, 0xff], [0, 0, 5], [0, 0, 6], CF | PF | AF),
    ("and dword [rbx], 0xf0", &[0x81, 0x23, 0xf0, 0, 0, 0], [0, 0, D], [0, 0, 0x8090_a0b0_0000_00f0], PF),
    ("or [rbx], ecx", &[0x09, 0x0b], [0, 0x0f, 0xf0], [0, 0x0f, 0xff], PF),
    ("lock or dword [rbx], -128", &[0xf0, 0x83, 0x0b, 0x80], [0, 0, 0], [0, 0, 0xffff_ff80], SF),
    ("xor rax, [rbx]", &[0x48, 0x33, 0x03], [D, 0, D], [0, 0, D], ZF | PF),
    ("cmp dword [rbx], 5", &[0x83, 0x3b, 5], [0, 0, 5], [0, 0, 5], ZF | PF),
    ("cmp [rbx], eax", &[0x39, 0x03], [6, 0, 5], [6, 0, 5], CF | PF | AF | SF),
    ("cmp al, [rbx]", &[0x3a, 0x03], [0x80, 0, 1], [0x80, 0, 1], OF | AF),
    ("test byte [rbx], 0x80", &[0xf6, 0x03, 0x80], [0, 0, 0x80], [0, 0, 0x80], SF),
    ("test [rbx], ecx", &[0x85, 0x0b], [0, 2, 1], [0, 2, 1], ZF | PF),
    ("inc dword [rbx]", &[0xff, 0x03], [0, 0, 0xffff_ffff], [0, 0, 0], ZF | PF | AF),
    ("dec byte [rbx]", &[0xfe, 0x0b], [0, 0, 0x80], [0, 0, 0x7f], OF | AF),
    ("neg qword [rbx]", &[0x48, 0xf7, 0x1b], [0, 0, 1], [0, 0, u64::MAX], CF | SF | PF | AF),
    ("not word [rbx]", &[0x66, 0xf7, 0x13], [0, 0, 0x1_00ff], [0, 0, 0x1_ff00], 0),
    ("bt dword [rbx], 37", &[0x0f, 0xba, 0x23, 37], [0, 0, 1 << 5], [0, 0, 1 << 5], CF),
    ("bts [rbx], ecx", &[0x0f, 0xab, 0x0b], [0, 35, 0], [0, 35, 1 << 35], 0),
    ("lock btr qword [rbx], 63", &[0xf0, 0x48, 0x0f, 0xba, 0x33, 63], [0, 0, D], [0, 0, 0x0090_a0b0_c0d0_e0f0], CF),
    ("btc word [rbx], 4", &[0x66, 0x0f, 0xba, 0x3b, 4], [0, 0, 0], [0, 0, 0x10], 0),
    ("xchg [rbx], eax", &[0x87, 0x03], [A, 0, D], [0xc0d0_e0f0, 0, 0x8090_a0b0_5566_7788], 0),
    ("xchg cl, [rbx]", &[0x86, 0x0b], [0, 0x1_02, 0x0304], [0, 0x1_04, 0x0302], 0),
    ("lock xadd [rbx], eax", &[0xf0, 0x0f, 0xc1, 0x03], [1, 0, 0x10], [0x10, 0, 0x11], PF),
    ("cmpxchg [rbx], ecx, equal", &[0x0f, 0xb1, 0x0b], [5, 7, 5], [5, 7, 7], ZF | PF),
    ("cmpxchg [rbx], ecx, not", &[0x0f, 0xb1, 0x0b], [u64::MAX << 32 | 4, 7, 5], [5, 7, 5], CF | PF | AF | SF),
    ("adc dword [rbx], 0", &[0x83, 0x13, 0], [0, 0, 5], [0, 0, 5], PF),
];

#[test]
fn instructions_by_their_bytes() {
    for (name, bytes, [rax, rcx, device], [rax_after, rcx_after, device_after], flags) in CASES_64 {
        let mut run = Run::new(FakeVcpu::bits64(), bytes);
        run.gprs.rax = *rax;
        run.gprs.rcx = *rcx;
        run.set_device(*device);
        assert_eq!(run.go(), Ok(Completion::Done), "{name}");
        assert_eq!(
            [run.gprs.rax, run.gprs.rcx, run.device(), run.flags()].map(|n| std::format!("{n:x}")),
            [*rax_after, *rcx_after, *device_after, *flags].map(|n| std::format!("{n:x}")),
            "{name}"
        );
        assert_eq!(run.vcpu.read(GuestField::Rip), CODE + bytes.len() as u64, "{name}");
        assert!(run.bus.reads <= 1 && run.bus.writes.len() <= 1, "{name}: a device register is touched once");
    }
}

#[test]
fn addresses_of_every_form() {
    // (bytes, mode, registers)
    let sib = Gprs { rbx: DEVICE - 0x28, rsi: 4, ..Gprs::default() };
    for (name, bytes, vcpu, gprs) in [
        ("mov eax, [rbx + rsi*8 + 8]", &[0x8b, 0x44, 0xf3, 0x08][..], FakeVcpu::bits64(), sib),
        ("mov eax, [r10]", &[0x41, 0x8b, 0x02], FakeVcpu::bits64(), Gprs { r10: DEVICE, ..Gprs::default() }),
        (
            "mov eax, [eip - 0x1402007]",
            &[0x67, 0x8b, 0x05, 0xf9, 0xdf, 0xbf, 0xfe],
            FakeVcpu::bits64(),
            Gprs::default(),
        ),
        (
            "mov eax, [ebx], wrapping",
            &[0x67, 0x8b, 0x43, 0x10],
            FakeVcpu::bits64(),
            Gprs { rbx: 0xdead_0000_febf_fff0, ..Gprs::default() },
        ),
        ("mov eax, [ebx] in 32-bit mode", &[0x8b, 0x03], FakeVcpu::bits32(), Gprs { rbx: DEVICE, ..Gprs::default() }),
        ("mov eax, [abs] in 32-bit mode", &[0xa1, 0, 0, 0xc0, 0xfe], FakeVcpu::bits32(), Gprs::default()),
    ] {
        let mut run = Run::new(vcpu, bytes);
        run.gprs = gprs;
        run.set_device(0x1234_5678);
        assert_eq!(run.go(), Ok(Completion::Done), "{name}");
        assert_eq!(run.gprs.rax, 0x1234_5678, "{name}");
    }
    // FS and GS have bases in 64-bit mode; 16-bit code has base + offset: mov eax, gs:[bx] with an address prefix.
    let mut run = Run::new(FakeVcpu::bits64(), &[0x65, 0x8b, 0x03]);
    run.vcpu.write(GuestField::GsBase, DEVICE - 0x1000);
    run.gprs.rbx = 0x1000;
    run.set_device(7);
    assert_eq!(run.go(), Ok(Completion::Done));
    assert_eq!(run.gprs.rax, 7);
    let mut run = Run::new(FakeVcpu::bits16(), &[0x66, 0x8b, 0x07]);
    run.vcpu.write(GuestField::DsBase, DEVICE - 0x1000);
    run.gprs.rbx = 0xabcd_1000;
    run.set_device(7);
    assert_eq!(run.go(), Ok(Completion::Done));
    assert_eq!(run.gprs.rax, 7, "the offset is BX");
}

#[test]
fn bits_beyond_the_operand_are_reached_through_a_register() {
    // bts [rbx], rax with bit -1: the byte before; and far behind.
    for (bit, index, value) in [(-1i64, 0x18, 1u64 << 63), (64, 0x28, 1), (130, 0x30, 4)] {
        let mut run = Run::new(FakeVcpu::bits64(), &[0x48, 0x0f, 0xab, 0x03]);
        run.gprs.rbx = DEVICE + 0x20;
        run.gprs.rax = bit.cast_unsigned();
        assert_eq!(run.go(), Ok(Completion::Done));
        assert_eq!(run.bus.writes, [(index, Width::Qword, value)]);
    }
}

#[test]
fn strings_step_and_stop() {
    // rep stosd
    let mut run = Run::new(FakeVcpu::bits64(), &[0xf3, 0xab]);
    run.gprs = Gprs { rax: 0x55, rcx: 3, rdi: DEVICE, ..Gprs::default() };
    assert_eq!(run.go(), Ok(Completion::Done));
    assert_eq!(run.bus.writes, [0, 4, 8].map(|at| (at, Width::Dword, 0x55)));
    assert_eq!((run.gprs.rcx, run.gprs.rdi), (0, DEVICE + 12));
    // rep movsb from RAM, backwards.
    let mut run = Run::new(FakeVcpu::bits64(), &[0xf3, 0xa4]);
    run.vcpu.write(GuestField::Rflags, 0x402);
    run.bus.memory.write(GuestPhysAddr(0x5000), &[1, 2, 3]).unwrap();
    run.gprs = Gprs { rcx: 2, rsi: 0x5002, rdi: DEVICE + 1, ..Gprs::default() };
    assert_eq!(run.go(), Ok(Completion::Done));
    assert_eq!(run.bus.writes, [(1, Width::Byte, 3), (0, Width::Byte, 2)]);
    // movsq to RAM; lodsw.
    let mut run = Run::new(FakeVcpu::bits64(), &[0x48, 0xa5, 0x66, 0xad]);
    run.set_device(D);
    run.gprs = Gprs { rax: A, rsi: DEVICE, rdi: 0x5000, rcx: 9, ..Gprs::default() };
    assert_eq!(run.go(), Ok(Completion::Done));
    assert_eq!(run.bus.memory.read_u64(GuestPhysAddr(0x5000)).unwrap(), D);
    assert_eq!((run.gprs.rcx, run.gprs.rsi, run.gprs.rdi), (9, DEVICE + 8, 0x5008));
    run.gprs.rsi = DEVICE;
    assert_eq!(run.go(), Ok(Completion::Done));
    assert_eq!((run.gprs.rax, run.gprs.rsi, run.gprs.rdi), (0x1122_3344_5566_e0f0, DEVICE + 2, 0x5008));
    // A count of 0, and one that is too long for one exit.
    for (count, completion, left) in
        [(0, Completion::Done, 0), (256, Completion::Done, 0), (300, Completion::Again, 44)]
    {
        let mut run = Run::new(FakeVcpu::bits64(), &[0xf3, 0xaa]);
        run.gprs = Gprs { rcx: count, rdi: 0x2_0000, ..Gprs::default() };
        assert_eq!(run.go(), Ok(completion));
        assert_eq!(run.gprs.rcx, left);
        let rip = if completion == Completion::Done { CODE + 2 } else { CODE };
        assert_eq!(run.vcpu.read(GuestField::Rip), rip);
    }
}

#[test]
fn a_guest_that_single_steps_traps_after_each_iteration() {
    const TF: u64 = 1 << 8;
    const SINGLE_STEP: u64 = 1 << 14;
    let mut run = Run::new(FakeVcpu::bits64(), &[0xf3, 0xaa]);
    run.vcpu.write(GuestField::Rflags, 2 | TF);
    run.gprs = Gprs { rcx: 2, rdi: 0x2_0000, ..Gprs::default() };
    for (completion, left, rip) in [(Completion::Again, 1, CODE), (Completion::Done, 0, CODE + 2)] {
        assert_eq!(run.go(), Ok(completion));
        assert_eq!((run.gprs.rcx, run.vcpu.read(GuestField::Rip)), (left, rip));
        assert_eq!(run.vcpu.read(GuestField::PendingDebugExceptions), SINGLE_STEP);
        run.vcpu.write(GuestField::PendingDebugExceptions, 0);
    }
}

#[test]
fn a_fault_changes_nothing() {
    // xchg [rbx], eax on memory that is not mapped; push [rbx] to such a stack; the host is out of memory.
    for (bytes, rbx, rsp, full, fault) in [
        (&[0x87, 0x03][..], 1 << 32, 0x8000, false, Fault::PageFault { linear: 1 << 32, error_code: 2 }),
        (&[0xff, 0x33], DEVICE, 0x1_0000_0000, false, Fault::PageFault { linear: 0xffff_fff8, error_code: 0 }),
        (&[0x01, 0x03], 0x6000, 0x8000, true, Fault::Unbacked(GuestPhysAddr(0x6000))),
    ] {
        let mut run = Run::new(FakeVcpu::bits64(), bytes);
        run.gprs = Gprs { rax: 3, rbx, ..Gprs::default() };
        run.vcpu.write(GuestField::Rsp, rsp);
        run.bus.full = full;
        if let Fault::PageFault { linear: 0xffff_fff8, .. } = fault {
            // 3 to 4 GiB become read-only: the push faults, the device was not read.
            let entry = 3u64 << 30 | 0x85;
            run.bus.memory.write(GuestPhysAddr(crate::exit::tests::PML4 + 0x1000 + 24), &entry.to_le_bytes()).unwrap();
        }
        let (vcpu, gprs) = (run.vcpu.clone(), run.gprs);
        let expected = match fault {
            Fault::PageFault { linear: 0xffff_fff8, .. } => Fault::PageFault { linear: 0xffff_fff8, error_code: 3 },
            other => other,
        };
        assert_eq!(run.go(), Err(expected));
        assert_eq!((run.vcpu, run.gprs, run.bus.reads), (vcpu, gprs, 0));
    }
}

#[test]
fn push_puts_the_register_on_the_stack() {
    let mut run = Run::new(FakeVcpu::bits64(), &[0xff, 0x33]);
    run.set_device(D);
    assert_eq!(run.go(), Ok(Completion::Done));
    assert_eq!(run.vcpu.read(GuestField::Rsp), 0x7ff8);
    assert_eq!(run.bus.memory.read_u64(GuestPhysAddr(0x7ff8)).unwrap(), D);
}

#[test]
fn an_instruction_may_cross_a_page() {
    let mut run = Run::new(FakeVcpu::bits64(), &[]);
    // mov dword [rbx], 0x12345678 at the end of a page.
    run.bus.memory.write(GuestPhysAddr(0x2ffd), &[0xc7, 0x03, 0x78, 0x56, 0x34, 0x12]).unwrap();
    run.vcpu.write(GuestField::Rip, 0x2ffd);
    assert_eq!(run.go(), Ok(Completion::Done));
    assert_eq!(run.device(), 0x1234_5678);
    // The second byte is behind the end of RAM, where all bytes are ones.
    let end = crate::exit::tests::MEMORY_LEN as u64;
    run.bus.memory.write(GuestPhysAddr(end - 1), &[0xc7]).unwrap();
    run.vcpu.write(GuestField::Rip, end - 1);
    assert!(matches!(run.go(), Err(Fault::Unsupported(_))));
}

#[test]
fn bytes_that_are_not_carried_out_are_reported() {
    for bytes in
        [&[0x0f, 0x28, 0x03][..], &[0x0f, 0xae, 0x03], &[0xd9, 0x03], &[0x8e, 0x1b], &[0xff, 0x23], &[0x0f, 0xff, 0x03]]
    {
        let mut run = Run::new(FakeVcpu::bits64(), bytes);
        let Err(Fault::Unsupported(reported)) = run.go() else { panic!("{bytes:02x?}") };
        let text: Vec<_> = bytes.iter().map(|byte| std::format!("{byte:02x}")).collect();
        assert!(std::format!("{reported}").starts_with(&text.join(" ")), "{reported}");
        assert_eq!(run.vcpu.read(GuestField::Rip), CODE);
    }
    assert!(warm_up());
}

/// The flags by the manual's definitions, in wide arithmetic.
fn oracle(operation: Operation, a: u64, b: u64, carry: u64, bits: u32) -> (u64, u64) {
    let modulus = 1i128 << bits;
    let signed =
        |value: u64| if i128::from(value) >= modulus / 2 { i128::from(value) - modulus } else { i128::from(value) };
    let (wide, wide_signed, nibble) = match operation {
        Operation::Add | Operation::Adc => {
            let c = i128::from(if operation == Operation::Adc { carry } else { 0 });
            (i128::from(a) + i128::from(b) + c, signed(a) + signed(b) + c, i128::from(a & 15) + i128::from(b & 15) + c)
        }
        Operation::Sub | Operation::Sbb => {
            let c = i128::from(if operation == Operation::Sbb { carry } else { 0 });
            (i128::from(a) - i128::from(b) - c, signed(a) - signed(b) - c, i128::from(a & 15) - i128::from(b & 15) - c)
        }
        Operation::And => (i128::from(a & b), signed(a & b), 0),
        Operation::Or => (i128::from(a | b), signed(a | b), 0),
        Operation::Xor => (i128::from(a ^ b), signed(a ^ b), 0),
    };
    let value = u64::try_from(wide.rem_euclid(modulus)).unwrap();
    let mut flags = 0;
    for (set, flag) in [
        (wide < 0 || wide >= modulus, CF),
        (value.to_le_bytes()[0].count_ones() % 2 == 0, PF),
        (!(0..=15).contains(&nibble), AF),
        (value == 0, ZF),
        (value >> (bits - 1) & 1 == 1, SF),
        (wide_signed < -modulus / 2 || wide_signed >= modulus / 2, OF),
    ] {
        flags |= if set { flag } else { 0 };
    }
    (value, flags)
}

fn operands() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0u64..4,
        prop::sample::select(&[0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, u64::MAX, 1 << 63]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn results_and_flags_agree_with_the_manual(
        operation in prop::sample::select(&[
            Operation::Add, Operation::Adc, Operation::Sub, Operation::Sbb, Operation::And, Operation::Or, Operation::Xor,
        ]),
        width in prop::sample::select(&[Width::Byte, Width::Word, Width::Dword, Width::Qword]),
        a in operands(), b in operands(), rflags in any::<u64>(),
    ) {
        let result = alu::binary(operation, a, b, width, rflags);
        let bits = u32::try_from(width.bytes() * 8).unwrap();
        let (value, flags) = oracle(operation, a & width.mask(), b & width.mask(), rflags & CF, bits);
        prop_assert_eq!(result.value, value);
        let logic = matches!(operation, Operation::And | Operation::Or | Operation::Xor);
        let defined = if logic { CF | PF | ZF | SF | OF } else { CF | PF | AF | ZF | SF | OF };
        prop_assert_eq!(result.rflags & defined, flags & defined);
        prop_assert_eq!(result.rflags & !defined, rflags & !defined, "other flags are kept");
    }

    #[test]
    fn inc_dec_and_neg_are_add_and_sub(
        width in prop::sample::select(&[Width::Byte, Width::Word, Width::Dword, Width::Qword]),
        a in operands(), rflags in any::<u64>(),
    ) {
        for (result, by_hand) in [
            (alu::increment(a, width, rflags), alu::binary(Operation::Add, a, 1, width, rflags)),
            (alu::decrement(a, width, rflags), alu::binary(Operation::Sub, a, 1, width, rflags)),
        ] {
            prop_assert_eq!(result.value, by_hand.value);
            prop_assert_eq!(result.rflags & !CF, by_hand.rflags & !CF);
            prop_assert_eq!(result.rflags & CF, rflags & CF);
        }
        let negated = alu::negate(a, width, rflags);
        prop_assert_eq!(negated, alu::binary(Operation::Sub, 0, a, width, rflags));
        prop_assert_eq!(negated.rflags & CF != 0, a & width.mask() != 0);
    }
}
