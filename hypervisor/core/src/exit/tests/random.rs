//! Whatever the guest does and the CPU reports, a handler answers.

use super::*;
use proptest::prelude::*;

/// Numbers that mean something, beside any number.
fn interesting() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0u64..0x40,
        prop::sample::select(&[
            0xfee0_0080,
            0xfec0_0000,
            0xfec0_0010,
            0xfeff_ffff,
            0x2000,
            0xffff,
            0xffff_ffff,
            0x7fff_ffff_ffff,
            0xffff_8000_0000_0000,
            u64::MAX,
            0xc000_0080,
            0x1b,
            0x6e0,
            0x808,
            0x200,
            0x3ff,
            0xa_0000,
            0x3f_fffe,
        ]),
    ]
}

fn gprs() -> impl Strategy<Value = Gprs> {
    prop::collection::vec(interesting(), 15).prop_map(|values| {
        let mut gprs = Gprs::default();
        for (number, value) in (0..16u8).filter(|&number| number != 4).zip(values) {
            *gprs.by_number_mut(number).unwrap() = value;
        }
        gprs
    })
}

fn raw_exit() -> impl Strategy<Value = RawExit> {
    let reason =
        prop_oneof![0u32..80, prop::sample::select(&[30u32, 30, 28, 31, 32, 44, 48, 48, 48, 10]), any::<u32>()];
    let numbers = prop::collection::vec(interesting(), 3);
    let qualification = prop_oneof![
        any::<u64>(),
        (0u64..0x1000),
        Just(0x181),
        Just(0x182),
        // Port numbers with every form of access.
        (0u64..0x40, prop_oneof![0u64..0x1000, 0u64..0x1_0000]).prop_map(|(low, port)| port << 16 | low),
    ];
    (reason, qualification, numbers, prop::collection::vec(any::<u32>(), 6)).prop_map(
        |(reason, qualification, n, m)| RawExit {
            reason,
            qualification,
            guest_linear: n[0],
            guest_physical: if n[2] % 2 == 0 { n[0] } else { n[1] },
            interruption_info: m[0],
            interruption_error: m[1],
            idt_vectoring_info: if m[2] % 4 == 0 { m[2] } else { 0 },
            idt_vectoring_error: m[3],
            instruction_len: m[4] % 16,
            instruction_info: m[5],
        },
    )
}

fn vcpu() -> impl Strategy<Value = FakeVcpu> {
    let fields = prop::collection::vec((prop::sample::select(GuestField::ALL), interesting()), 0..8);
    let base = prop::sample::select(std::vec![FakeVcpu::bits64(), FakeVcpu::bits32(), FakeVcpu::bits16()]);
    (base, fields, any::<u64>(), any::<u64>(), any::<u8>()).prop_map(|(mut vcpu, fields, cr0, cr4, wild)| {
        for (field, value) in fields {
            vcpu.write(field, value);
        }
        if wild % 4 == 0 {
            vcpu.cr0 = cr0;
        }
        if wild % 8 < 2 {
            vcpu.cr4 = cr4;
        }
        vcpu
    })
}

/// Prefixes and escapes that lead to more of the opcode map.
const PREFIXES: &[&[u8]] = &[&[], &[0x66], &[0xf3], &[0xf0], &[0x48], &[0x67, 0xf3, 0x48], &[0x0f]];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_exit_panics(
        exit in raw_exit(), gprs in gprs(), vcpu in vcpu(), now in interesting(),
        code in prop::collection::vec(any::<u8>(), 0..16),
        tables in prop::collection::vec((0u64..512, any::<u64>()), 0..4),
    ) {
        let mut world = World::new(vcpu, &code);
        for (index, entry) in tables {
            world.memory.write(GuestPhysAddr(PML4 + index * 8), &entry.to_le_bytes()).unwrap();
        }
        world.gprs = gprs;
        world.now = now;
        let first = world.handle(&exit);
        if let Outcome::Populate(gpa) = first {
            prop_assert!(world.ram.is_ram(gpa), "{gpa} is to be backed and is no RAM");
        }
        // And once more, on what the first left.
        let _ = world.handle(&exit);
        if let (Some(event), Outcome::Inject(new)) = (interrupted_event(&exit), first) {
            let _ = merge(event, new);
        }
    }

    /// The instruction bytes are the guest's: any of them, on a device register.
    #[test]
    fn no_instruction_panics(
        gprs in gprs(), vcpu in vcpu(), write in any::<bool>(),
        code in prop::collection::vec(any::<u8>(), 1..16),
        prefix in prop::sample::select(PREFIXES),
        opcode in prop_oneof![any::<u8>(), 0x80u8..0x90, 0xa0u8..0xb0, Just(0xc7), 0xfe..=0xffu8],
    ) {
        let bytes: std::vec::Vec<u8> = prefix.iter().copied().chain([opcode]).chain(code).take(15).collect();
        let mut vcpu = vcpu;
        vcpu.write(GuestField::Rip, CODE);
        let mut world = World::new(vcpu, &bytes);
        world.gprs = gprs;
        let exit = RawExit {
            reason: 48,
            qualification: if write { 0x182 } else { 0x181 },
            guest_linear: gprs.rbx,
            guest_physical: 0xfec0_0000 | gprs.rbx & 0xfff,
            ..RawExit::default()
        };
        let _ = world.handle(&exit);
    }
}
