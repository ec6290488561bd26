//! `security`.

use alloc::format;
use alloc::string::{String, ToString};
use lamina_core::console::view::{DirectMsrRow, SecurityRow, SecurityView};
use lamina_core::x86::msr::PASS_THROUGH;
use lamina_core::x86::speculation::{Mitigation, Verdict};
use lamina_hw::cpu::{self, Cpu, Protection};
use lamina_hw::mem::Guards;
use lamina_hw::{boot, mem};

/// `security`: looked at anew, not what was found at boot.
pub(crate) fn security() -> SecurityView {
    let in_registers = Cpu::protections().into_iter().map(|(name, about, protection)| match protection {
        Protection::On => row(name, Verdict::On, about),
        Protection::Off => row(name, Verdict::SwitchedOff, "the hypervisor's own setting is gone: a defect"),
        Protection::Absent => row(name, Verdict::Unavailable, "the CPU has none"),
    });
    let in_tables = [write_xor_execute(), guard_pages()];
    let decided = cpu::mitigations();
    let mitigations = Mitigation::ALL.map(|mitigation| {
        let (verdict, reason) = decided.verdict(mitigation);
        row(mitigation.name(), verdict, reason)
    });
    let direct_msrs = PASS_THROUGH.iter().map(|range| DirectMsrRow {
        first: range.first,
        last: range.last,
        read: range.read,
        write: range.write,
        reason: range.why.into(),
    });
    SecurityView {
        protections: in_registers.chain(in_tables).collect(),
        mitigations: mitigations.into(),
        direct_msrs: direct_msrs.collect(),
    }
}

fn row(name: &str, verdict: Verdict, reason: impl Into<String>) -> SecurityRow {
    SecurityRow { name: name.into(), state: verdict.to_string(), reason: reason.into() }
}

fn write_xor_execute() -> SecurityRow {
    match mem::audit_mappings().as_slice() {
        [] => row("W^X", Verdict::On, "no page is writable and executable at once"),
        [first, ..] => {
            let reason = format!("the page at {:#x} is writable and executable at once: a defect", first.linear);
            row("W^X", Verdict::SwitchedOff, reason)
        }
    }
}

fn guard_pages() -> SecurityRow {
    let Guards { stacks, unguarded } = boot::audit_stacks();
    match unguarded {
        0 => row("guard pages", Verdict::On, format!("below each of {stacks} stacks a page is not mapped")),
        _ => row("guard pages", Verdict::SwitchedOff, format!("{unguarded} of {stacks} stacks have none: a defect")),
    }
}
