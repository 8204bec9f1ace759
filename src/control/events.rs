//! The last state changes, kept for those who ask afterwards, as lines of JSON.

use std::collections::VecDeque;

/// Changes kept; at some 150 bytes each.
pub const KEPT: usize = 256;

#[derive(Debug, Default)]
pub struct Ring {
    lines: VecDeque<String>,
}

impl Ring {
    /// `line` ends with a newline.
    pub fn push(&mut self, line: String) {
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// The last `count` lines, oldest first.
    pub fn last(&self, count: usize) -> impl Iterator<Item = &str> {
        self.lines.iter().skip(self.lines.len().saturating_sub(count)).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_are_kept_and_the_newest_of_them_given() {
        let mut ring = Ring::default();
        for n in 0..1000 {
            ring.push(format!("{n}\n"));
        }
        assert_eq!(ring.last(usize::MAX).count(), KEPT);
        assert_eq!(ring.last(2).collect::<String>(), "998\n999\n");
        assert_eq!(ring.last(0).count(), 0);
    }
}
