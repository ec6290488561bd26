//! Reading a real MC146818: the host's own clock, once at boot.

use super::calendar::Calendar;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY_OF_MONTH: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const CENTURY: u8 = 0x32;
const UPDATE_IN_PROGRESS: u8 = 1 << 7;
const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
const PM: u8 = 1 << 7;
/// An update takes 2 ms at most; a clock that says so for longer is not there.
const TRIES: u32 = 100_000;

/// The time of the clock whose registers `read` reads, in seconds since 1970. Two readings in a row must agree, since an
/// update may fall in between (MC146818 datasheet, "Update Cycle").
pub fn read_clock(mut read: impl FnMut(u8) -> u8) -> u64 {
    let mut last = None;
    for _ in 0..TRIES {
        if read(REGISTER_A) & UPDATE_IN_PROGRESS != 0 {
            continue;
        }
        let time = decode(&mut read);
        if last == Some(time) {
            break;
        }
        last = Some(time);
    }
    last.unwrap_or(0)
}

fn decode(read: &mut impl FnMut(u8) -> u8) -> u64 {
    let format = read(REGISTER_B);
    let number = |value: u8| if format & BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0xf) };
    let hours = read(HOURS);
    let mut hour = number(hours & !PM);
    if format & HOURS_24 == 0 {
        hour = hour % 12 + if hours & PM != 0 { 12 } else { 0 };
    } else if hours & PM != 0 {
        hour = number(hours);
    }
    let century = number(read(CENTURY));
    Calendar {
        second: number(read(SECONDS)),
        minute: number(read(MINUTES)),
        hour,
        day_of_week: 1,
        day: number(read(DAY_OF_MONTH)),
        month: number(read(MONTH)),
        year: number(read(YEAR)),
        // Some boards keep no century byte.
        century: if (19..=21).contains(&century) { century } else { 20 },
    }
    .to_unix()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_model_shows() {
        // 2026-11-20 19:05:59 UTC, BCD, 24 hours.
        let register = |index: u8| match index {
            SECONDS => 0x59,
            MINUTES => 0x05,
            HOURS => 0x19,
            DAY_OF_MONTH => 0x20,
            MONTH => 0x11,
            YEAR => 0x26,
            CENTURY => 0x20,
            REGISTER_B => HOURS_24,
            _ => 0,
        };
        assert_eq!(read_clock(register), 1_795_201_559);
        // The same in 12-hour form.
        let twelve = |index: u8| match index {
            HOURS => 0x07 | PM,
            REGISTER_B => 0,
            _ => register(index),
        };
        assert_eq!(read_clock(twelve), 1_795_201_559);
    }

    #[test]
    fn a_clock_that_is_not_there_ends() {
        assert_eq!(read_clock(|_| 0xff), 0);
    }
}
