//! What each fuzz target does with its bytes: one function per way by which bytes of a guest or an operator come in. None may
//! panic, whatever the bytes are, nor break what it asserts.
//!
//! `fuzz_targets/` drives them by libFuzzer (`cargo xtask fuzz`), `tests/` by bytes at random and by every earlier finding.

mod files;
mod machine;
mod operator;

pub use files::{config, loader, ramdisk};
pub use machine::{balloon, devices, exit, instructions};
pub use operator::console;

/// A target: takes any bytes.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 8] = [
    ("loader", loader),
    ("config", config),
    ("ramdisk", ramdisk),
    ("console", console),
    ("exit", exit),
    ("instructions", instructions),
    ("devices", devices),
    ("balloon", balloon),
];
