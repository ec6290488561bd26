//! "Did you mean": the nearest of some words to a mistyped one.

use alloc::vec::Vec;
use core::mem;

/// Words longer than this are not compared: nobody mistypes a name of that length, and the table would grow.
const LONGEST: usize = 64;

/// The one of `candidates` that is nearest to `word` by edit distance, if it is near enough to be worth asking: at most
/// one edit for every three characters of `word`, and at least one.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.is_empty() || word.len() > LONGEST {
        return None;
    }
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| (edit_distance(word, candidate), candidate))
        .filter(|&(distance, _)| distance <= limit)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Edits that turn `from` into `to`: a character put in, taken out, replaced, or swapped with its neighbour (the
/// restricted Damerau-Levenshtein distance).
fn edit_distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    // Rows of the table of distances between prefixes: the one being filled, and the two before it.
    let mut row: Vec<usize> = (0..=to.len()).collect();
    let mut above = row.clone();
    let mut two_above = row.clone();
    for (i, a) in from.iter().enumerate() {
        mem::swap(&mut two_above, &mut above);
        mem::swap(&mut above, &mut row);
        let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX);
        row.clear();
        row.push(i + 1);
        for (j, b) in to.iter().enumerate() {
            let replaced = at(&above, j).saturating_add(usize::from(a != b));
            let changed = at(&row, j).min(at(&above, j + 1)).saturating_add(1);
            let swapped = if i > 0 && j > 0 && from.get(i - 1) == Some(b) && to.get(j - 1) == Some(a) {
                at(&two_above, j - 1).saturating_add(1)
            } else {
                usize::MAX
            };
            row.push(replaced.min(changed).min(swapped));
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn distances() {
        for (from, to, distance) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("memroy", "memory", 1),
            ("kitten", "sitting", 3),
            ("", "vm", 2),
            ("ab", "ba", 1),
        ] {
            assert_eq!(edit_distance(from, to), distance, "{from} {to}");
        }
    }

    #[test]
    fn only_near_words_are_suggested() {
        let keys = ["memory", "modules", "name", "image"];
        assert_eq!(nearest("memroy", keys), Some("memory"));
        assert_eq!(nearest("mem", keys), None);
        assert_eq!(nearest("imgae", keys), Some("image"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("", keys), None);
    }

    proptest! {
        #[test]
        fn a_distance_is_symmetric(a in "[abc]{0,8}", b in "[abc]{0,8}") {
            prop_assert_eq!(edit_distance(&a, &b), edit_distance(&b, &a));
            prop_assert_eq!(edit_distance(&a, &b) == 0, a == b);
        }
    }
}
