//! Control-register accesses.

use super::*;
use crate::x86::CpuChanges;

/// MOV to CR`register` from RBX.
fn mov_to(world: &mut World, register: u64, value: u64) -> Outcome {
    world.gprs.rbx = value;
    world.exit(ExitReason::ControlRegisterAccess, register | 3 << 8)
}

const PE: u64 = cr0::PE;
const PG: u64 = cr0::PG;

/// A vCPU in protected mode with EFER, CR4, CR3 and CS access rights set for the test.
fn before_paging(efer: u64, cr4: u64) -> World {
    let mut vcpu = FakeVcpu::bits32();
    vcpu.write(GuestField::Ia32Efer, efer);
    vcpu.cr4 = cr4;
    vcpu.write(GuestField::Cr3, 0x3000);
    World::new(vcpu, &[])
}

#[test]
fn paging_with_lme_enters_long_mode_and_without_leaves_it() {
    let mut world = before_paging(efer::LME, cr4::PAE);
    world.vcpu.write(GuestField::TrAccessRights, 0x83);
    assert_eq!(mov_to(&mut world, 0, PE | PG | cr0::NE), Outcome::Advance);
    assert_eq!(world.vcpu.read(GuestField::Ia32Efer), efer::LME | efer::LMA);
    assert!(world.vcpu.long_mode);
    assert_eq!(world.vcpu.cr0, PE | PG | cr0::NE | cr0::ET);
    assert_eq!(world.vcpu.read(GuestField::TrAccessRights), 0x8b, "TR is a 64-bit busy TSS");
    assert_eq!(world.cpu.take_changes(), CpuChanges::FLUSH_TLB);
    assert_eq!(mov_to(&mut world, 0, PE), Outcome::Advance, "from compatibility mode");
    assert_eq!(world.vcpu.read(GuestField::Ia32Efer), efer::LME);
    assert!(!world.vcpu.long_mode);
}

#[test]
fn what_mov_to_cr0_refuses() {
    let long_code = |mut world: World| {
        world.vcpu.write(GuestField::CsAccessRights, 0xa09b);
        world
    };
    let with_pcid = || {
        let mut world = World::new(FakeVcpu::bits64(), &[]);
        world.vcpu.cr4 |= cr4::PCIDE;
        world.vcpu.write(GuestField::CsAccessRights, 0xc09b);
        world
    };
    for (what, mut world, value) in [
        ("PG without PE", before_paging(0, 0), PG),
        ("NW without CD", before_paging(0, 0), PE | cr0::NW),
        ("PG with LME and without PAE", before_paging(efer::LME, 0), PE | PG),
        ("PG with LME and CS.L", long_code(before_paging(efer::LME, cr4::PAE)), PE | PG),
        ("clearing PG in 64-bit mode", World::new(FakeVcpu::bits64(), &[]), PE),
        ("clearing PG with PCIDE", with_pcid(), PE),
        ("bit 32 in 64-bit mode", World::new(FakeVcpu::bits64(), &[]), 1 << 32 | PE | PG),
    ] {
        let before = world.vcpu.clone();
        assert_eq!(mov_to(&mut world, 0, value), GP, "{what}");
        assert_eq!(world.vcpu, before, "{what}: nothing changes");
        assert_eq!(world.cpu.take_changes(), CpuChanges::empty());
    }
    let mut world = before_paging(0, 0);
    assert_eq!(mov_to(&mut world, 0, 0x1234_5678_0000_0000 | PE | 0x1ff8_ffc0), Outcome::Advance, "ignored bits");
    assert_eq!(world.vcpu.cr0, PE | cr0::ET, "no reserved bit is set");
}

#[test]
fn pae_paging_loads_the_pdptes() {
    for (register, efer, cr0, cr4, value) in [
        (0, 0, PE, cr4::PAE, PE | PG),
        (0, 0, PE | PG, cr4::PAE, PE | PG | cr0::CD),
        (4, 0, PE | PG, 0, cr4::PAE),
        (4, 0, PE | PG, cr4::PAE, cr4::PAE | cr4::PGE),
    ] {
        let mut world = before_paging(efer, cr4);
        world.vcpu.cr0 = cr0;
        world.vcpu.write(GuestField::Cr3, 0x3020 | 0x18);
        for (index, pdpte) in [0x4001u64, 0, 0xfff8_0000_0000_01e6, 0x5_0000_6001].into_iter().enumerate() {
            world.memory.write(GuestPhysAddr(0x3020 + index as u64 * 8), &pdpte.to_le_bytes()).unwrap();
        }
        assert_eq!(mov_to(&mut world, register, value), Outcome::Advance);
        let loaded = [GuestField::Pdpte0, GuestField::Pdpte1, GuestField::Pdpte2, GuestField::Pdpte3]
            .map(|field| world.vcpu.read(field));
        assert_eq!(
            loaded,
            [0x4001, 0, 0xfff8_0000_0000_01e6, 0x5_0000_6001],
            "reserved bits count in present ones only"
        );
        assert!(world.cpu.take_changes().contains(CpuChanges::FLUSH_TLB));
    }
    for (bad, cr3) in [(0x4003u64, 0x3000), (0x41, 0x3000), (1 << 39 | 1, 0x3000), (1, 0xf000_0000)] {
        let mut world = before_paging(0, cr4::PAE);
        world.vcpu.write(GuestField::Cr3, cr3);
        world.memory.write(GuestPhysAddr(0x3018), &bad.to_le_bytes()).unwrap();
        assert_eq!(mov_to(&mut world, 0, PE | PG), GP, "PDPTE {bad:#x} at {cr3:#x}");
        assert_eq!(world.vcpu.cr0, PE | cr0::ET);
        assert_eq!(world.vcpu.read(GuestField::Pdpte3), 0);
    }
}

#[test]
fn cr4_gives_what_cpuid_promises() {
    let pcid_cr3 = |cr3: u64| {
        let mut vcpu = FakeVcpu::bits64();
        vcpu.write(GuestField::Cr3, cr3);
        World::new(vcpu, &[])
    };
    for (what, mut world, value, allowed) in [
        ("VMXE", before_paging(0, 0), cr4::VMXE, false),
        ("SMXE", before_paging(0, 0), 1 << 14, false),
        ("LA57", before_paging(0, 0), 1 << 12, false),
        ("PKE", before_paging(0, 0), 1 << 22, false),
        ("CET", before_paging(0, 0), 1 << 23, false),
        ("reserved", before_paging(0, 0), 1 << 15, false),
        ("OSXSAVE, FSGSBASE, SMEP, SMAP, UMIP", before_paging(0, 0), cr4::OSXSAVE | 0x31_0800, true),
        ("clearing PAE in long mode", World::new(FakeVcpu::bits64(), &[]), 0, false),
        ("PCIDE outside long mode", before_paging(0, 0), cr4::PCIDE, false),
        ("PCIDE with a PCID in CR3", pcid_cr3(PML4 | 1), cr4::PAE | cr4::PCIDE, false),
        ("PCIDE", pcid_cr3(PML4), cr4::PAE | cr4::PCIDE, true),
    ] {
        let before = world.vcpu.cr4;
        assert_eq!(mov_to(&mut world, 4, value), if allowed { Outcome::Advance } else { GP }, "{what}");
        assert_eq!(world.vcpu.cr4, if allowed { value } else { before }, "{what}");
    }
}

#[test]
fn clts_and_lmsw() {
    let mut world = before_paging(0, 0);
    world.vcpu.cr0 |= cr0::TS | cr0::MP;
    assert_eq!(world.exit(ExitReason::ControlRegisterAccess, 2 << 4), Outcome::Advance);
    assert_eq!(world.vcpu.cr0, PE | cr0::ET | cr0::MP);
    assert_eq!(world.exit(ExitReason::ControlRegisterAccess, 3 << 4 | 0xfffc << 16), Outcome::Advance);
    assert_eq!(
        world.vcpu.cr0,
        PE | cr0::ET | cr0::EM | cr0::TS,
        "PE stays, MP is cleared, bits from 4 on are not loaded"
    );
}

#[test]
fn cr8_is_the_task_priority_class() {
    for x2apic in [false, true] {
        let mut world = World::new(FakeVcpu::bits64(), &[]);
        if x2apic {
            world.apic.set_base_msr(0xfee0_0d00).unwrap();
        }
        assert_eq!(mov_to(&mut world, 8, 9), Outcome::Advance);
        assert_eq!(world.apic.processor_priority(), 0x90);
        // MOV RSP, CR8.
        assert_eq!(world.exit(ExitReason::ControlRegisterAccess, 8 | 1 << 4 | 4 << 8), Outcome::Advance);
        assert_eq!(world.vcpu.read(GuestField::Rsp), 9);
        assert_eq!(mov_to(&mut world, 8, 16), GP);
        assert_eq!(mov_to(&mut world, 8, 1 << 40), GP);
    }
}

#[test]
fn an_access_that_never_exits_is_named() {
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    assert!(crash_text(mov_to(&mut world, 3, 0)).contains("control-register access"));
}
