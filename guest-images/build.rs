//! Links each kernel as a static ELF64 at its load address by `linker.ld`; the `hello-flat*` ones as raw binaries by
//! `flat.ld`.

use std::{env, fs};

/// Raw binaries and their load addresses: where Lamina puts a flat image if the configuration names no address.
const FLAT: [(&str, &str); 3] =
    [("hello-flat16", "0x7C00"), ("hello-flat32", "0x100000"), ("hello-flat64", "0x100000")];

fn main() {
    let directory = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    for file in ["build.rs", "linker.ld", "flat.ld", "src/bin"] {
        println!("cargo:rerun-if-changed={file}");
    }
    // The target links position-independent by default; a guest image has one address, and nobody to relocate it.
    for argument in ["--no-pie", "-zmax-page-size=4096", "--gc-sections", "--no-rosegment"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    for entry in fs::read_dir(format!("{directory}/src/bin")).expect("src/bin is there") {
        // A kernel is a file `NAME.rs` or a folder `NAME` with its `main.rs`.
        let file = entry.expect("src/bin can be read").file_name();
        let Some(name) = file.to_str().map(|name| name.strip_suffix(".rs").unwrap_or(name)) else { continue };
        match FLAT.iter().find(|(flat, _)| *flat == name) {
            Some((_, address)) => {
                for argument in
                    [&format!("-T{directory}/flat.ld"), "--oformat=binary", &format!("--defsym=FLAT_BASE={address}")]
                {
                    println!("cargo:rustc-link-arg-bin={name}={argument}");
                }
            }
            None => println!("cargo:rustc-link-arg-bin={name}=-T{directory}/linker.ld"),
        }
    }
}
