//! The target `devices`, driven by libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lamina_fuzz::devices(bytes));
