//! Links each kernel as a static ELF64 at its load address, by `linker.ld`.

use std::env;

fn main() {
    let directory = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=linker.ld");
    // The target links position-independent by default; a guest image has one address, and nobody to relocate it.
    for argument in ["--no-pie", "-zmax-page-size=4096", "--gc-sections", "--no-rosegment"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rustc-link-arg-bins=-T{directory}/linker.ld");
}
