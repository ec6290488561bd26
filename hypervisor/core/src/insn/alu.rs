//! Arithmetic and logic with their flags, as pure functions.
//!
//! Source: Intel SDM volume 1, "EFLAGS Register", "Status Flags", and appendix "EFLAGS Cross-Reference". A flag the
//! manual calls undefined after an instruction keeps its value.

use crate::bus::Width;

/// RFLAGS: carry.
pub(super) const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
/// RFLAGS: zero.
pub(super) const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
/// RFLAGS: direction.
pub(super) const DF: u64 = 1 << 10;
const OF: u64 = 1 << 11;
/// The six status flags.
const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// The result of an operation: a value in its width, and RFLAGS afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Result {
    pub(super) value: u64,
    pub(super) rflags: u64,
}

/// A two-operand operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    Add,
    Adc,
    Sub,
    Sbb,
    And,
    Or,
    Xor,
}

/// What BT, BTS, BTR and BTC do to the bit they test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BitOperation {
    Test,
    Set,
    Reset,
    Complement,
}

const fn flag(condition: bool, bit: u64) -> u64 {
    if condition { bit } else { 0 }
}

/// SF, ZF and PF of a result.
fn sign_zero_parity(value: u64, width: Width) -> u64 {
    let [low, ..] = value.to_le_bytes();
    flag(value & sign(width) != 0, SF) | flag(value == 0, ZF) | flag(low.count_ones().is_multiple_of(2), PF)
}

const fn sign(width: Width) -> u64 {
    1 << (width.bytes() * 8 - 1)
}

/// `a OP b` in `width`; `rflags` are the flags before it.
pub(super) fn binary(operation: Operation, a: u64, b: u64, width: Width, rflags: u64) -> Result {
    let (a, b) = (a & width.mask(), b & width.mask());
    let carry = rflags & CF;
    match operation {
        Operation::Add => add(a, b, 0, width, rflags),
        Operation::Adc => add(a, b, carry, width, rflags),
        Operation::Sub => subtract(a, b, 0, width, rflags),
        Operation::Sbb => subtract(a, b, carry, width, rflags),
        Operation::And => logic(a & b, width, rflags),
        Operation::Or => logic(a | b, width, rflags),
        Operation::Xor => logic(a ^ b, width, rflags),
    }
}

/// "The OF and CF flags are cleared; the SF, ZF and PF flags are set according to the result. The state of the AF flag
/// is undefined."
fn logic(value: u64, width: Width, rflags: u64) -> Result {
    Result { value, rflags: rflags & !(STATUS & !AF) | sign_zero_parity(value, width) }
}

fn add(a: u64, b: u64, carry: u64, width: Width, rflags: u64) -> Result {
    let value = a.wrapping_add(b).wrapping_add(carry) & width.mask();
    // The carry out of each bit position.
    let carries = a & b | (a | b) & !value;
    finish(value, carries, (a ^ value) & (b ^ value), width, rflags)
}

fn subtract(a: u64, b: u64, borrow: u64, width: Width, rflags: u64) -> Result {
    let value = a.wrapping_sub(b).wrapping_sub(borrow) & width.mask();
    // The borrow out of each bit position.
    let borrows = !a & b | (!a | b) & value;
    finish(value, borrows, (a ^ b) & (a ^ value), width, rflags)
}

/// `carries` has the carry (borrow) out of each bit, `overflow` the signed overflow in the sign bit.
fn finish(value: u64, carries: u64, overflow: u64, width: Width, rflags: u64) -> Result {
    let status = flag(carries & sign(width) != 0, CF)
        | flag(carries & 1 << 3 != 0, AF)
        | flag(overflow & sign(width) != 0, OF)
        | sign_zero_parity(value, width);
    Result { value, rflags: rflags & !STATUS | status }
}

/// INC: as ADD of 1, but "the CF flag is not affected".
pub(super) fn increment(a: u64, width: Width, rflags: u64) -> Result {
    keep_carry(add(a & width.mask(), 1, 0, width, rflags), rflags)
}

/// DEC: as SUB of 1, but CF is not affected.
pub(super) fn decrement(a: u64, width: Width, rflags: u64) -> Result {
    keep_carry(subtract(a & width.mask(), 1, 0, width, rflags), rflags)
}

/// NEG: as 0 - `a`; "CF is cleared if the source operand is 0; otherwise it is set".
pub(super) fn negate(a: u64, width: Width, rflags: u64) -> Result {
    subtract(0, a & width.mask(), 0, width, rflags)
}

fn keep_carry(result: Result, rflags: u64) -> Result {
    Result { rflags: result.rflags & !CF | rflags & CF, ..result }
}

/// Tests the bit of `a` numbered `bit` (below the width) into CF, and does `operation` to it.
pub(super) const fn bit(operation: BitOperation, a: u64, bit: u64, rflags: u64) -> Result {
    let selected = 1 << (bit & 63);
    let value = match operation {
        BitOperation::Test => a,
        BitOperation::Set => a | selected,
        BitOperation::Reset => a & !selected,
        BitOperation::Complement => a ^ selected,
    };
    Result { value, rflags: rflags & !CF | flag(a & selected != 0, CF) }
}

/// Sign-extends a value of `width` to 64 bits.
pub(super) const fn sign_extend(value: u64, width: Width) -> u64 {
    let shift = 64 - width.bytes() * 8;
    (((value << shift).cast_signed()) >> shift).cast_unsigned()
}
