//! Positions in the order of commits, by which a reader recognizes a copy of the state that is too old.

use std::fmt;
use std::str::FromStr;

/// A point in the order of a database's commits. Positions of different timelines cannot be compared: after a
/// failover, the new timeline may lack the latest commits of the one before.
///
/// As text it is opaque to clients, which pass it from an answer to a later request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitPosition {
    pub timeline: u32,
    pub offset: u64,
}

/// The error for text that is not a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a position that this server has returned")]
pub struct BadPosition;

impl CommitPosition {
    /// Reports whether everything that was committed at the other position was also committed at this one.
    pub const fn includes(self, other: Self) -> bool {
        self.timeline == other.timeline && self.offset >= other.offset
    }

    /// Returns the later of two positions.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        if (other.timeline, other.offset) > (self.timeline, self.offset) { other } else { self }
    }
}

impl fmt::Display for CommitPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{:x}-{:x}", self.timeline, self.offset)
    }
}

impl FromStr for CommitPosition {
    type Err = BadPosition;

    fn from_str(text: &str) -> Result<Self, BadPosition> {
        let (timeline, offset) = text.strip_prefix('p').and_then(|rest| rest.split_once('-')).ok_or(BadPosition)?;
        let timeline = u32::from_str_radix(timeline, 16).map_err(|_| BadPosition)?;
        let position = Self { timeline, offset: u64::from_str_radix(offset, 16).map_err(|_| BadPosition)? };
        // Every position has one text.
        if position.to_string() == text { Ok(position) } else { Err(BadPosition) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_written() {
        for (timeline, offset) in [(1, 0), (1, 0x16_b374_d848), (u32::MAX, u64::MAX)] {
            let position = CommitPosition { timeline, offset };
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        for wrong in
            ["", "p", "p1", "p1-", "1-5", "p1-+5", "p01-5", "p1-05", "p1-A", "p1-5 ", "pffffffff0-1", "0/16B3748"]
        {
            assert_eq!(wrong.parse::<CommitPosition>(), Err(BadPosition), "{wrong}");
        }
    }

    #[test]
    fn positions_of_two_timelines_say_nothing_about_each_other() {
        let at = |timeline, offset| CommitPosition { timeline, offset };
        assert!(at(1, 5).includes(at(1, 5)) && at(1, 6).includes(at(1, 5)) && !at(1, 4).includes(at(1, 5)));
        assert!(!at(2, 9).includes(at(1, 5)) && !at(1, 9).includes(at(2, 5)));
        assert_eq!(at(1, 9).later(at(2, 5)), at(2, 5));
        assert_eq!(at(1, 9).later(at(1, 5)), at(1, 9));
    }
}
