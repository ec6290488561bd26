//! insn.
