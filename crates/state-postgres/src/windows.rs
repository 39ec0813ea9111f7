//! Windows of days: a statement about many days is run for one window after another.
//!
//! A statement locks every partition of its range with all indexes, before it reads a row. A window bounds
//! the locks of one transaction, and a list of the newest uploads stops at the first window that fills its
//! page. The days known here only size the windows: together the windows always cover every identifier.

use std::sync::{Arc, Mutex};

use crate::bucket::{SourceId, day_of, first_id_of};
use crate::day_tables::Day;
use crate::lock::lock;
use crate::query::AFTER_ALL;
use domain::time::Timestamp;

/// The maximum number of days in one window.
pub(crate) const MOST_DAYS: usize = 16;

/// The number of days in the first window that does not contain the present day.
const FIRST_DAYS: usize = 4;

/// A range of identifiers: those of whole days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) from: SourceId,
    /// The first identifier after the window.
    pub(crate) end: SourceId,
}

/// The first identifiers of the days that have partitions, oldest first.
#[derive(Debug, Default)]
pub(crate) struct KnownDays(Mutex<Arc<[SourceId]>>);

impl KnownDays {
    pub(crate) fn remember(&self, days: Vec<SourceId>) {
        *lock(&self.0) = days.into();
    }

    fn get(&self) -> Arc<[SourceId]> {
        Arc::clone(&lock(&self.0))
    }

    /// Forgets the days: one of them has no partitions any more.
    pub(crate) fn forget(&self) {
        self.remember(Vec::new());
    }

    /// Returns the day of some identifiers, if all lie in one that has partitions.
    pub(crate) fn day_of<'id>(&self, ids: impl Iterator<Item = &'id SourceId> + Clone) -> Option<Day> {
        let (least, most) = (ids.clone().min()?, ids.max()?);
        let (first, last) = (Day::of(least), Day::of(most));
        (first == last && self.get().binary_search(&first.first_id()).is_ok()).then_some(first)
    }

    /// Returns the days between two identifiers, if all of them have partitions and there are at most `most`.
    pub(crate) fn days_between(&self, from: &SourceId, end: &SourceId, most: usize) -> Option<Vec<Day>> {
        let known = self.get();
        let (mut days, mut next) = (Vec::new(), Day::of(from));
        while next.first_id() < *end {
            if days.len() == most || known.binary_search(&next.first_id()).is_err() {
                return None;
            }
            days.push(next);
            next = next.next();
        }
        Some(days)
    }

    /// Returns the windows before an identifier, newest first. The first one reaches back to the day before
    /// `now`, and the following ones grow.
    pub(crate) fn newest_first(&self, before: SourceId, now: Timestamp) -> Vec<Window> {
        let days = self.get();
        let starting_before = |id: SourceId| days.partition_point(|day| *day < id);
        let mut left = starting_before(before);
        let recent = starting_before(first_id_of(day_of(now.minus(crate::bucket::DAY))));
        let mut size = if left > recent { left - recent } else { FIRST_DAYS };
        let (mut windows, mut end) = (Vec::new(), before);
        loop {
            left = left.saturating_sub(size);
            let from = if left == 0 { SourceId::default() } else { days[left] };
            windows.push(Window { from, end });
            if left == 0 {
                return windows;
            }
            (end, size) = (from, (size * 2).clamp(FIRST_DAYS, MOST_DAYS));
        }
    }

    /// Returns the first identifiers of the days that begin in a window.
    pub(crate) fn within(&self, window: Window) -> Vec<SourceId> {
        self.get().iter().copied().filter(|start| (window.from..window.end).contains(start)).collect()
    }

    /// Returns the window that begins at an identifier and contains at most the maximum number of days.
    pub(crate) fn from(&self, from: SourceId) -> Window {
        let days = self.get();
        let next = days.partition_point(|day| *day <= from) + MOST_DAYS - 1;
        Window { from, end: days.get(next).copied().unwrap_or(AFTER_ALL) }
    }

    /// Returns all windows before an identifier, oldest first.
    pub(crate) fn oldest_first(&self, before: SourceId) -> Vec<Window> {
        let mut windows = vec![self.from(SourceId::default())];
        while let Some(last) = windows.last()
            && last.end < before
        {
            windows.push(self.from(last.end));
        }
        windows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::DAY;

    fn known(count: u32) -> (KnownDays, Vec<SourceId>, Timestamp) {
        let first = day_of(Timestamp::from_unix_ms(1_795_300_290_123));
        let days: Vec<SourceId> = (0..count).map(|day| first_id_of(first.plus(DAY * day))).collect();
        let known = KnownDays::default();
        known.remember(days.clone());
        (known, days, first.plus(DAY * count.saturating_sub(1)))
    }

    fn are_joined(windows: &[Window]) -> bool {
        windows.windows(2).all(|two| two[0].from == two[1].end)
    }

    #[test]
    fn windows_cover_everything_whatever_is_known() {
        for count in [0, 1, 2, 3, 15, 16, 17, 18, 400] {
            let (known, days, last) = known(count);
            for before in days.iter().copied().chain([AFTER_ALL, [0; 16], [7; 16]]) {
                for now in [last, last.minus(DAY * 30), last.plus(DAY * 30)] {
                    let windows = known.newest_first(before, now);
                    assert_eq!((windows[0].end, windows[windows.len() - 1].from), (before, [0; 16]));
                    assert!(are_joined(&windows), "{count} days");
                }
                let mut windows = known.oldest_first(before);
                windows.reverse();
                assert!(windows[0].end >= before && windows[windows.len() - 1].from == [0; 16]);
                assert!(are_joined(&windows), "{count} days");
            }
        }
    }

    #[test]
    fn a_window_has_few_days_and_the_first_one_has_the_present() {
        let (known, days, last) = known(400);
        let windows = known.newest_first(AFTER_ALL, last.minus(DAY * 7));
        assert_eq!(windows[0].from, days[391], "the day before, the present one, and seven ahead");
        let count = |window: &Window| days.iter().filter(|day| (window.from..window.end).contains(day)).count();
        assert!(windows.iter().all(|window| count(window) <= MOST_DAYS));
        assert!(known.oldest_first(AFTER_ALL).iter().all(|window| count(window) <= MOST_DAYS));
    }
}
