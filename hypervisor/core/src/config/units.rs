//! Sizes, durations and addresses as an operator writes them, in the configuration file and on the console.

use alloc::format;
use alloc::string::{String, ToString};
use thiserror::Error;

/// Why a text is not the quantity it should be, and what to write instead.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum UnitError {
    /// Not a number with one of the size suffixes.
    #[error("not a size; write a number with K, M or G, such as \"64M\"")]
    NotASize,
    /// Not a number with one of the time units.
    #[error("not a time; write a number with us, ms or s, such as \"10ms\"")]
    NotATime,
    /// Not a decimal or hexadecimal number.
    #[error("not an address; write a number such as 0x100000")]
    NotAnAddress,
    /// Not a whole number that fits 32 bits.
    #[error("not a whole number from 0 to {}", u32::MAX)]
    NotANumber,
    /// Not a number with at most two digits behind the point.
    #[error("not a ratio; write a number with at most two digits behind the point, such as 1.5")]
    NotARatio,
    /// More than 64 bits hold.
    #[error("too large")]
    TooLarge,
}

/// The number of bytes that `text` names: plain bytes, or a number with `K`, `M` or `G` (1024, 1024² or 1024³ bytes).
///
/// # Errors
/// [`UnitError::NotASize`] or [`UnitError::TooLarge`].
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (text.get(..text.len() - 1), 10),
        Some(b'M' | b'm') => (text.get(..text.len() - 1), 20),
        Some(b'G' | b'g') => (text.get(..text.len() - 1), 30),
        _ => (Some(text), 0),
    };
    decimal(number.unwrap_or_default(), &UnitError::NotASize)?.checked_mul(1 << shift).ok_or(UnitError::TooLarge)
}

/// The number of microseconds that `text` names: a number with `us`, `ms` or `s`.
///
/// # Errors
/// [`UnitError::NotATime`] or [`UnitError::TooLarge`].
pub fn parse_duration_us(text: &str) -> Result<u64, UnitError> {
    // "s" is the end of all three, so it comes last.
    let (number, us) = [("us", 1), ("ms", 1000), ("s", 1_000_000)]
        .into_iter()
        .find_map(|(unit, us)| Some((text.strip_suffix(unit)?, us)))
        .ok_or(UnitError::NotATime)?;
    decimal(number, &UnitError::NotATime)?.checked_mul(us).ok_or(UnitError::TooLarge)
}

/// An address, decimal or with `0x` hexadecimal.
///
/// # Errors
/// [`UnitError::NotAnAddress`] or [`UnitError::TooLarge`].
pub fn parse_address(text: &str) -> Result<u64, UnitError> {
    let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) else {
        return decimal(text, &UnitError::NotAnAddress);
    };
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(UnitError::NotAnAddress);
    }
    u64::from_str_radix(digits, 16).map_err(|_| UnitError::TooLarge)
}

/// A whole decimal number.
///
/// # Errors
/// [`UnitError::NotANumber`].
pub fn parse_number(text: &str) -> Result<u32, UnitError> {
    decimal(text, &UnitError::NotANumber)
        .ok()
        .and_then(|number| u32::try_from(number).ok())
        .ok_or(UnitError::NotANumber)
}

/// A ratio with at most two digits behind the point, in percent: 150 for `1.5`.
///
/// # Errors
/// [`UnitError::NotARatio`] or [`UnitError::TooLarge`].
pub fn parse_ratio_percent(text: &str) -> Result<u32, UnitError> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let part = match part.len() {
        1 => decimal(part, &UnitError::NotARatio)? * 10,
        2 => decimal(part, &UnitError::NotARatio)?,
        _ => return Err(UnitError::NotARatio),
    };
    let whole = decimal(whole, &UnitError::NotARatio)?;
    let percent = whole.checked_mul(100).and_then(|whole| whole.checked_add(part)).ok_or(UnitError::TooLarge)?;
    u32::try_from(percent).map_err(|_| UnitError::TooLarge)
}

/// Digits only: `str::parse` alone would take a leading `+` as well.
fn decimal(digits: &str, malformed: &UnitError) -> Result<u64, UnitError> {
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(malformed.clone());
    }
    digits.parse().map_err(|_| UnitError::TooLarge)
}

/// A number of bytes the shortest exact way that [`parse_size`] reads back: `64M`, `4097`.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    for (suffix, shift) in [("G", 30), ("M", 20), ("K", 10)] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{suffix}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Microseconds the shortest exact way that [`parse_duration_us`] reads back: `10ms`, `1500us`.
#[must_use]
pub fn format_duration_us(us: u64) -> String {
    for (unit, factor) in [("s", 1_000_000), ("ms", 1000)] {
        if us != 0 && us.is_multiple_of(factor) {
            return format!("{}{unit}", us / factor);
        }
    }
    format!("{us}us")
}

/// A percentage as the ratio that [`parse_ratio_percent`] reads back, always with a point: `1.5`, `2.0`.
#[must_use]
pub fn format_ratio(percent: u32) -> String {
    let (whole, part) = (percent / 100, percent % 100);
    if part.is_multiple_of(10) { format!("{whole}.{}", part / 10) } else { format!("{whole}.{part:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("4K", 4096), ("128M", 128 << 20), ("2g", 2 << 30)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "12Q", "-1M", "+1M", "1.5G", " 1M", "1 M", "1MM", "MÄ", "64MiB"] {
            assert_eq!(parse_size(text), Err(UnitError::NotASize), "{text}");
        }
        assert_eq!(parse_size("99999999999999999999"), Err(UnitError::TooLarge));
        assert_eq!(parse_size("17179869184G"), Err(UnitError::TooLarge));
        assert_eq!(parse_size("17179869183G"), Ok(17_179_869_183 << 30));
    }

    #[test]
    fn durations() {
        for (text, us) in [("100us", 100), ("10ms", 10_000), ("1s", 1_000_000), ("0s", 0)] {
            assert_eq!(parse_duration_us(text), Ok(us), "{text}");
        }
        for text in ["", "10", "ms", "10 ms", "10ns", "1m", "-1s", "1.5s"] {
            assert_eq!(parse_duration_us(text), Err(UnitError::NotATime), "{text}");
        }
        assert_eq!(parse_duration_us("18446744073710s"), Err(UnitError::TooLarge));
    }

    #[test]
    fn addresses() {
        assert_eq!(parse_address("0x7c00"), Ok(0x7c00));
        assert_eq!(parse_address("1048576"), Ok(0x10_0000));
        assert_eq!(parse_address("0xffffffffffffffff"), Ok(u64::MAX));
        assert_eq!(parse_address("0x10000000000000000"), Err(UnitError::TooLarge));
        for text in ["", "0x", "0x+1", "7c00", "0xg"] {
            assert_eq!(parse_address(text), Err(UnitError::NotAnAddress), "{text}");
        }
    }

    #[test]
    fn ratios() {
        for (text, percent) in [("1", 100), ("1.5", 150), ("2.05", 205), ("0.0", 0), ("10.00", 1000)] {
            assert_eq!(parse_ratio_percent(text), Ok(percent), "{text}");
        }
        for text in ["", ".", "1.", ".5", "1.234", "-1.0", "1e1", "inf", "1.+5", "1_0.5"] {
            assert_eq!(parse_ratio_percent(text), Err(UnitError::NotARatio), "{text}");
        }
        assert_eq!(parse_ratio_percent("42949673.00"), Err(UnitError::TooLarge));
        assert_eq!(parse_ratio_percent("18446744073709551615"), Err(UnitError::TooLarge));
        assert_eq!(
            (format_ratio(100), format_ratio(150), format_ratio(205)),
            ("1.0".into(), "1.5".into(), "2.05".into())
        );
    }

    proptest! {
        #[test]
        fn a_written_ratio_reads_back(percent: u32) {
            prop_assert_eq!(parse_ratio_percent(&format_ratio(percent)), Ok(percent));
        }

        #[test]
        fn written_quantities_read_back(value: u64) {
            prop_assert_eq!(parse_size(&format_size(value)), Ok(value));
            prop_assert_eq!(parse_duration_us(&format_duration_us(value)), Ok(value));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,24}") {
            let _ = (parse_size(&text), parse_duration_us(&text), parse_address(&text), parse_number(&text));
            let _ = parse_ratio_percent(&text);
        }
    }
}
