//! What libtest's lines say, added up.

use std::ops::Add;

/// Sums of libtest's closing lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that are marked as ignored, or left out because something that they need is not there.
    pub ignored: u64,
    /// Test programs that began and never came to their closing line: they crashed, or were killed.
    pub unfinished: u64,
}

impl Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            ignored: self.ignored + other.ignored,
            unfinished: self.unfinished + other.unfinished,
        }
    }
}

impl Count {
    /// Adds a line such as `running 4 tests` or `test result: ok. 3 passed; 0 failed; 1 ignored; …`; other lines count
    /// nothing.
    pub fn read(&mut self, line: &str) {
        if is_opening(line) {
            self.unfinished += 1;
            return;
        }
        let Some((_, figures)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        self.unfinished = self.unfinished.saturating_sub(1);
        for figure in figures.split("; ") {
            let Some((number, what)) = figure.split_once(' ') else { continue };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    /// Why the run is no success, if it is none.
    pub fn complaint(&self, success: bool, filter: Option<&str>) -> Option<String> {
        let Self { passed, failed, ignored, unfinished } = *self;
        match (unfinished, failed, filter) {
            (1.., _, _) => {
                Some(format!("{unfinished} test programs ended before their tests did; each counts as a failure"))
            }
            (0, 1.., _) => Some(format!("{failed} tests failed")),
            (0, 0, _) if !success => {
                Some("cargo failed, so tests are missing in this count; its message stands above".to_owned())
            }
            (0, 0, Some(filter)) if passed == 0 && ignored > 0 => {
                Some(format!("every test with {filter:?} in its name was left out"))
            }
            (0, 0, Some(filter)) if passed == 0 => Some(format!("no test has {filter:?} in its name")),
            (0, 0, None) if passed == 0 => Some("no test ran".to_owned()),
            (0, 0, _) => None,
        }
    }
}

/// Whether this is libtest's first line, such as `running 1 test`.
pub fn is_opening(line: &str) -> bool {
    let words = line.strip_prefix("running ").and_then(|rest| rest.split_once(' '));
    words.is_some_and(|(number, what)| number.parse::<u64>().is_ok() && matches!(what, "test" | "tests"))
}

/// Whether this is libtest's last line, such as `test result: ok. 3 passed; …`.
pub fn is_closing(line: &str) -> bool {
    line.starts_with("test result: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_added_up_and_nothing_else() {
        let mut count = Count::default();
        for line in [
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.01s",
            "test 5 passed; 5 failed",
            "running late with 9 tests",
        ] {
            count.read(line);
        }
        assert_eq!(count, Count { passed: 5, failed: 4, ignored: 1, unfinished: 0 });
    }

    #[test]
    fn success_needs_a_test_that_passed_and_none_that_did_not() {
        let count = |passed, failed| Count { passed, failed, ..Count::default() };
        assert_eq!(count(3, 0).complaint(true, Some("x")), None);
        assert_eq!(count(3, 1).complaint(true, None).as_deref(), Some("1 tests failed"));
        assert_eq!(count(0, 0).complaint(true, Some("x")).as_deref(), Some("no test has \"x\" in its name"));
        assert!(count(0, 0).complaint(true, None).is_some());
        let skipped = Count { ignored: 1, ..Count::default() };
        assert_eq!(
            skipped.complaint(true, Some("x")).as_deref(),
            Some("every test with \"x\" in its name was left out"),
            "what was left out proves nothing"
        );
        assert!(count(3, 0).complaint(false, None).is_some(), "a crate did not compile");
    }
}
