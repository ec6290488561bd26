use super::*;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use proptest::prelude::*;

const ALL_FEATURES: EptFeatures = EptFeatures { pages_2m: true, pages_1g: true, accessed_dirty: true };
const RAM: (Access, MemoryType) = (Access::ReadWriteExecute, MemoryType::WriteBack);

/// Tables in a map, as many as there is budget for.
struct Tables {
    tables: BTreeMap<u64, Vec<u64>>,
    next: u64,
    budget: usize,
}

impl Tables {
    fn with_budget(budget: usize) -> Self {
        Self { tables: BTreeMap::new(), next: 0x1000, budget }
    }
}

impl TableMemory for Tables {
    fn alloc_table(&mut self) -> Result<Frame, OutOfFrames> {
        if self.budget == 0 {
            return Err(OutOfFrames { requested_frames: 1, free_frames: 0 });
        }
        self.budget -= 1;
        self.next += 1;
        self.tables.insert(self.next, alloc::vec![0; ENTRIES_PER_TABLE]);
        Ok(Frame(self.next))
    }

    fn free_table(&mut self, table: Frame) {
        self.tables.remove(&table.0).expect("a table is freed once");
    }

    fn read_entry(&self, table: Frame, index: usize) -> u64 {
        self.tables[&table.0][index]
    }

    fn write_entry(&mut self, table: Frame, index: usize, value: u64) {
        self.tables.get_mut(&table.0).expect("a live table")[index] = value;
    }
}

type Leaves = BTreeMap<u64, Translation>;

fn leaves(ept: &Ept, memory: &Tables) -> Leaves {
    let mut leaves = Leaves::new();
    let mut last = None;
    ept.for_each_leaf(memory, |gpa, translation| {
        assert!(last.is_none_or(|last| last < gpa), "leaves come in order");
        last = Some(gpa);
        leaves.insert(gpa.0, translation);
    });
    leaves
}

/// That the tables hold the model's pages, in order, and no others.
fn assert_leaves(ept: &Ept, memory: &Tables, model: &Leaves) {
    let mut expected = model.iter();
    ept.for_each_leaf(memory, |gpa, translation| assert_eq!(Some((&gpa.0, &translation)), expected.next()));
    assert_eq!(expected.next(), None, "a page is missing");
}

fn page(frame: u64, size: PageSize, (access, memory_type): (Access, MemoryType)) -> Translation {
    Translation { hpa: Frame(frame).base(), frame: Frame(frame), size, access, memory_type }
}

#[test]
fn entries_are_laid_out_as_the_manual_says() {
    let mut memory = Tables::with_budget(10);
    let mut ept = Ept::new(&mut memory, ALL_FEATURES).unwrap();
    let gpa = GuestPhysAddr(0x40_0000);
    let _ = ept.map(&mut memory, gpa, Frame(0x1200), PageSize::Size2M, RAM).unwrap();
    // EPT PML4E, then PDPTE: present with all rights; then a PDE with memory type 6 in bits 5:3 and bit 7.
    let pml4e = memory.read_entry(ept.root(), 0);
    let pdpte = memory.read_entry(Frame(pml4e >> 12), 0);
    let pde = memory.read_entry(Frame(pdpte >> 12), 2);
    assert_eq!((pml4e & 0xfff, pdpte & 0xfff), (7, 7));
    assert_eq!(pde, 0x120_0000 | 1 << 7 | 6 << 3 | 7);
    let _ = ept.map(
        &mut memory,
        GuestPhysAddr(0x1000),
        Frame(5),
        PageSize::Size4K,
        (Access::Read, MemoryType::Uncacheable),
    );
    let pde = memory.read_entry(Frame(pdpte >> 12), 0);
    assert_eq!(memory.read_entry(Frame(pde >> 12), 1), 0x5000 | 1);
}

#[test]
fn eptp_says_four_levels_in_write_back_memory() {
    let mut memory = Tables::with_budget(2);
    let with = Ept::new(&mut memory, ALL_FEATURES).unwrap();
    assert_eq!(with.eptp(), with.root().base().0 | 0x5e);
    let without = Ept::new(&mut memory, EptFeatures::default()).unwrap();
    assert_eq!(without.eptp(), without.root().base().0 | 0x1e);
}

#[test]
fn addresses_out_of_reach_and_sizes_the_cpu_lacks_are_refused() {
    let mut memory = Tables::with_budget(10);
    let mut ept = Ept::new(&mut memory, EptFeatures { pages_2m: true, ..EptFeatures::default() }).unwrap();
    let mut try_map = |gpa: u64, frame: u64, size| ept.map(&mut memory, GuestPhysAddr(gpa), Frame(frame), size, RAM);
    let bad = |result| matches!(result, Err(MapError::BadAddress { .. }));
    assert!(bad(try_map(0x1000, 512, PageSize::Size2M)), "unaligned guest-physical address");
    assert!(bad(try_map(0, 511, PageSize::Size2M)), "unaligned frame");
    assert!(bad(try_map(1 << 48, 0, PageSize::Size4K)), "more than 48 bits");
    assert!(bad(try_map(0, 1 << 40, PageSize::Size4K)), "a frame past 52 bits");
    assert_eq!(try_map(0, 0, PageSize::Size1G), Err(MapError::UnsupportedSize { size: PageSize::Size1G }));
    assert_eq!(try_map((1 << 48) - 0x1000, (1 << 40) - 1, PageSize::Size4K), Ok(Invalidation::None));
    assert_eq!(ept.translate(&memory, GuestPhysAddr(u64::MAX)), None);
    assert_eq!(ept.supported_size(PageSize::Size1G), PageSize::Size2M);
}

#[test]
fn only_taking_away_needs_an_invalidation() {
    let mut memory = Tables::with_budget(10);
    let mut ept = Ept::new(&mut memory, ALL_FEATURES).unwrap();
    let gpa = GuestPhysAddr(0x5000);
    assert_eq!(ept.map(&mut memory, gpa, Frame(9), PageSize::Size4K, RAM), Ok(Invalidation::None));
    assert_eq!(ept.protect(&mut memory, gpa, Access::ReadExecute), Some(Invalidation::SingleContext));
    assert_eq!(ept.protect(&mut memory, gpa, Access::ReadWriteExecute), Some(Invalidation::None));
    assert_eq!(ept.protect(&mut memory, gpa, Access::Read), Some(Invalidation::SingleContext));
    assert_eq!(ept.protect(&mut memory, GuestPhysAddr(0x6000), Access::Read), None);
    let unmapped = ept.unmap(&mut memory, gpa, PageSize::Size4K).unwrap().unwrap();
    assert_eq!((unmapped.frame, unmapped.invalidation), (Frame(9), Invalidation::SingleContext));
    assert_eq!(ept.unmap(&mut memory, gpa, PageSize::Size4K), Ok(None));
}

#[test]
fn accessed_and_dirty_are_taken_once_and_survive_a_split() {
    let mut memory = Tables::with_budget(10);
    let mut ept = Ept::new(&mut memory, ALL_FEATURES).unwrap();
    let gpa = GuestPhysAddr(0);
    let _ = ept.map(&mut memory, gpa, Frame(0), PageSize::Size2M, RAM).unwrap();
    let place = ept.leaf(&memory, gpa).unwrap();
    memory.write_entry(place.table, place.index, place.entry.into_bits() | 3 << 8);
    assert_eq!(ept.split(&mut memory, gpa, PageSize::Size4K), Ok(Invalidation::SingleContext));
    let clean = AccessedDirty { accessed: false, dirty: false, invalidation: Invalidation::None };
    let used = AccessedDirty { accessed: true, dirty: true, invalidation: Invalidation::SingleContext };
    for gpa in [gpa, GuestPhysAddr(0x1f_f000)] {
        assert_eq!(ept.take_accessed_dirty(&mut memory, gpa), Some(used));
        assert_eq!(ept.take_accessed_dirty(&mut memory, gpa), Some(clean));
    }
    assert_eq!(ept.take_accessed_dirty(&mut memory, GuestPhysAddr(0x20_0000)), None);
}

#[test]
fn accessed_pages_are_counted_in_frames_once() {
    let mut memory = Tables::with_budget(10);
    let mut ept = Ept::new(&mut memory, ALL_FEATURES).unwrap();
    let (large, small, untouched) = (GuestPhysAddr(0x20_0000), GuestPhysAddr(0x1000), GuestPhysAddr(0x2000));
    let _ = ept.map(&mut memory, large, Frame(512), PageSize::Size2M, RAM).unwrap();
    for gpa in [small, untouched] {
        let _ = ept.map(&mut memory, gpa, Frame(gpa.0 >> 12), PageSize::Size4K, RAM).unwrap();
    }
    for gpa in [large, small] {
        let place = ept.leaf(&memory, gpa).unwrap();
        memory.write_entry(place.table, place.index, place.entry.with_accessed(true).with_dirty(true).into_bits());
    }
    assert_eq!(ept.take_accessed(&mut memory), 512 + 1);
    assert_eq!(ept.take_accessed(&mut memory), 0);
    let dirty = AccessedDirty { accessed: false, dirty: true, invalidation: Invalidation::SingleContext };
    assert_eq!(ept.take_accessed_dirty(&mut memory, large), Some(dirty), "the dirty flag stays");
}

#[test]
fn a_map_without_memory_for_all_its_tables_leaks_none() {
    for budget in 1..4 {
        let mut memory = Tables::with_budget(budget);
        let mut ept = Ept::new(&mut memory, ALL_FEATURES).unwrap();
        let result = ept.map(&mut memory, GuestPhysAddr(0x1000), Frame(1), PageSize::Size4K, RAM);
        assert!(matches!(result, Err(MapError::OutOfFrames(_))), "{result:?}");
        assert_eq!(memory.tables.len(), 1, "the root alone");
        assert!(leaves(&ept, &memory).is_empty());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Map { gpa: u64, frame: u64, size: PageSize, attributes: (Access, MemoryType) },
    Unmap { gpa: u64, size: PageSize },
    Split { gpa: u64, size: PageSize },
    Protect { gpa: u64, access: Access },
}

fn size() -> impl Strategy<Value = PageSize> {
    prop::sample::select(PageSize::ALL.to_vec())
}

fn access() -> impl Strategy<Value = Access> {
    prop::sample::select(alloc::vec![Access::Read, Access::ReadWrite, Access::ReadExecute, Access::ReadWriteExecute])
}

/// Few addresses, so that steps meet: two 1 GiB pages on each side of a PML4 entry's border, few 2 MiB and 4 KiB in them.
fn gpa() -> impl Strategy<Value = u64> {
    (0u64..4, 0u64..3, 0u64..3)
        .prop_map(|(huge, large, small)| (510 << 30) + (huge << 30) + (large << 21) + (small << 12))
}

fn step() -> impl Strategy<Value = Step> {
    let memory_type = prop::sample::select(alloc::vec![MemoryType::WriteBack, MemoryType::Uncacheable]);
    prop_oneof![
        3 => (gpa(), 0u64..4, size(), access(), memory_type).prop_map(|(gpa, frame, size, access, memory_type)| {
            // Mostly aligned, as a caller does; now and then not.
            let gpa = if frame == 3 { gpa } else { gpa & !(size.bytes() - 1) };
            Step::Map { gpa, frame: frame * size.frames(), size, attributes: (access, memory_type) }
        }),
        2 => (gpa(), size()).prop_map(|(gpa, size)| Step::Unmap { gpa, size }),
        1 => (gpa(), size()).prop_map(|(gpa, size)| Step::Split { gpa, size }),
        1 => (gpa(), access()).prop_map(|(gpa, access)| Step::Protect { gpa, access }),
    ]
}

/// The start of the model's page that holds `gpa`.
fn model_page(model: &Leaves, gpa: u64) -> Option<u64> {
    let (&start, page) = model.range(..=gpa).next_back()?;
    (gpa - start < page.size.bytes()).then_some(start)
}

fn model_split(model: &mut Leaves, gpa: u64, size: PageSize) {
    while let Some(start) = model_page(model, gpa).filter(|start| model[start].size > size) {
        let whole = model.remove(&start).unwrap();
        let part = if whole.size == PageSize::Size1G { PageSize::Size2M } else { PageSize::Size4K };
        for index in 0..512 {
            let frame = whole.frame.0 + index * part.frames();
            model.insert(start + index * part.bytes(), page(frame, part, (whole.access, whole.memory_type)));
        }
    }
}

proptest! {
    /// Against a model that is a map of pages; memory for tables runs out now and then, and a step that fails for it
    /// changes nothing and leaks nothing.
    #[test]
    fn translates_as_the_model(
        budgets in prop::collection::vec(0usize..6, 40),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut memory = Tables::with_budget(1);
        let mut ept = Ept::new(&mut memory, ALL_FEATURES).unwrap();
        let mut model = Leaves::new();
        for (step, budget) in steps.into_iter().zip(budgets) {
            memory.budget = budget;
            let tables_before = memory.tables.len();
            let mut out_of_frames = false;
            match step {
                Step::Map { gpa, frame, size, attributes } => {
                    let overlaps = model_page(&model, gpa).is_some()
                        || model.range(gpa..gpa + size.bytes()).next().is_some();
                    match ept.map(&mut memory, GuestPhysAddr(gpa), Frame(frame), size, attributes) {
                        Ok(invalidation) => {
                            prop_assert!(!overlaps, "mapped over a page");
                            prop_assert_eq!(gpa % size.bytes(), 0);
                            prop_assert_eq!(invalidation, Invalidation::None);
                            model.insert(gpa, page(frame, size, attributes));
                        }
                        Err(MapError::BadAddress { .. }) => prop_assert_ne!(gpa % size.bytes(), 0),
                        // Where no page is, a table of pages unmapped since is left.
                        Err(MapError::AlreadyMapped { .. }) => prop_assert!(overlaps || size > PageSize::Size4K),
                        Err(MapError::OutOfFrames(_)) => out_of_frames = true,
                        Err(MapError::UnsupportedSize { .. }) => prop_assert!(false, "all sizes are there"),
                    }
                }
                Step::Unmap { gpa, size } => match ept.unmap(&mut memory, GuestPhysAddr(gpa), size) {
                    Ok(unmapped) => {
                        model_split(&mut model, gpa, size);
                        let expected = model_page(&model, gpa).map(|start| (start, model.remove(&start).unwrap()));
                        prop_assert_eq!(
                            unmapped.map(|page| (page.gpa.0, page.frame, page.size)),
                            expected.map(|(start, page)| (start, page.frame, page.size))
                        );
                    }
                    Err(_) => out_of_frames = true,
                },
                Step::Split { gpa, size } => match ept.split(&mut memory, GuestPhysAddr(gpa), size) {
                    Ok(_) => model_split(&mut model, gpa, size),
                    Err(_) => out_of_frames = true,
                },
                Step::Protect { gpa, access } => {
                    let page = model_page(&model, gpa).and_then(|start| model.get_mut(&start));
                    let result = ept.protect(&mut memory, GuestPhysAddr(gpa), access);
                    prop_assert_eq!(result.is_some(), page.is_some());
                    if let Some(page) = page {
                        page.access = access;
                    }
                }
            }
            if out_of_frames {
                prop_assert_eq!(memory.tables.len(), tables_before, "a failed step leaked a table");
            }
            assert_leaves(&ept, &memory, &model);
        }
        for (&start, expected) in &model {
            let offset = expected.size.bytes() - 1;
            let translation = ept.translate(&memory, GuestPhysAddr(start + offset)).unwrap();
            prop_assert_eq!(translation.hpa.0, expected.frame.base().0 + offset);
        }
        let mut released = Vec::new();
        ept.destroy(&mut memory, |_, frame, size| released.push((frame, size)));
        prop_assert_eq!(released, model.values().map(|page| (page.frame, page.size)).collect::<Vec<_>>());
        prop_assert!(memory.tables.is_empty(), "tables left behind");
    }
}
