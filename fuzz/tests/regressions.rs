//! Every earlier finding (`regressions/TARGET/`), and bytes at random, through each target.

use std::fs;
use std::path::Path;

use lamina_fuzz::TARGETS;

/// How many random inputs each target gets.
const RANDOM_INPUTS: u64 = 300;

#[test]
fn no_finding_comes_back() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    for (name, target) in TARGETS {
        let Ok(files) = fs::read_dir(folder.join(name)) else { continue };
        for file in files {
            let path = file.expect("the folder can be read").path();
            println!("{}", path.display());
            target(&fs::read(&path).expect("the file can be read"));
        }
    }
}

/// Xorshift (Marsaglia, "Xorshift RNGs"): the same bytes in every run.
#[test]
fn random_bytes_do_no_harm() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for (name, target) in TARGETS {
        println!("{name}");
        for round in 0..RANDOM_INPUTS {
            let bytes: Vec<u8> = (0..round * 7)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state as u8
                })
                .collect();
            target(&bytes);
        }
    }
}
