//! The neighbour that nobody may disturb: fills all its memory with a pattern of its own and checks every word of it again and
//! again, a part at a time, sleeping in between, until the power button is pressed.
//!
//! Command line: `seed=N` (1) of the pattern, `pause_us=N` (5000) between two parts.
//! Expected: `quiet: 1 rounds, no change`, and so on, and `verdict: pass quiet: ...` once the power button is pressed, or
//! `verdict: fail quiet: ...` for the first word that has changed.
#![no_std]
#![no_main]

use guest::boot_info::option;
use guest::power::PowerButton;
use guest::timer::{Timer, ticks};
use guest::{cpu, fail, guest_main, println, ram};

guest_main!(main);

/// Pages that are checked at a time.
const PART: usize = 32;

fn main() {
    let seed = option("seed").unwrap_or(1);
    let pause = ticks(option("pause_us").unwrap_or(5_000));
    let timer = Timer::new();
    let button = PowerButton::listen();
    let kept = ram::kept();
    let pages = || ram::regions().flat_map(|region| ram::pages(region, &kept));
    let count = pages().count();
    pages().for_each(|page| ram::fill_whole(page, seed));
    println!("quiet: seed {seed} in {count} pages");
    let mut rounds = 0_u64;
    loop {
        for part in 0..count.div_ceil(PART) {
            let mut checked = 0;
            for page in pages().skip(part * PART).take(PART) {
                ram::verify_whole(page, seed);
                checked += 1;
            }
            if checked == 0 {
                fail!("part {part} of {count} pages is empty");
            }
            if button.presses() != 0 {
                println!("verdict: pass quiet: seed {seed}, {rounds} rounds over {count} pages");
                button.switch_off();
            }
            timer.sleep_until(cpu::read_tsc() + pause);
        }
        rounds += 1;
        println!("quiet: {rounds} rounds, no change");
    }
}
