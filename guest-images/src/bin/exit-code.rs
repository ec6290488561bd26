//! Ends with the exit code it is told. Command line: `code=N` (default 42).
//! Expected: `verdict: pass exit-code: ...` and exit code N.
#![no_std]
#![no_main]

use guest::{boot_info::option, guest_main, println};

guest_main!(main);

fn main() {
    let code = option("code").unwrap_or(42) as u32;
    println!("verdict: pass exit-code: leaving with code {code}");
    guest::exit(code);
}
