//! What is answered at once is answered as [`handle`] answers it, and what is not is left as it was.

use super::*;
use crate::exit::local::{LocalExits, Processor, answer};
use crate::x86::msr::spec::{IA32_APIC_BASE, IA32_EFER, IA32_MISC_ENABLE, IA32_PAT, IA32_TSC, IA32_TSC_DEADLINE};
use proptest::prelude::*;

fn any_register() -> impl Strategy<Value = u64> {
    let msrs = [IA32_APIC_BASE, IA32_EFER, IA32_MISC_ENABLE, IA32_PAT, IA32_TSC, IA32_TSC_DEADLINE, 0x802, 0x1234];
    prop_oneof![
        2 => proptest::sample::select(msrs.map(u64::from).to_vec()),
        2 => 0u64..0x20,
        1 => 0x4000_0000u64..0x4000_0004,
        1 => 0x8000_0000u64..0x8000_0009,
        1 => Just(0x4c4d_0001),
        1 => any::<u64>(),
    ]
}

proptest! {
    #[test]
    fn the_answer_is_the_same(
        reason in prop_oneof![4 => proptest::sample::select([10u32, 13, 18, 31, 54].to_vec()), 1 => 0u32..80, 1 => any::<u32>()],
        registers in [any_register(), any_register(), any_register(), any_register()],
        user in any::<bool>(),
        osxsave in any::<bool>(),
    ) {
        let mut world = World::new(FakeVcpu::bits64(), &[]);
        world.vcpu.write(GuestField::SsAccessRights, if user { 0xc0f3 } else { 0xc093 });
        world.vcpu.cr4 |= if osxsave { cr4::OSXSAVE } else { 0 };
        let [rax, rbx, rcx, rdx] = registers;
        world.gprs = Gprs { rax, rbx, rcx, rdx, ..Gprs::default() };
        let (mut vcpu, mut gprs) = (world.vcpu.clone(), world.gprs);
        let (apic_base, now) = (world.apic.base_msr(), world.now);
        let mut processor = Processor { state: &mut vcpu, gprs: &mut gprs, cpu: &world.cpu, apic_base, now };
        if answer(reason, &mut processor) {
            let exit = RawExit { reason, instruction_len: 2, ..RawExit::default() };
            prop_assert_eq!(world.handle(&exit), Outcome::Advance);
            prop_assert!(world.cpu.take_changes().is_empty());
        }
        prop_assert_eq!((&gprs, &vcpu), (&world.gprs, &world.vcpu));
    }
}

#[test]
fn the_frequent_ones_are_answered() {
    let world = World::new(FakeVcpu::bits64(), &[]);
    for (reason, rcx) in [(10, 0), (18, 0), (31, IA32_APIC_BASE), (31, IA32_EFER), (54, 0)] {
        let (mut vcpu, mut gprs) = (world.vcpu.clone(), Gprs { rcx: u64::from(rcx), ..Gprs::default() });
        let mut processor = Processor { state: &mut vcpu, gprs: &mut gprs, cpu: &world.cpu, apic_base: 0, now: 0 };
        assert!(answer(reason, &mut processor), "{reason}");
        // "VM-entry failure" (bit 31): no instruction exited.
        let mut processor = Processor { state: &mut vcpu, gprs: &mut gprs, cpu: &world.cpu, apic_base: 0, now: 0 };
        assert!(!answer(reason | 1 << 31, &mut processor), "{reason}");
    }
}

#[test]
fn they_are_counted_when_the_counters_are_at_hand() {
    let (mut local, mut counters) = (LocalExits::default(), ExitCounters::new());
    for _ in 0..3 {
        assert!(local.can_count(10));
        local.count(10);
    }
    assert!(!local.can_count(18));
    local.hand_on(&mut counters);
    local.hand_on(&mut counters);
    assert_eq!((counters.by_reason()[10], counters.total()), (3, 3));
    assert!(local.can_count(18));
}
