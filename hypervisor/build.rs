//! Has the linker write a build ID into the kernel, which an epitaph names and `cargo xtask symbolize` compares.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo::rustc-link-arg-bins=--build-id=sha1");
    }
}
