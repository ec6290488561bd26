//! The exit port: how a small guest ends itself and tells its verdict.
//!
//! A write to port F4h ends the VM with the written value as its exit code: `mov eax, code; out 0xf4, eax`. By agreement 0 is
//! success. A byte or a word is zero-extended; the port reads all-ones, as if it were not there. A kernel that is run under
//! QEMU with `-device isa-debug-exit,iobase=0xf4,iosize=4` needs no change.

/// The exit port.
pub const EXIT_PORT: u16 = 0xf4;
