use super::*;
use crate::memory::FlatMemory;
use alloc::vec::Vec;
use proptest::prelude::*;

const READ: LinearAccess = LinearAccess { kind: AccessKind::Read, user: false, alignment_check: false };
const WRITE: LinearAccess = LinearAccess { kind: AccessKind::Write, ..READ };
const FETCH: LinearAccess = LinearAccess { kind: AccessKind::Fetch, ..READ };
const USER_READ: LinearAccess = LinearAccess { user: true, ..READ };

/// The tables lie one behind the other from here on, the root first.
const TABLES: u64 = 0x1000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Legacy,
    Pae,
    Long4,
    Long5,
}

impl Mode {
    fn paging(self) -> Paging {
        let (cr4, efer) = match self {
            Self::Legacy => (cr4::PSE, 0),
            Self::Pae => (cr4::PAE, efer::NXE),
            Self::Long4 => (cr4::PAE, efer::NXE | efer::LMA),
            Self::Long5 => (cr4::PAE | CR4_LA57, efer::NXE | efer::LMA),
        };
        Paging { cr0: cr0::PG | cr0::PE, cr3: TABLES, cr4, efer, physical_address_bits: 40 }
    }

    /// Address bits that each level selects by, root first.
    fn level_bits(self) -> &'static [u32] {
        match self {
            Self::Legacy => &[10, 10],
            Self::Pae => &[2, 9, 9],
            Self::Long4 => &[9, 9, 9, 9],
            Self::Long5 => &[9, 9, 9, 9, 9],
        }
    }

    const fn entry_bytes(self) -> u64 {
        if matches!(self, Self::Legacy) { 4 } else { 8 }
    }

    /// The levels (counted from the root) that can map a page.
    fn leaf_levels(self) -> Vec<usize> {
        match self {
            Self::Legacy => alloc::vec![0, 1],
            Self::Pae => alloc::vec![1, 2],
            Self::Long4 => alloc::vec![1, 2, 3],
            Self::Long5 => alloc::vec![2, 3, 4],
        }
    }
}

/// Flags of one entry on the way.
#[derive(Clone, Copy, Debug)]
struct Flags {
    writable: bool,
    user: bool,
    execute_disable: bool,
}

const OPEN: Flags = Flags { writable: true, user: true, execute_disable: false };

/// Page tables that lead `gla` to a page at `leaf_level` whose base is `page`, by the manual's description of the format.
struct Built {
    memory: FlatMemory,
    paging: Paging,
    page_bytes: u64,
    entries: Vec<GuestPhysAddr>,
}

fn build(mode: Mode, gla: u64, leaf_level: usize, page: u64, flags: &[Flags]) -> Built {
    let mut memory = FlatMemory::new(0x8000);
    let bits = mode.level_bits();
    let mut shift = 12 + bits.iter().sum::<u32>();
    let mut entries = Vec::new();
    for (level, &level_bits) in bits.iter().enumerate().take(leaf_level + 1) {
        shift -= level_bits;
        let index = gla >> shift & ((1 << level_bits) - 1);
        let table = TABLES + level as u64 * 0x1000;
        let at = GuestPhysAddr(table + index * mode.entry_bytes());
        let is_pdpte_of_pae = mode == Mode::Pae && level == 0;
        let flags = flags[level];
        let mut entry = 1;
        if !is_pdpte_of_pae {
            entry |= u64::from(flags.writable) << 1 | u64::from(flags.user) << 2;
            if mode != Mode::Legacy {
                entry |= u64::from(flags.execute_disable) << 63;
            }
        }
        if level == leaf_level {
            let base = page & !((1 << shift) - 1);
            entry |= if mode == Mode::Legacy { base & 0xffff_ffff | (base >> 32 & 0xff) << 13 } else { base };
            if shift > 12 {
                entry |= 1 << 7;
            }
        } else {
            entry |= table + 0x1000;
        }
        let bytes = entry.to_le_bytes();
        memory.write(at, &bytes[..usize::try_from(mode.entry_bytes()).unwrap()]).unwrap();
        entries.push(at);
    }
    Built { memory, paging: mode.paging(), page_bytes: 1 << shift, entries }
}

impl Built {
    fn walk(&self, gla: u64, access: LinearAccess) -> Result<GuestPhysAddr, WalkFault> {
        self.paging.walk(&self.memory, GuestLinearAddr(gla), access)
    }

    fn error_code(&self, gla: u64, access: LinearAccess) -> u32 {
        match self.walk(gla, access) {
            Err(WalkFault::PageFault { error_code, gla: reported }) => {
                assert_eq!(reported.0, gla);
                error_code
            }
            other => panic!("no page fault: {other:?}"),
        }
    }

    fn change_entry(&mut self, level: usize, set: u64, clear: u64) {
        let entry = self.memory.read_u64(self.entries[level]).unwrap() & !clear | set;
        self.memory.write(self.entries[level], &entry.to_le_bytes()).unwrap();
    }
}

fn long4(gla: u64) -> Built {
    build(Mode::Long4, gla, 3, 0x7654_3000, &[OPEN; 4])
}

#[test]
fn without_paging_linear_is_physical() {
    let paging = Paging { cr0: cr0::PE, ..Mode::Legacy.paging() };
    let memory = FlatMemory::new(0);
    assert_eq!(paging.walk(&memory, GuestLinearAddr(0x1_0010_0042), WRITE), Ok(GuestPhysAddr(0x10_0042)));
}

#[test]
fn page_faults_have_the_manuals_error_codes() {
    let gla = 0xffff_8000_1234_5678;
    let mut built = long4(gla);
    assert_eq!(built.walk(gla, READ), Ok(GuestPhysAddr(0x7654_3678)));
    built.change_entry(3, EXECUTE_DISABLE, WRITABLE | USER);
    assert_eq!(built.error_code(gla, FETCH), 0x11);
    assert_eq!(built.error_code(gla, USER_READ), 0x5);
    assert!(built.walk(gla, WRITE).is_ok(), "CR0.WP is clear");
    built.paging.cr0 |= cr0::WP;
    assert_eq!(built.error_code(gla, WRITE), 0x3);
    built.change_entry(1, 0, PRESENT);
    assert_eq!(built.error_code(gla, WRITE), 0x2);
    assert_eq!(built.error_code(gla, USER_READ), 0x4);
    built.paging.efer &= !efer::NXE;
    assert_eq!(built.error_code(gla, FETCH), 0, "fetches are told apart with NX or SMEP only");
}

#[test]
fn smep_and_smap_keep_the_supervisor_off_user_pages() {
    let gla = 0x40_0000;
    let mut built = long4(gla);
    built.paging.cr4 |= cr4::SMEP | cr4::SMAP;
    assert_eq!(built.error_code(gla, FETCH), 0x11);
    assert_eq!(built.error_code(gla, READ), 0x1);
    assert!(built.walk(gla, LinearAccess { alignment_check: true, ..READ }).is_ok());
    assert!(built.walk(gla, USER_READ).is_ok());
    built.change_entry(0, 0, USER);
    assert!(built.walk(gla, READ).is_ok() && built.walk(gla, FETCH).is_ok());
}

#[test]
fn reserved_bits_fault() {
    let gla = 0x40_0000;
    // Above MAXPHYADDR; bit 7 of a PML4E; the low address bits of a 1 GiB page.
    for (level, bit) in [(0, 45), (3, 40), (0, 7)] {
        let mut built = long4(gla);
        built.change_entry(level, 1 << bit, 0);
        assert_eq!(built.error_code(gla, READ), 0x9, "level {level}, bit {bit}");
    }
    let mut huge = build(Mode::Long4, gla, 1, 0x4000_0000, &[OPEN; 4]);
    huge.change_entry(1, 1 << 12, 0);
    assert!(huge.walk(gla, READ).is_ok(), "bit 12 is the PAT flag");
    huge.change_entry(1, 1 << 29, 0);
    assert_eq!(huge.error_code(gla, READ), 0x9);
    let mut no_nx = long4(gla);
    no_nx.change_entry(2, EXECUTE_DISABLE, 0);
    no_nx.paging.efer &= !efer::NXE;
    assert_eq!(no_nx.error_code(gla, READ), 0x9);
    let mut pae = build(Mode::Pae, gla, 2, 0x5000, &[OPEN; 3]);
    pae.change_entry(0, 1 << 1, 0);
    assert_eq!(pae.error_code(gla, READ), 0x9);
    // Bits 62:52 are the guest's own in IA-32e mode, and reserved with PAE paging.
    let mut pae = build(Mode::Pae, gla, 2, 0x5000, &[OPEN; 3]);
    let mut long = long4(gla);
    assert!(pae.walk(gla, READ).is_ok());
    pae.change_entry(2, 1 << 52, 0);
    long.change_entry(3, 1 << 52, 0);
    assert_eq!(pae.error_code(gla, READ), 0x9);
    assert!(long.walk(gla, READ).is_ok());
}

#[test]
fn addresses_that_are_not_canonical_are_told() {
    let built = long4(0);
    let gla = GuestLinearAddr(1 << 47);
    assert_eq!(built.walk(gla.0, READ), Err(WalkFault::NotCanonical { gla }));
    let five = build(Mode::Long5, 1 << 47, 4, 0x9000, &[OPEN; 5]);
    assert_eq!(five.walk(1 << 47, READ), Ok(GuestPhysAddr(0x9000)));
}

#[test]
fn tables_outside_ram_are_no_page_fault() {
    let mut built = long4(0);
    built.paging.cr3 = 0xff_ffff_f000;
    assert!(matches!(built.walk(0, READ), Err(WalkFault::Memory(MemoryError::OutsideRam { .. }))));
}

fn access() -> impl Strategy<Value = LinearAccess> {
    let kind = prop::sample::select(alloc::vec![AccessKind::Read, AccessKind::Write, AccessKind::Fetch]);
    (kind, any::<bool>(), any::<bool>()).prop_map(|(kind, user, alignment_check)| LinearAccess {
        kind,
        user,
        alignment_check,
    })
}

prop_compose! {
    fn flags()(writable in prop::bool::weighted(0.8), user in prop::bool::weighted(0.7), execute_disable in prop::bool::weighted(0.1)) -> Flags {
        Flags { writable, user, execute_disable }
    }
}

proptest! {
    /// Tables built from a mapping lead to it, and the rights on the way add up.
    #[test]
    fn walks_as_built(
        mode in prop::sample::select(alloc::vec![Mode::Legacy, Mode::Pae, Mode::Long4, Mode::Long5]),
        gla in any::<u64>(), page in any::<u64>(), leaf in any::<prop::sample::Index>(),
        flags in prop::collection::vec(flags(), 5), access in access(),
        wp in any::<bool>(), smep in any::<bool>(), smap in any::<bool>(),
    ) {
        let gla = match mode {
            Mode::Legacy | Mode::Pae => gla & 0xffff_ffff,
            Mode::Long4 => ((gla << 16).cast_signed() >> 16).cast_unsigned(),
            Mode::Long5 => ((gla << 7).cast_signed() >> 7).cast_unsigned(),
        };
        let leaf_levels = mode.leaf_levels();
        let leaf_level = *leaf.get(&leaf_levels);
        let page = page & if mode == Mode::Legacy && leaf_level == 1 { 0xffff_ffff } else { 0xff_ffff_ffff };
        let mut built = build(mode, gla, leaf_level, page, &flags);
        for (flag, on, bit) in [(&mut built.paging.cr0, wp, cr0::WP), (&mut built.paging.cr4, smep, cr4::SMEP)] {
            if on { *flag |= bit; }
        }
        if smap { built.paging.cr4 |= cr4::SMAP; }

        let way = &flags[usize::from(mode == Mode::Pae)..=leaf_level];
        let user = way.iter().all(|flags| flags.user);
        let writable = way.iter().all(|flags| flags.writable);
        let executable = mode == Mode::Legacy || !way.iter().any(|flags| flags.execute_disable);
        let allowed = match (access.kind, access.user) {
            (AccessKind::Read, true) => user,
            (AccessKind::Write, true) => user && writable,
            (AccessKind::Fetch, true) => user && executable,
            (AccessKind::Fetch, false) => executable && !(user && smep),
            (AccessKind::Read, false) => !(user && smap && !access.alignment_check),
            (AccessKind::Write, false) => (writable || !wp) && !(user && smap && !access.alignment_check),
        };
        let result = built.walk(gla, access);
        if allowed {
            let offset = built.page_bytes - 1;
            prop_assert_eq!(result, Ok(GuestPhysAddr(page & !offset | gla & offset)));
        } else {
            let protection = matches!(result, Err(WalkFault::PageFault { error_code, .. }) if error_code & 0b1001 == 1);
            prop_assert!(protection, "{:?}", result);
        }
    }

    /// Whatever a guest leaves in its tables and registers, a walk ends and does not panic.
    #[test]
    fn junk_ends(
        junk in prop::collection::vec(any::<u64>(), 512), cr3 in any::<u64>(), cr4 in any::<u64>(),
        efer in any::<u64>(), gla in any::<u64>(), access in access(), bits in 0u32..80, near in any::<bool>(),
    ) {
        let mut memory = FlatMemory::new(0x4000);
        for (index, value) in (0u64..).zip(&junk) {
            // Present entries that point back into this memory, so that the walk goes deep.
            let value = if near { value & 0x80ff_0000_0000_3fff | 1 } else { *value };
            for table in 0..4 {
                memory.write(GuestPhysAddr(table * 0x1000 + index * 8), &value.to_le_bytes()).unwrap();
            }
        }
        let cr3 = if near { cr3 & 0x3fff } else { cr3 };
        let paging = Paging { cr0: cr0::PG, cr3, cr4, efer, physical_address_bits: bits };
        let _ = paging.walk(&memory, GuestLinearAddr(gla), access);
    }
}
