//! The values that power the machine off: the `\_S5_` package of the DSDT.
//!
//! Source: ACPI specification, "\_Sx (System States)", and "ACPI Machine Language (AML) Specification". A full AML
//! interpreter for two bytes is out of proportion; the package is a constant in practice, and is found by its bytes:
//! `NameOp ["\"] "_S5_" PackageOp PkgLength NumElements SLP_TYPa SLP_TYPb ...`.

/// The sleep types of state S5, each 0 to 7, for the SLP_TYP fields of the PM1a and PM1b control registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SleepTypes {
    /// For PM1a_CNT.
    pub pm1a: u8,
    /// For PM1b_CNT.
    pub pm1b: u8,
}

const NAME_OP: u8 = 0x08;
const ROOT_CHAR: u8 = b'\\';
const PACKAGE_OP: u8 = 0x12;
const ZERO_OP: u8 = 0x00;
const ONE_OP: u8 = 0x01;
const BYTE_PREFIX: u8 = 0x0a;
const WORD_PREFIX: u8 = 0x0b;
const DWORD_PREFIX: u8 = 0x0c;
const S5_NAME: &[u8; 4] = b"_S5_";
/// SLP_TYPx is a field of 3 bits.
const MAX_SLEEP_TYPE: u32 = 7;

/// Finds the sleep types of `\_S5_` in the bytes of a DSDT (or SSDT). `None` where there is no such package.
#[must_use]
pub fn find_s5(table: &[u8]) -> Option<SleepTypes> {
    let candidates = table.windows(S5_NAME.len()).enumerate().filter(|(_, window)| *window == S5_NAME);
    candidates.filter_map(|(at, _)| parse_at(table, at)).next()
}

/// Parses the package behind the name at `at`, if a name definition it is.
fn parse_at(table: &[u8], at: usize) -> Option<SleepTypes> {
    let before = table.get(..at)?;
    let before = before.strip_suffix(&[ROOT_CHAR]).unwrap_or(before);
    if before.last() != Some(&NAME_OP) {
        return None;
    }
    let (&package_op, rest) = table.get(at + S5_NAME.len()..)?.split_first()?;
    if package_op != PACKAGE_OP {
        return None;
    }
    // PkgLength: bits 7:6 of the first byte say how many bytes follow it.
    let (&lead, rest) = rest.split_first()?;
    let rest = rest.get(usize::from(lead >> 6)..)?;
    let (&elements, rest) = rest.split_first()?;
    let (pm1a, rest) = integer(rest)?;
    // Firmware with one PM1 block may leave the second value out.
    let (pm1b, _) = if elements >= 2 { integer(rest)? } else { (0, rest) };
    let sleep_type = |value: u32| (value <= MAX_SLEEP_TYPE).then(|| u8::try_from(value).ok()).flatten();
    (elements >= 1).then_some(SleepTypes { pm1a: sleep_type(pm1a)?, pm1b: sleep_type(pm1b)? })
}

/// An integer constant, and what follows it.
fn integer(aml: &[u8]) -> Option<(u32, &[u8])> {
    let (&op, rest) = aml.split_first()?;
    match op {
        ZERO_OP | ONE_OP => Some((u32::from(op), rest)),
        BYTE_PREFIX => rest.split_first().map(|(&value, rest)| (u32::from(value), rest)),
        WORD_PREFIX => rest.split_first_chunk().map(|(value, rest)| (u32::from(u16::from_le_bytes(*value)), rest)),
        DWORD_PREFIX => rest.split_first_chunk().map(|(value, rest)| (u32::from_le_bytes(*value), rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn packages_as_firmware_writes_them() {
        // QEMU: four elements, all Zero; after them, something else.
        assert_eq!(find_s5(b"xx\x08_S5_\x12\x06\x04\0\0\0\0\x10"), Some(SleepTypes { pm1a: 0, pm1b: 0 }));
        // With a root prefix and byte constants.
        assert_eq!(find_s5(b"\x08\\_S5_\x12\x0a\x04\x0a\x05\x0a\x07\x00\x00"), Some(SleepTypes { pm1a: 5, pm1b: 7 }));
        // A PkgLength of two bytes; word and dword constants.
        assert_eq!(
            find_s5(b"\x08_S5_\x12\x4a\x00\x02\x0b\x07\x00\x0c\x01\x00\x00\x00"),
            Some(SleepTypes { pm1a: 7, pm1b: 1 })
        );
    }

    #[test]
    fn a_mention_of_the_name_is_not_its_definition() {
        assert_eq!(find_s5(b"\x14_S5_\x12\x06\x04\0\0\0\0"), None);
        let later = b"\x70_S5_\x60\x08_S5_\x12\x06\x04\x01\x01\0\0";
        assert_eq!(find_s5(later), Some(SleepTypes { pm1a: 1, pm1b: 1 }));
    }

    #[test]
    fn values_that_do_not_fit_are_refused() {
        assert_eq!(find_s5(b"\x08_S5_\x12\x06\x02\x0a\x08\x00"), None);
        assert_eq!(find_s5(b"\x08_S5_\x12\x06\x00"), None);
    }

    proptest! {
        #[test]
        fn cut_or_damaged_tables_never_panic(cut in 0usize..20, junk in prop::collection::vec(any::<u8>(), 0..12)) {
            let table = b"\x08\\_S5_\x12\x0a\x04\x0a\x05\x0a\x07\x00\x00";
            let mut bytes = table.get(..cut).unwrap_or(table).to_vec();
            bytes.extend_from_slice(&junk);
            if let Some(types) = find_s5(&bytes) {
                prop_assert!(types.pm1a <= 7 && types.pm1b <= 7);
            }
        }
    }
}
