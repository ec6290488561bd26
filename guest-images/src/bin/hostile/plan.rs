//! A piece of code to be run: [`Plan`].

use crate::random::Random;
use crate::tables::SCRATCH;

/// The longest piece of code.
pub(crate) const CODE_MAX: usize = 96;

/// What the CPU runs it as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Kernel64,
    Kernel32,
    Kernel16,
    User64,
    User32,
    User16,
    /// 32-bit protected mode without paging.
    Protected,
    Virtual8086,
    Real,
}

/// The numbers of the registers, as instructions encode them.
pub(crate) const RAX: usize = 0;
pub(crate) const RCX: usize = 1;
pub(crate) const RDX: usize = 2;
pub(crate) const RBX: usize = 3;
pub(crate) const RSP: usize = 4;
pub(crate) const RSI: usize = 6;
pub(crate) const RDI: usize = 7;

/// TF: a trap after each instruction.
const TF: u64 = 1 << 8;
const IF: u64 = 1 << 9;

/// A piece of code, and what the CPU starts it with.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    pub(crate) registers: [u64; 16],
    pub(crate) rflags: u64,
    /// How many instructions it gets where it is single-stepped.
    pub(crate) instructions: u64,
    code: [u8; CODE_MAX],
    len: usize,
}

impl Plan {
    /// No code yet, registers at random, in 64-bit mode at privilege level 0, to be left by the breakpoint behind it.
    pub(crate) fn new(random: &mut Random) -> Self {
        let mut registers = [0; 16];
        registers.fill_with(|| random.value());
        if !random.one_in(8) {
            registers[RSP] = SCRATCH + 0x4_0000;
        }
        Self { mode: Mode::Kernel64, registers, rflags: 2 | IF, instructions: 32, code: [0xCC; CODE_MAX], len: 0 }
    }

    /// Sets a register.
    pub(crate) fn set(mut self, register: usize, value: u64) -> Self {
        self.registers[register] = value;
        self
    }

    /// Appends instruction bytes, as far as there is room.
    pub(crate) fn code(mut self, bytes: &[u8]) -> Self {
        for &byte in bytes {
            if self.len < CODE_MAX {
                self.code[self.len] = byte;
                self.len += 1;
            }
        }
        self
    }

    /// In any mode, with any flags, stepped or not: whatever the CPU makes of the bytes.
    pub(crate) fn anyhow(mut self, random: &mut Random) -> Self {
        const MODES: [Mode; 12] = [
            Mode::Kernel64,
            Mode::Kernel64,
            Mode::Kernel64,
            Mode::Kernel32,
            Mode::Kernel16,
            Mode::User64,
            Mode::User64,
            Mode::User32,
            Mode::User16,
            Mode::Protected,
            Mode::Virtual8086,
            Mode::Real,
        ];
        self.mode = random.pick(&MODES);
        // CF to DF, IOPL, NT, AC and ID; VM and RF are the mode's.
        let garbage = random.next() & 0x24_7CD5;
        self.rflags = 2 | IF | if random.one_in(2) { garbage } else { 0 };
        self.stepped(random)
    }

    /// Single-stepped, three times out of four.
    pub(crate) fn stepped(mut self, random: &mut Random) -> Self {
        if !random.one_in(4) {
            self.rflags |= TF;
            self.instructions = random.next() % 32;
        }
        self
    }

    /// The code, and breakpoints behind it.
    pub(crate) fn bytes(&self) -> &[u8; CODE_MAX] {
        &self.code
    }
}
