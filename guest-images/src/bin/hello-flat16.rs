//! A raw binary entered in 16-bit mode at its first byte; prints its verdict and ends.
//! Expected: `verdict: pass hello-flat16: ...`, exit code 0.
#![no_std]
#![no_main]

guest::flat_kernel!(".code16");
