//! A line as words: parted by spaces, quotes keep spaces in.

use alloc::string::String;
use alloc::vec::Vec;

/// The words of a line. `"..."` and `'...'` keep spaces in a word; in `"..."` a backslash takes the next character as it
/// is.
///
/// # Errors
/// The quote that is never closed.
pub(super) fn split(line: &str) -> Result<Vec<String>, char> {
    let mut words = Vec::new();
    // Some as soon as a word is begun, so that "" is an empty word.
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    match quote {
        Some(open) => Err(open),
        None => {
            words.extend(word);
            Ok(words)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quotes_keep_spaces() {
        assert_eq!(split("  vm\tlist ").unwrap(), ["vm", "list"]);
        assert_eq!(split(r#"a "b c" 'd "e"' f"g h"i "" "#).unwrap(), ["a", "b c", r#"d "e""#, "fg hi", ""]);
        assert_eq!(split(r#""say \"hi\" \\" 'a\b'"#).unwrap(), [r#"say "hi" \"#, r"a\b"]);
        assert_eq!(split(""), Ok(Vec::new()));
        assert_eq!(split("vm 'create"), Err('\''));
        assert_eq!(split(r#""open\"#), Err('"'));
    }

    proptest! {
        #[test]
        fn quoted_words_come_back(words in proptest::collection::vec("\\PC{0,12}", 0..6)) {
            let line: Vec<String> =
                words.iter().map(|word| std::format!("\"{}\"", word.replace('\\', r"\\").replace('"', "\\\""))).collect();
            prop_assert_eq!(split(&line.join(" ")), Ok(words));
        }
    }
}
