//! Counting test results over several test programs: [`Tally`].

use std::fmt;
use std::io::{self, Read, Write};

/// How many tests passed and failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    passed: u64,
    failed: u64,
    /// A program that failed without counting a failed test: it did not build, or it crashed.
    broken: bool,
    failed_before: u64,
}

impl Tally {
    /// Copies the output and takes note of each `test result:` line.
    pub fn follow(&mut self, mut output: impl Read, copy: &mut impl Write) -> io::Result<()> {
        self.failed_before = self.failed;
        let mut line = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let length = output.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            let bytes = buffer.get(..length).unwrap_or_default();
            copy.write_all(bytes)?;
            copy.flush()?;
            for &byte in bytes {
                if byte == b'\n' {
                    self.hear(&String::from_utf8_lossy(&line));
                    line.clear();
                } else {
                    line.push(byte);
                }
            }
        }
        Ok(())
    }

    /// Notes how the program ended that was followed last.
    pub fn ended(&mut self, success: bool) {
        if !success && self.failed == self.failed_before {
            self.broken = true;
        }
    }

    fn hear(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let count = |what: &str| {
            counts
                .split(['.', ';'])
                .filter_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok())
                .next()
                .unwrap_or(0)
        };
        self.passed += count("passed");
        self.failed += count("failed");
    }

    /// Whether something was tested and nothing failed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.passed > 0 && self.failed == 0 && !self.broken
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.broken {
            writeln!(f, "a test program failed to build or ended early: see above")?;
        }
        if self.passed + self.failed == 0 {
            writeln!(f, "no test has that name")?;
        }
        writeln!(f, "{} tests run", self.passed + self.failed)?;
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(output: &str, success: bool) -> Tally {
        let mut tally = Tally::default();
        let mut copy = Vec::new();
        tally.follow(output.as_bytes(), &mut copy).unwrap();
        assert_eq!(copy, output.as_bytes());
        tally.ended(success);
        tally
    }

    #[test]
    fn results_of_several_programs_add_up() {
        let tally = tally(
            "running 3 tests\ntest result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n\
             test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.1s\n",
            false,
        );
        assert!(!tally.is_good());
        assert_eq!(tally.to_string(), "9 tests run\n7 passed, 2 failed");
    }

    #[test]
    fn a_program_that_does_not_build_is_no_success() {
        let mut tally = tally("test result: ok. 3 passed; 0 failed; 0 ignored\n", true);
        assert!(tally.is_good());
        tally.follow("".as_bytes(), &mut Vec::new()).unwrap();
        tally.ended(false);
        assert!(!tally.is_good());
        assert!(tally.to_string().contains("failed to build"));
        assert!(tally.to_string().ends_with("3 passed, 0 failed"));
    }

    #[test]
    fn no_test_at_all_is_no_success() {
        assert!(!tally("test result: ok. 0 passed; 0 failed; 0 ignored\n", true).is_good());
    }
}
