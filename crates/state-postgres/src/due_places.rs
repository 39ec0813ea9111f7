//! The days on which claims look for due deliveries, and the sweeper for uploads with work.
//!
//! Unfinished rows lie between a bound that [`unfinished`](crate::unfinished) keeps and the end of the
//! following day, because no identifier is accepted that is more than a day ahead. Usually these are a few
//! days. Each of them is searched with statements that are planned once; see
//! [`day_tables`](crate::day_tables). Rows of later days exist only after the clock of the server was wrong;
//! they are searched at intervals.

use std::collections::HashMap;
use std::mem::{Discriminant, discriminant};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::bucket::{DAY, SourceId, day_of, first_id_of};
use crate::day_tables::Day;
use crate::lock::lock;
use crate::query::AFTER_ALL;
use crate::session::Planning;
use crate::windows::{KnownDays, Window};
use domain::time::Timestamp;
use state::SweepSelection;

/// The maximum number of days that are searched one by one, by claims and by the sweeper.
const MOST_DAYS_CLAIMED: usize = 4;
const MOST_DAYS_SWEPT: usize = 12;

/// The interval between two searches of all later days.
const LATER_DAYS_EVERY: Duration = Duration::from_secs(30);

/// A range of sources or uploads, and how a statement about it is planned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DuePlace {
    pub(crate) planning: Planning,
    pub(crate) from: SourceId,
    /// The first identifier after the range.
    pub(crate) end: SourceId,
}

/// A kind of search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Search {
    Claim,
    NextDue,
    Sweep(Discriminant<SweepSelection>),
}

impl Search {
    pub(crate) fn of_sweep(selection: SweepSelection) -> Self {
        Self::Sweep(discriminant(&selection))
    }
}

/// The times of the latest searches of later days.
#[derive(Debug, Default)]
pub(crate) struct LaterDays(Mutex<HashMap<Search, Instant>>);

impl LaterDays {
    /// Reports whether to search later days now. The caller does so.
    pub(crate) fn are_due(&self, search: Search) -> bool {
        let mut searched = lock(&self.0);
        let are_due = searched.get(&search).is_none_or(|at| at.elapsed() >= LATER_DAYS_EVERY);
        if are_due {
            searched.insert(search, Instant::now());
        }
        are_due
    }
}

/// The places of all rows from a bound on.
#[derive(Debug)]
pub(crate) struct DuePlaces {
    /// The days up to tomorrow, oldest first; or places with everything.
    pub(crate) days: Vec<DuePlace>,
    /// All later days, if `days` does not include them.
    pub(crate) later: Option<DuePlace>,
}

impl DuePlaces {
    pub(crate) fn of_windows(windows: Vec<Window>) -> Self {
        let place = |Window { from, end }| DuePlace { planning: Planning::EachTime, from, end };
        Self { days: windows.into_iter().map(place).collect(), later: None }
    }
}

/// Returns the places that the sweeper searches at a time, given the bound of uploads with work.
pub(crate) fn swept_places(known: &KnownDays, from: SourceId, now: Timestamp) -> DuePlaces {
    places(known, from, now, MOST_DAYS_SWEPT)
}

/// Returns the places that are searched for due deliveries at a time, given the bound of unfinished ones.
pub(crate) fn due_places(
    known: &KnownDays,
    from: SourceId,
    now: Timestamp,
    later: &LaterDays,
    search: Search,
) -> Vec<DuePlace> {
    let DuePlaces { mut days, later: all_later } = places(known, from, now, MOST_DAYS_CLAIMED);
    days.extend(all_later.filter(|_| later.are_due(search)));
    days
}

fn places(known: &KnownDays, from: SourceId, now: Timestamp, most_days: usize) -> DuePlaces {
    let all = DuePlace { planning: Planning::EachTime, from, end: AFTER_ALL };
    let end = first_id_of(day_of(now.plus(DAY * 2)));
    let Some(days) = known.days_between(&from, &end, most_days).filter(|days| !days.is_empty()) else {
        return DuePlaces { days: vec![all], later: None };
    };
    let place = |day: &Day| DuePlace {
        planning: Planning::Once(Some(*day)),
        from: from.max(day.first_id()),
        end: day.next().first_id(),
    };
    DuePlaces { days: days.iter().map(place).collect(), later: Some(DuePlace { from: end, ..all }) }
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
        let later = LaterDays::default();
        let from = day(-1);
        let first = due_places(&known, from, now, &later, Search::Claim);
        assert_eq!(first.len(), 4, "yesterday, today, tomorrow, and all later days");
        assert_eq!((first[0].from, first[3].end), (from, AFTER_ALL));
        assert!(first.windows(2).all(|two| two[0].end == two[1].from));
        let again = |search| due_places(&known, from, now, &later, search).len();
        assert_eq!(again(Search::Claim), 3, "later days were searched just now");
        assert_eq!(again(Search::NextDue), 4, "each kind of search has separate times");
        let swept = swept_places(&known, day(-3), now);
        assert_eq!(swept.days.len(), 5);
        assert_eq!(swept.later.map(|later| (later.from, later.end)), Some((swept.days[4].end, AFTER_ALL)));
        let is_whole = |places: Vec<DuePlace>| {
            assert_eq!((places.len(), places[0].planning, places[0].end), (1, Planning::EachTime, AFTER_ALL));
        };
        is_whole(due_places(&known, day(-3), now, &later, Search::Claim));
        is_whole(due_places(&KnownDays::default(), from, now, &later, Search::Claim));
        is_whole(due_places(&known, day(5), now, &later, Search::Claim));
    }
}
