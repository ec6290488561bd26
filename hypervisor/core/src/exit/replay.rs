//! Exits as text, one line each: recorded on a machine, replayed in a test on the host.
//!
//! A line is what the handler saw, `->`, and what came of it: `key=value` pairs with hexadecimal values, where what is 0
//! is left out.
//!
//! ```text
//! reason=1e qualification=3fd0008 length=1 rax=3fd cr0=80050033 vmcs.681e=ffffffff81000000 -> advance rax=60
//! ```
//!
//! Before the arrow: `now`, the guest's clock; the fields of [`RawExit`], the general-purpose registers, `cr0` and `cr4` as the guest sees them,
//! `vmcs.ENCODING` for fields of the guest-state area, and `mem.ADDRESS=BYTES` for guest memory. After it: the outcome, and the
//! general-purpose registers that changed. Empty lines and lines with `#` in front are comments.
//!
//! The first lines of a recording say what the machine was, as a [`Setting`]: what a handler's answer depends on besides.

use super::raw::{Outcome, RawExit, StopReason};
use crate::vmx::{ExitReason, GuestField};
use crate::x86::{Gprs, VcpuState};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;
use thiserror::Error;

/// One recorded exit.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Record {
    /// The guest's clock, in ticks.
    pub now: u64,
    /// The exit information.
    pub exit: RawExit,
    /// The general-purpose registers at the exit.
    pub before: Gprs,
    /// CR0 as the guest sees it.
    pub cr0: u64,
    /// CR4 as the guest sees it.
    pub cr4: u64,
    /// Fields of the guest-state area that are not 0.
    pub vmcs: Vec<(GuestField, u64)>,
    /// Pieces of guest memory, by guest-physical address.
    pub memory: Vec<(u64, Vec<u8>)>,
    /// The outcome, in words of [`outcome_word`].
    pub outcome: String,
    /// The general-purpose registers after the handler.
    pub after: Gprs,
}

/// Why a line is no [`Record`].
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RecordError {
    /// No `->`, or nothing behind it.
    #[error("a record needs `->` and an outcome behind it")]
    NoOutcome,
    /// A word that is no `key=value` with a known key and a hexadecimal value.
    #[error("`{0}` is no `key=hexadecimal value` with a key of this format")]
    BadPair(String),
}

/// What the handlers of register accesses read of the guest-state area: recorded with every exit.
const REGISTER_FIELDS: &[GuestField] = &[
    GuestField::Cr3,
    GuestField::Ia32Efer,
    GuestField::Ia32Pat,
    GuestField::Ia32Debugctl,
    GuestField::CsAccessRights,
    GuestField::TrAccessRights,
];

/// What those read that carry an instruction out: recorded with exits for memory and strings.
const INSTRUCTION_FIELDS: &[GuestField] = &[
    GuestField::Rip,
    GuestField::Rsp,
    GuestField::Rflags,
    GuestField::Cr3,
    GuestField::Ia32Efer,
    GuestField::Ia32Pat,
    GuestField::Ia32Debugctl,
    GuestField::InterruptibilityState,
    GuestField::CsBase,
    GuestField::CsAccessRights,
    GuestField::SsBase,
    GuestField::SsLimit,
    GuestField::SsAccessRights,
    GuestField::DsBase,
    GuestField::DsLimit,
    GuestField::DsAccessRights,
    GuestField::EsBase,
    GuestField::EsLimit,
    GuestField::EsAccessRights,
    GuestField::FsBase,
    GuestField::FsLimit,
    GuestField::FsAccessRights,
    GuestField::GsBase,
    GuestField::GsLimit,
    GuestField::GsAccessRights,
    GuestField::TrAccessRights,
];

/// The general-purpose registers, by name.
const GPR_NAMES: [&str; 15] =
    ["rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

impl Record {
    /// The first half of a record: what the handler is about to see. The recorder adds guest memory if it wants.
    #[must_use]
    pub fn of(exit: &RawExit, gprs: &Gprs, state: &dyn VcpuState) -> Self {
        const STRING_IO: u64 = 1 << 4;
        let fields = match ExitReason::of(exit.reason) {
            Some(ExitReason::EptViolation | ExitReason::ApicAccess) => INSTRUCTION_FIELDS,
            Some(ExitReason::IoInstruction) if exit.qualification & STRING_IO != 0 => INSTRUCTION_FIELDS,
            _ => REGISTER_FIELDS,
        };
        let vmcs = fields.iter().map(|&field| (field, state.read(field))).filter(|(_, value)| *value != 0);
        Self {
            exit: *exit,
            before: *gprs,
            after: *gprs,
            cr0: state.cr0(),
            cr4: state.cr4(),
            vmcs: vmcs.collect(),
            ..Self::default()
        }
    }

    /// The second half: what came of it.
    #[must_use]
    pub fn with_outcome(mut self, outcome: &Outcome, gprs: &Gprs) -> Self {
        self.outcome = outcome_word(outcome);
        self.after = *gprs;
        self
    }
}

/// An outcome as one word. Why a VM crashed is for people and is left out.
#[must_use]
pub fn outcome_word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Resume => "resume".to_string(),
        Outcome::Advance => "advance".to_string(),
        Outcome::Inject(event) => match event.error_code {
            Some(code) => format!("inject:{:x}:{:x}:{code:x}", event.kind as u8, event.vector),
            None => format!("inject:{:x}:{:x}", event.kind as u8, event.vector),
        },
        Outcome::Populate(gpa) => format!("populate:{:x}", gpa.0),
        Outcome::Yield => "yield".to_string(),
        Outcome::Halt => "halt".to_string(),
        Outcome::Stop(StopReason::PowerOff) => "power-off".to_string(),
        Outcome::Stop(StopReason::Exit(code)) => format!("exit:{code:x}"),
        Outcome::Stop(StopReason::Reset) => "reset".to_string(),
        Outcome::Stop(StopReason::Fault(_)) => "crashed".to_string(),
    }
}

fn exit_fields(exit: &RawExit) -> [(&'static str, u64); 10] {
    [
        ("reason", u64::from(exit.reason)),
        ("qualification", exit.qualification),
        ("linear", exit.guest_linear),
        ("physical", exit.guest_physical),
        ("interruption", u64::from(exit.interruption_info)),
        ("interruption_error", u64::from(exit.interruption_error)),
        ("vectoring", u64::from(exit.idt_vectoring_info)),
        ("vectoring_error", u64::from(exit.idt_vectoring_error)),
        ("length", u64::from(exit.instruction_len)),
        ("instruction", u64::from(exit.instruction_info)),
    ]
}

/// The register numbers of [`GPR_NAMES`]: as encoded in instructions, where 4 is RSP.
fn gpr_numbers() -> impl Iterator<Item = (&'static str, u8)> {
    GPR_NAMES.into_iter().zip((0..16).filter(|&number| number != 4))
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.now != 0 {
            write!(f, "now={:x} ", self.now)?;
        }
        // The reason stands even if it is 0.
        write!(f, "reason={:x}", self.exit.reason)?;
        for (key, value) in exit_fields(&self.exit).into_iter().skip(1).filter(|(_, value)| *value != 0) {
            write!(f, " {key}={value:x}")?;
        }
        for (name, number) in gpr_numbers() {
            let value = self.before.by_number(number).unwrap_or(0);
            if value != 0 {
                write!(f, " {name}={value:x}")?;
            }
        }
        for (key, value) in [("cr0", self.cr0), ("cr4", self.cr4)].into_iter().filter(|(_, value)| *value != 0) {
            write!(f, " {key}={value:x}")?;
        }
        for (field, value) in &self.vmcs {
            write!(f, " vmcs.{:x}={value:x}", field.encoding())?;
        }
        for (gpa, bytes) in &self.memory {
            write!(f, " mem.{gpa:x}=")?;
            bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        }
        write!(f, " -> {}", self.outcome)?;
        for (name, number) in gpr_numbers() {
            let after = self.after.by_number(number).unwrap_or(0);
            if Some(after) != self.before.by_number(number) {
                write!(f, " {name}={after:x}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Record {
    type Err = RecordError;

    fn from_str(line: &str) -> Result<Self, RecordError> {
        let (seen, answer) = line.split_once("->").ok_or(RecordError::NoOutcome)?;
        let mut record = Self::default();
        for word in seen.split_whitespace() {
            record.take_pair(word).ok_or_else(|| RecordError::BadPair(word.to_string()))?;
        }
        let mut answer = answer.split_whitespace();
        record.outcome = answer.next().ok_or(RecordError::NoOutcome)?.to_string();
        record.after = record.before;
        for word in answer {
            take_gpr(&mut record.after, word).ok_or_else(|| RecordError::BadPair(word.to_string()))?;
        }
        Ok(record)
    }
}

impl Record {
    fn take_pair(&mut self, word: &str) -> Option<()> {
        let (key, text) = word.split_once('=')?;
        if let Some(gpa) = key.strip_prefix("mem.") {
            let gpa = hexadecimal(gpa)?;
            self.memory.push((gpa, hexadecimal_bytes(text)?));
            return Some(());
        }
        let value = hexadecimal(text)?;
        if let Some(encoding) = key.strip_prefix("vmcs.") {
            let encoding = u32::try_from(hexadecimal(encoding)?).ok()?;
            let field = GuestField::ALL.iter().find(|field| field.encoding() == encoding)?;
            self.vmcs.push((*field, value));
            return Some(());
        }
        match key {
            "now" => self.now = value,
            "cr0" => self.cr0 = value,
            "cr4" => self.cr4 = value,
            "qualification" => self.exit.qualification = value,
            "linear" => self.exit.guest_linear = value,
            "physical" => self.exit.guest_physical = value,
            _ => return take_gpr(&mut self.before, word).or_else(|| self.take_short_field(key, value)),
        }
        Some(())
    }

    fn take_short_field(&mut self, key: &str, value: u64) -> Option<()> {
        let field = match key {
            "reason" => &mut self.exit.reason,
            "interruption" => &mut self.exit.interruption_info,
            "interruption_error" => &mut self.exit.interruption_error,
            "vectoring" => &mut self.exit.idt_vectoring_info,
            "vectoring_error" => &mut self.exit.idt_vectoring_error,
            "length" => &mut self.exit.instruction_len,
            "instruction" => &mut self.exit.instruction_info,
            _ => return None,
        };
        *field = u32::try_from(value).ok()?;
        Some(())
    }
}

fn take_gpr(gprs: &mut Gprs, word: &str) -> Option<()> {
    let (key, text) = word.split_once('=')?;
    let (_, number) = gpr_numbers().find(|(name, _)| *name == key)?;
    *gprs.by_number_mut(number)? = hexadecimal(text)?;
    Some(())
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

fn hexadecimal_bytes(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

/// What the machine of a recording was: `key=value` pairs with hexadecimal values behind the word `setting`, and a line
/// `host LEAF.SUBLEAF=EAX,EBX,ECX,EDX` for each CPUID leaf that the host was asked for.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Setting {
    /// The guest's TSC frequency in Hz.
    pub tsc_hz: u64,
    /// The guest's memory in bytes.
    pub memory_bytes: u64,
    /// The real-time clock at the guest's reset, in seconds since 1970.
    pub boot_time_unix_s: u64,
    /// Whether the guest has RDTSCP.
    pub rdtscp: bool,
    /// Whether it has INVPCID.
    pub invpcid: bool,
    /// Whether it is told its steal time; recordings that do not say it are of guests that are not.
    pub steal_time: bool,
    /// The host's CPUID: (leaf, sub-leaf), and EAX, EBX, ECX, EDX.
    pub host: Vec<((u32, u32), [u32; 4])>,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tsc_hz, memory_bytes, boot_time_unix_s, rdtscp, invpcid, steal_time, .. } = self;
        let [rdtscp, invpcid, steal_time] = [rdtscp, invpcid, steal_time].map(|&flag| u8::from(flag));
        write!(f, "setting tsc_hz={tsc_hz:x} memory={memory_bytes:x} unix_s={boot_time_unix_s:x} ")?;
        write!(f, "rdtscp={rdtscp} invpcid={invpcid} steal_time={steal_time}")?;
        for ((leaf, subleaf), [eax, ebx, ecx, edx]) in &self.host {
            write!(f, "\nhost {leaf:x}.{subleaf:x}={eax:x},{ebx:x},{ecx:x},{edx:x}")?;
        }
        Ok(())
    }
}

impl Setting {
    /// Takes a line of a recording. `None` if it is one of a setting but cannot be read; `Some(false)` if it is none.
    #[must_use]
    pub fn take_line(&mut self, line: &str) -> Option<bool> {
        if let Some(pairs) = line.strip_prefix("setting ") {
            for pair in pairs.split_whitespace() {
                let (key, value) = pair.split_once('=')?;
                let value = hexadecimal(value)?;
                match key {
                    "tsc_hz" => self.tsc_hz = value,
                    "memory" => self.memory_bytes = value,
                    "unix_s" => self.boot_time_unix_s = value,
                    "rdtscp" => self.rdtscp = value != 0,
                    "invpcid" => self.invpcid = value != 0,
                    "steal_time" => self.steal_time = value != 0,
                    _ => return None,
                }
            }
            return Some(true);
        }
        let Some(leaf) = line.strip_prefix("host ") else { return Some(false) };
        let (number, registers) = leaf.split_once('=')?;
        let (leaf, subleaf) = number.split_once('.')?;
        let short = |text: &str| u32::from_str_radix(text, 16).ok();
        let mut values = registers.split(',').map(short);
        let mut next = || values.next().flatten();
        self.host.push(((short(leaf)?, short(subleaf)?), [next()?, next()?, next()?, next()?]));
        Some(true)
    }
}
