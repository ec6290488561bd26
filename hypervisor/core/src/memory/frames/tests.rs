use super::*;
use alloc::collections::BTreeMap;
use proptest::prelude::*;

const RAM: Owner = Owner::vm(3, FrameKind::Ram);
const EPT: Owner = Owner::vm(3, FrameKind::Ept);

fn allocator(frames: usize, usable: Range<u64>) -> FrameAllocator<Vec<u16>> {
    let mut allocator = FrameAllocator::new(alloc::vec![0xffff; frames]);
    allocator.add_usable(Frame(usable.start)..Frame(usable.end)).unwrap();
    allocator
}

/// Every counter, recounted from the table.
fn assert_counters_match_table(allocator: &FrameAllocator<Vec<u16>>) {
    let mut counted = BTreeMap::<u16, u64>::new();
    for &number in &allocator.owners {
        *counted.entry(number).or_default() += 1;
    }
    for number in 0..allocator.held.len() {
        let number = u16::try_from(number).unwrap();
        let expected = counted.remove(&number).unwrap_or(0);
        assert_eq!(allocator.held_by(Owner::from_number(number)), expected, "owner {number}");
    }
    assert!(counted.is_empty(), "owners without a counter: {counted:?}");
    assert_eq!(
        allocator.free_count() + allocator.used_count() + allocator.held_by(Owner::RESERVED),
        allocator.total_count()
    );
}

#[test]
fn frames_not_added_are_reserved() {
    let allocator = allocator(100, 10..20);
    assert_eq!(allocator.owner_of(Frame(9)), Owner::RESERVED);
    assert_eq!(allocator.owner_of(Frame(10)), Owner::FREE);
    assert_eq!(allocator.owner_of(Frame(u64::MAX)), Owner::RESERVED);
    assert_eq!((allocator.free_count(), allocator.used_count(), allocator.total_count()), (10, 0, 100));
}

#[test]
fn the_request_that_is_to_be_refused_is_and_no_other() {
    let mut allocator = allocator(8, 0..8);
    assert_eq!(allocator.refuse(Some(2)), None);
    allocator.alloc(RAM).unwrap();
    assert_eq!(allocator.alloc(RAM), Err(OutOfFrames { requested_frames: 1, free_frames: 7 }));
    allocator.alloc(RAM).unwrap();
    assert_eq!(allocator.refuse(Some(5)), None, "it was carried out");
    allocator.alloc(RAM).unwrap();
    assert_eq!(allocator.refuse(None), Some(4));
    (0..5).for_each(|_| assert!(allocator.alloc(RAM).is_ok()));
    assert_counters_match_table(&allocator);
}

#[test]
fn a_free_is_checked_against_the_holder() {
    let mut allocator = allocator(64, 0..64);
    let frame = allocator.alloc(RAM).unwrap();
    assert_eq!(
        allocator.free(frame, 1, EPT),
        Err(FrameError::NotHeld { frame, expected: EPT, holder: RAM }),
        "a foreign free"
    );
    allocator.free(frame, 1, RAM).unwrap();
    assert_eq!(
        allocator.free(frame, 1, RAM),
        Err(FrameError::NotHeld { frame, expected: RAM, holder: Owner::FREE }),
        "a double free"
    );
    let past = Frame(64);
    assert_eq!(allocator.free(past, 1, RAM), Err(FrameError::NoSuchFrame { frame: past }));
    assert_eq!(allocator.free(Frame(u64::MAX), 2, RAM), Err(FrameError::NoSuchFrame { frame: Frame(u64::MAX) }));
}

#[test]
fn the_first_frame_of_a_vm_makes_room_for_all_its_accounts() {
    let mut allocator = allocator(64, 0..64);
    allocator.alloc(Owner::vm(7, FrameKind::Ram)).unwrap();
    let room = allocator.held.capacity();
    for kind in FrameKind::ALL {
        allocator.alloc(Owner::vm(7, kind)).unwrap();
    }
    assert_eq!(allocator.held.capacity(), room);
    assert!(allocator.held.len() > usize::from(Owner::vm(7, FrameKind::Vcpu).number()));
}

#[test]
fn usable_memory_is_added_once() {
    let mut allocator = allocator(64, 8..16);
    let again = allocator.add_usable(Frame(15)..Frame(20));
    assert_eq!(again, Err(FrameError::NotHeld { frame: Frame(15), expected: Owner::RESERVED, holder: Owner::FREE }));
    assert_eq!(allocator.free_count(), 8);
}

#[test]
fn neighbouring_ranges_join_to_large_runs() {
    let mut allocator = FrameAllocator::new(alloc::vec![0; 1024]);
    allocator.add_usable(Frame(512)..Frame(700)).unwrap();
    allocator.add_usable(Frame(700)..Frame(1024)).unwrap();
    assert_eq!(allocator.alloc_aligned(512, RAM), Ok(Frame(512)));
}

#[test]
fn runs_are_aligned_and_not_rounded_up() {
    let mut allocator = allocator(4096, 100..4096);
    let large = allocator.alloc_aligned(512, RAM).unwrap();
    assert_eq!(large.0 % 512, 0);
    let odd = allocator.alloc_aligned(300, EPT).unwrap();
    assert_eq!(odd.0 % 512, 0);
    assert_eq!((allocator.held_by(RAM), allocator.held_by(EPT), allocator.held_by_vm(3)), (512, 300, 812));
    assert_eq!(allocator.owner_of(Frame(odd.0 + 300)), Owner::FREE);
    allocator.free(Frame(large.0 + 7), 100, RAM).unwrap();
    assert_eq!(allocator.held_by(RAM), 412);
    assert_counters_match_table(&allocator);
}

#[test]
fn insufficient_memory_says_how_much_there_is() {
    let mut allocator = allocator(64, 0..64);
    let error = allocator.alloc_aligned(512, RAM).unwrap_err();
    assert_eq!(error, OutOfFrames { requested_frames: 512, free_frames: 64 });
    assert_eq!(
        alloc::format!("{error}"),
        "insufficient host memory: 512 contiguous frames (2048 KiB) wanted, 64 frames (256 KiB) are free"
    );
    assert_eq!(allocator.alloc_aligned(usize::MAX, RAM).unwrap_err().free_frames, 64);
}

#[test]
fn adopted_frames_can_be_given_back() {
    let mut allocator = allocator(64, 32..64);
    allocator.adopt(Frame(3)..Frame(29), Owner::HEAP).unwrap();
    assert_eq!((allocator.held_by(Owner::HEAP), allocator.free_count()), (26, 32));
    for _ in 0..32 {
        let frame = allocator.alloc(RAM).unwrap();
        assert!(frame.0 >= 32, "an adopted frame was handed out: {frame:?}");
    }
    allocator.alloc(RAM).unwrap_err();
    allocator.free(Frame(3), 26, Owner::HEAP).unwrap();
    assert_eq!(allocator.free_count(), 26);
    assert_counters_match_table(&allocator);
}

#[derive(Clone, Debug)]
enum Step {
    Alloc { count: usize, slot: u16 },
    Free { pick: usize, part: Range<usize> },
    FreeWrong { frame: u64, count: usize, slot: u16 },
    AddUsable { start: u64, count: u64 },
    Adopt { start: u64, count: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let count = prop_oneof![4 => Just(1usize), 1 => 0usize..70];
    prop_oneof![
        6 => (count, 0u16..4).prop_map(|(count, slot)| Step::Alloc { count, slot }),
        5 => (any::<usize>(), 0usize..8, 0usize..70).prop_map(|(pick, from, len)| Step::Free { pick, part: from..from + len }),
        1 => (0u64..600, 0usize..10, 0u16..4).prop_map(|(frame, count, slot)| Step::FreeWrong { frame, count, slot }),
        1 => (0u64..600, 0u64..100).prop_map(|(start, count)| Step::AddUsable { start, count }),
        1 => (0u64..600, 0u64..20).prop_map(|(start, count)| Step::Adopt { start, count }),
    ]
}

proptest! {
    /// Against a model that is a plain array of owners.
    #[test]
    fn accounts_are_exact(usable in 0u64..512, steps in proptest::collection::vec(step(), 1..200)) {
        const FRAMES: usize = 512;
        let mut allocator = allocator(FRAMES, 0..usable);
        let mut model: Vec<Owner> = (0..FRAMES as u64).map(|f| if f < usable { Owner::FREE } else { Owner::RESERVED }).collect();
        let mut runs: Vec<(Range<usize>, Owner)> = Vec::new();
        let holds = |model: &[Owner], run: Range<usize>, owner| model.get(run).is_some_and(|run| run.iter().all(|&o| o == owner));
        for step in steps {
            match step {
                Step::Alloc { count, slot } => {
                    let owner = Owner::vm(slot, FrameKind::Ram);
                    if let Ok(frame) = allocator.alloc_aligned(count, owner) {
                        let start = usize::try_from(frame.0).unwrap();
                        let run = start..start + count.max(1);
                        prop_assert_eq!(start % count.max(1).next_power_of_two(), 0);
                        prop_assert!(holds(&model, run.clone(), Owner::FREE), "frames handed out twice");
                        model[run.clone()].fill(owner);
                        runs.push((run, owner));
                    } else if count <= 1 {
                        prop_assert!(!model.contains(&Owner::FREE), "a free frame was not found");
                    }
                }
                Step::Free { pick, part } => {
                    if runs.is_empty() { continue; }
                    let (run, owner) = runs.swap_remove(pick % runs.len());
                    let from = (run.start + part.start).min(run.end);
                    let to = (from + part.len()).min(run.end);
                    prop_assert_eq!(allocator.free(Frame(from as u64), to - from, owner), Ok(()));
                    model[from..to].fill(Owner::FREE);
                    for rest in [run.start..from, to..run.end] {
                        if !rest.is_empty() { runs.push((rest, owner)); }
                    }
                }
                Step::FreeWrong { frame, count, slot } => {
                    let owner = Owner::vm(slot, FrameKind::Ept);
                    let start = usize::try_from(frame).unwrap();
                    let allowed = holds(&model, start..start + count, owner);
                    prop_assert_eq!(allocator.free(Frame(frame), count, owner).is_ok(), allowed);
                }
                Step::AddUsable { start, count } => {
                    let run = usize::try_from(start).unwrap()..usize::try_from(start + count).unwrap();
                    let allowed = holds(&model, run.clone(), Owner::RESERVED);
                    prop_assert_eq!(allocator.add_usable(Frame(start)..Frame(start + count)).is_ok(), allowed);
                    if allowed { model[run].fill(Owner::FREE); }
                }
                Step::Adopt { start, count } => {
                    let run = usize::try_from(start).unwrap()..usize::try_from(start + count).unwrap();
                    let allowed = holds(&model, run.clone(), Owner::RESERVED);
                    prop_assert_eq!(allocator.adopt(Frame(start)..Frame(start + count), Owner::HEAP).is_ok(), allowed);
                    if allowed && !run.is_empty() {
                        model[run.clone()].fill(Owner::HEAP);
                        runs.push((run, Owner::HEAP));
                    }
                }
            }
            let wrong = (0..).zip(&model).find(|&(frame, &owner)| allocator.owner_of(Frame(frame)) != owner);
            prop_assert_eq!(wrong, None);
            assert_counters_match_table(&allocator);
        }
        // Everything given back joins again to what was there at first.
        for (run, owner) in runs {
            allocator.free(Frame(run.start as u64), run.len(), owner).unwrap();
        }
        prop_assert_eq!(allocator.used_count(), 0);
    }
}
