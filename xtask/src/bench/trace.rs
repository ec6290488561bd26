//! The instructions of marked operations, as Bochs writes them down one by one: what they did, and where the hypervisor spent
//! them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result};

/// The hypervisor is linked above this address, the guest below it.
const HOST_BEGINS: u64 = 1 << 32;

/// What an operation did between its two readings of the TSC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// VM exits.
    pub(super) exits: u64,
    /// VMREADs.
    pub(super) vmreads: u64,
    /// VMWRITEs.
    pub(super) vmwrites: u64,
    /// Locked instructions: atomics and locks.
    pub(super) locked: u64,
    /// Instructions of the hypervisor.
    pub(super) host: u64,
}

/// One operation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Trace {
    /// What it did.
    pub(super) work: Work,
    /// How often each instruction of the hypervisor was executed, by its address.
    pub(super) host: BTreeMap<u64, u64>,
}

/// A trace as far as it is read.
#[derive(Debug, Default)]
struct Reading {
    /// Between the guest's last two readings of the TSC.
    done: Trace,
    /// Since the last one.
    since: Trace,
    /// The instruction before was the guest's.
    in_guest: bool,
}

/// All that were marked, in their order in time.
pub(super) fn read(log: &Path) -> Result<Vec<Trace>> {
    let file = File::open(log).with_context(|| format!("cannot read {}", log.display()))?;
    traces(BufReader::new(file)).with_context(|| format!("cannot read {}", log.display()))
}

fn traces(log: impl BufRead) -> Result<Vec<Trace>> {
    let mut traces: Vec<Reading> = Vec::new();
    for line in log.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if line.starts_with("Tracing enabled") {
            traces.push(Reading::default());
        } else if let Some((trace, (address, instruction))) = traces.last_mut().zip(instruction(&line)) {
            trace.execute(address, instruction);
        }
    }
    Ok(traces.into_iter().map(|reading| reading.done).collect())
}

/// Address and text of `(0).[TICK] [PHYSICAL] CS:RIP (symbol): instruction ; bytes`.
fn instruction(line: &str) -> Option<(u64, &str)> {
    let (_, rest) = line.strip_prefix("(0).[")?.split_once("] [")?;
    let (place, rest) = rest.split_once("] ")?.1.split_once(' ')?;
    let address = u64::from_str_radix(place.split_once(':')?.1, 16).ok()?;
    let (text, _) = rest.split_once("): ")?.1.split_once(';')?;
    Some((address, text.trim_end()))
}

impl Reading {
    fn execute(&mut self, address: u64, text: &str) {
        let name = text.split(' ').next().unwrap_or_default();
        let in_guest = address < HOST_BEGINS;
        if in_guest && name == "rdtsc" {
            self.done = std::mem::take(&mut self.since);
        } else if !in_guest {
            let Trace { work, host } = &mut self.since;
            work.exits += u64::from(self.in_guest);
            work.vmreads += u64::from(name == "vmread");
            work.vmwrites += u64::from(name == "vmwrite");
            // XCHG with memory locks by itself.
            work.locked += u64::from(name == "lock" || name == "xchg" && text.contains("ptr"));
            work.host += 1;
            *host.entry(address).or_default() += 1;
        }
        self.in_guest = in_guest;
    }
}

/// Of an operation's traces the one with the least work, which is what it does by itself; the others may have more in them that
/// was due just then.
pub(super) fn least(traces: impl IntoIterator<Item = Trace>) -> Option<Trace> {
    traces.into_iter().min_by_key(|trace| trace.work.host)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
(0) Magic breakpoint
Tracing enabled for CPU0
(0).[486] [0x00000ffe36b3] 0008:00000000001016a3 (unk. ctxt): rdtsc                     ; 0f31
(0).[487] [0x0000011541ac] 0008:00000080001551ac (unk. ctxt): vmread rax, rcx           ; 0f78c8
(0).[488] [0x00000ffe36ad] 0008:00000000001016ad (unk. ctxt): mov r9, rbx               ; 4989d9
(0).[489] [0x00000ffe36b3] 0008:00000000001016b3 (unk. ctxt): rdtsc                     ; 0f31
(0).[490] [0x00000ffe36ba] 0008:00000000001016ba (unk. ctxt): cpuid                     ; 0fa2
(0).[491] [0x0000011541ac] 0008:00000080001551ac (unk. ctxt): vmread rax, rcx           ; 0f78c8
(0).[492] [0x0000011541ad] 0008:00000080001551ad (unk. ctxt): lock cmpxchg byte ptr ds:[r14], sil ; f0
(0).[493] [0x0000011541ae] 0008:00000080001551ae (unk. ctxt): rdtsc                     ; 0f31
(0).[494] [0x0000011541ad] 0008:00000080001551ad (unk. ctxt): xchg byte ptr ds:[r14], sil ; 86
(0).[495] [0x0000011541af] 0008:00000080001551af (unk. ctxt): xchg rax, rcx             ; 4887c8
(0).[496] [0x0000011541b0] 0008:00000080001551b0 (unk. ctxt): vmwrite rax, rcx          ; 0f79c1
(0).[497] [0x0000011541b1] 0008:00000080001551b1 (unk. ctxt): vmresume                  ; 0f01c3
(0).[498] [0x00000ffe36bc] 0008:00000000001016bc (unk. ctxt): rdtsc                     ; 0f31
(0).[499] [0x0000011541ac] 0008:00000080001551ac (unk. ctxt): vmread rax, rcx           ; 0f78c8
(0) Magic breakpoint
Tracing disabled for CPU0
Next at t=600
Tracing enabled for CPU0
(0).[700] [0x00000ffe36b3] 0008:00000000001016b3 (unk. ctxt): rdtsc                     ; 0f31
(0).[701] [0x00000ffe36bc] 0008:00000000001016bc (unk. ctxt): rdtsc                     ; 0f31
Tracing disabled for CPU0
";

    #[test]
    fn what_is_between_the_guests_last_two_readings_counts() {
        let traces = traces(LOG.as_bytes()).unwrap();
        let [first, second] = &traces[..] else { panic!("{traces:?}") };
        assert_eq!(first.work, Work { exits: 1, vmreads: 1, vmwrites: 1, locked: 2, host: 7 });
        assert_eq!(first.host.get(&0x80_0015_51ad), Some(&2));
        assert_eq!(second.work, Work::default());
        assert_eq!(least(traces).unwrap().work.host, 0);
    }

    #[test]
    fn other_lines_are_no_instructions() {
        for line in ["", "Next at t=0", "(0).[1] [0x1] 0008:xyz (unk. ctxt): nop ; 90", "(0) [0x1] 8:1 (x): nop ; 90"] {
            assert_eq!(instruction(line), None, "{line}");
        }
    }
}
