//! Recorded exits give today what they gave when they were recorded.

use super::*;
use crate::exit::replay::{Record, RecordError, outcome_word};

/// Exits as a recorder writes them; these were made by hand.
const SAMPLE: &str = include_str!("exits.txt");

fn replay(record: &Record) -> (std::string::String, Gprs) {
    let mut world = World::new(FakeVcpu::default(), &[]);
    world.vcpu = FakeVcpu {
        fields: record.vmcs.iter().copied().collect(),
        cr0: record.cr0,
        cr4: record.cr4,
        long_mode: record.cr0 & cr0::PG != 0,
    };
    for (gpa, bytes) in &record.memory {
        world.memory.write(GuestPhysAddr(*gpa), bytes).unwrap();
    }
    world.gprs = record.before;
    let outcome = world.handle(&record.exit);
    (outcome_word(&outcome), world.gprs)
}

#[test]
fn the_sample_replays() {
    let mut count = 0;
    for line in SAMPLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let record: Record = line.parse().unwrap();
        assert_eq!(replay(&record), (record.outcome.clone(), record.after), "{line}");
        assert_eq!(std::format!("{record}"), line, "written as it was read");
        count += 1;
    }
    assert!(count >= 8, "{count} records");
}

#[test]
fn a_record_is_made_from_an_exit() {
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    world.gprs.rdx = 0x3fd;
    let exit = RawExit { reason: 30, qualification: 0x03fd_0008, instruction_len: 1, ..RawExit::default() };
    let record = Record::of(&exit, &world.gprs, &world.vcpu);
    let outcome = world.handle(&exit);
    let record = record.with_outcome(&outcome, &world.gprs);
    let text = std::format!("{record}");
    assert!(text.ends_with("-> advance rax=60"), "{text}");
    let parsed: Record = text.parse().unwrap();
    assert_eq!(parsed, record);
    assert_eq!(replay(&parsed), ("advance".into(), world.gprs));
}

#[test]
fn what_is_no_record_is_named() {
    for (line, word) in [
        ("reason=1e colour=3 -> advance", "colour=3"),
        ("reason=xyz -> advance", "reason=xyz"),
        ("reason=1ffffffff -> advance", "reason=1ffffffff"),
        ("reason=1e -> advance rip=1", "rip=1"),
        ("reason=1e mem.1000=123 -> advance", "mem.1000=123"),
        ("vmcs.9999=1 -> advance", "vmcs.9999=1"),
    ] {
        assert_eq!(line.parse::<Record>(), Err(RecordError::BadPair(word.into())));
    }
    assert_eq!("reason=1e".parse::<Record>(), Err(RecordError::NoOutcome));
    assert_eq!("reason=1e -> ".parse::<Record>(), Err(RecordError::NoOutcome));
}
