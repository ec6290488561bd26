//! What `cargo xtask` is made of: finding a toolchain, building the parts, packing them into a disk image, and driving
//! an emulator with it.
//!
//! The whole-machine tests (`tests/`) use the same code, so that a test boots exactly what `cargo xtask run` boots.
#![forbid(unsafe_code)]

pub mod assets;
pub mod bench;
pub mod build;
pub mod ci;
pub mod disk_image;
pub mod doctor;
pub mod extract_vmlinux;
pub mod flash;
pub mod fuzz;
pub mod gdb;
pub mod lint;
pub mod machine;
pub mod packages;
pub mod process;
pub mod ramdisk;
pub mod run;
pub mod setup;
pub mod symbolize;
pub mod tally;
pub mod test;
pub mod toolchain;
pub mod verdicts;
pub mod workspace;
