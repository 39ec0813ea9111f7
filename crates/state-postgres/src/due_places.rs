//! The parts of the table of deliveries in which claims look for due ones.
//!
//! Unfinished deliveries lie between a bound that [`unfinished`](crate::unfinished) keeps and the end of the
//! following day, because no identifier is accepted that is more than a day ahead. Usually these are two or
//! three days. Claims search each of them with statements that are planned once; see
//! [`day_tables`](crate::day_tables). Rows of other days exist only after the clock of the server was wrong;
//! they are searched every few seconds.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::bucket::{DAY, SourceId, day_of, first_id_of};
use crate::lock::lock;
use crate::query::AFTER_ALL;
use crate::session::Planning;
use crate::windows::KnownDays;
use domain::time::Timestamp;

/// The maximum number of days that are searched one by one.
const MOST_DAYS: usize = 4;

/// The interval between two searches of all other days.
const OTHER_DAYS_EVERY: Duration = Duration::from_secs(5);

/// A range of sources, and how a statement about it is planned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DuePlace {
    pub(crate) planning: Planning,
    pub(crate) from: SourceId,
    /// The first source after the range.
    pub(crate) end: SourceId,
}

/// The time of the last search of other days.
#[derive(Debug, Default)]
pub(crate) struct OtherDays(Mutex<Option<Instant>>);

impl OtherDays {
    fn are_due(&self) -> bool {
        let mut searched = lock(&self.0);
        let are_due = searched.is_none_or(|at| at.elapsed() >= OTHER_DAYS_EVERY);
        if are_due {
            *searched = Some(Instant::now());
        }
        are_due
    }
}

/// Returns the places to search at a time, given the bound of unfinished deliveries.
pub(crate) fn due_places(known: &KnownDays, from: SourceId, now: Timestamp, others: &OtherDays) -> Vec<DuePlace> {
    let all = DuePlace { planning: Planning::EachTime, from, end: AFTER_ALL };
    let end = first_id_of(day_of(now.plus(DAY * 2)));
    let Some(days) = known.days_between(&from, &end, MOST_DAYS).filter(|days| !days.is_empty()) else {
        return vec![all];
    };
    let place = |day: &crate::day_tables::Day| DuePlace {
        planning: Planning::Once(Some(*day)),
        from: from.max(day.first_id()),
        end: day.next().first_id(),
    };
    let mut places: Vec<DuePlace> = days.iter().map(place).collect();
    if others.are_due() {
        places.push(DuePlace { from: end, ..all });
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_cover_all_days_in_turn() {
        let now = Timestamp::from_unix_ms(1_795_300_290_123);
        let day = |ahead: i32| first_id_of(day_of(now).plus(DAY * u32::try_from(ahead + 3).unwrap()).minus(DAY * 3));
        let known = KnownDays::default();
        known.remember((-3..=7).map(day).collect());
        let others = OtherDays::default();
        let from = day(-1);
        let first = due_places(&known, from, now, &others);
        assert_eq!(first.len(), 4, "yesterday, today, tomorrow, and all later days");
        assert_eq!((first[0].from, first[3].end), (from, AFTER_ALL));
        assert!(first.windows(2).all(|two| two[0].end == two[1].from));
        assert_eq!(due_places(&known, from, now, &others).len(), 3, "other days were searched just now");
        let is_whole = |places: Vec<DuePlace>| {
            assert_eq!((places.len(), places[0].planning, places[0].end), (1, Planning::EachTime, AFTER_ALL));
        };
        is_whole(due_places(&known, day(-3), now, &others));
        is_whole(due_places(&KnownDays::default(), from, now, &others));
        is_whole(due_places(&known, day(5), now, &others));
    }
}
