//! The goals for PostgreSQL and for several nodes (15, 16).

use crate::report::goals::{Bound, Verdict, at_least, at_most, bounded_of};
use crate::report::numbers::Numbers;
use crate::results::Metric;
use crate::scenario::cluster::{CAPPED_ALL, CAPPED_ONE, CUT_OFF, HEALTHY, KILLED, SILENT};
use crate::scenario::on_postgres::{
    COMMITS, EVENTS, ONE_UPLOAD, SMALL_UPLOADS, STATUS_IDLE, STATUS_LOADED, beside_many_rows,
};
use crate::subject::Subject::{Longshore, LongshorePostgres};

/// The factor by which a million rows may change a number.
const MANY_ROWS: f64 = 1.5;

pub(super) fn on_postgres(numbers: Numbers<'_>) -> Vec<Verdict> {
    let of_sqlite = |form, metric| numbers.median(Longshore, form, metric);
    let own = |form, metric| numbers.median(LongshorePostgres, form, metric);
    let mut verdicts = vec![
        bounded_of(numbers, LongshorePostgres, COMMITS, Metric::CommitsPerSecond, Bound::AtLeast(3_000.0)),
        at_least(
            format!("{SMALL_UPLOADS}: uploads/s at least 0.7 × SQLite"),
            own(SMALL_UPLOADS, Metric::UploadsPerSecond),
            of_sqlite(SMALL_UPLOADS, Metric::UploadsPerSecond),
            0.7,
        ),
    ];
    verdicts.extend([STATUS_IDLE, STATUS_LOADED].map(|form| {
        let goal = format!("{form}: p99 at most 1.5 × SQLite");
        at_most(goal, own(form, Metric::P99Ms), of_sqlite(form, Metric::P99Ms), 1.5)
    }));
    verdicts.push(bounded_of(numbers, LongshorePostgres, EVENTS, Metric::P50Ms, Bound::AtMost(20.0)));
    verdicts.push(at_least(
        format!("{ONE_UPLOAD}: MB/s at least 0.95 × SQLite"),
        own(ONE_UPLOAD, Metric::MbPerSecond),
        of_sqlite(ONE_UPLOAD, Metric::MbPerSecond),
        0.95,
    ));
    verdicts.push(at_most(
        format!("{ONE_UPLOAD}: CPU, with that of PostgreSQL, at most 1.05 × SQLite"),
        own(ONE_UPLOAD, Metric::AllCpuSecondsPerGb),
        of_sqlite(ONE_UPLOAD, Metric::CpuSecondsPerGb),
        1.05,
    ));
    let repeated = [
        (COMMITS, Metric::CommitsPerSecond),
        (SMALL_UPLOADS, Metric::UploadsPerSecond),
        (STATUS_IDLE, Metric::P99Ms),
        (STATUS_LOADED, Metric::P99Ms),
        (EVENTS, Metric::P50Ms),
        (ONE_UPLOAD, Metric::MbPerSecond),
        (ONE_UPLOAD, Metric::AllCpuSecondsPerGb),
    ];
    verdicts.extend(repeated.map(|(form, metric)| with_many_rows(numbers, form, metric)));
    verdicts
}

pub(super) fn cluster(numbers: Numbers<'_>) -> Vec<Verdict> {
    let limits = [
        (HEALTHY, Metric::P99Ms, 150.0),
        (SILENT, Metric::MaxMs, 1_500.0),
        (KILLED, Metric::MaxMs, 7_000.0),
        (CUT_OFF, Metric::MaxMs, 7_000.0),
    ];
    let mut verdicts: Vec<Verdict> = limits
        .map(|(form, metric, limit)| bounded_of(numbers, LongshorePostgres, form, metric, Bound::AtMost(limit)))
        .into();
    let rate = |form| numbers.median(LongshorePostgres, form, Metric::MbPerSecond);
    let goal = "limited lines: three nodes take at least 2.7 × one".to_owned();
    verdicts.push(at_least(goal, rate(CAPPED_ALL), rate(CAPPED_ONE), 2.7));
    verdicts.extend(limits.map(|(form, metric, _)| with_many_rows(numbers, form, metric)));
    verdicts
}

/// Evaluates whether many rows leave a number within the factor.
fn with_many_rows(numbers: Numbers<'_>, form: &str, metric: Metric) -> Verdict {
    let many = numbers.median(LongshorePostgres, &beside_many_rows(form), metric);
    let few = numbers.median(LongshorePostgres, form, metric);
    let form = beside_many_rows(form);
    if metric.more_is_better() == Some(true) {
        let goal = format!("{form}: {} at least 1 / {MANY_ROWS} of that without", metric.label());
        at_least(goal, many, few, 1.0 / MANY_ROWS)
    } else {
        at_most(format!("{form}: {} at most {MANY_ROWS} × that without", metric.label()), many, few, MANY_ROWS)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::machine::Machine;
    use crate::results::{Measured, Sample};

    fn measured(values: &[(&str, Metric, f64)]) -> Measured {
        let machine = Machine {
            processor: String::new(),
            cores: 2,
            memory_gib: 1.0,
            kernel: String::new(),
            file_system: String::new(),
            fsync_ms: 1.0,
        };
        let sample = |(variant, metric, value): &(&str, Metric, f64)| Sample {
            subject: LongshorePostgres,
            variant: (*variant).to_owned(),
            round: 1,
            values: BTreeMap::from([(*metric, *value)]),
            failure: None,
        };
        Measured {
            at: String::new(),
            rounds: 1,
            quick: false,
            machine,
            versions: BTreeMap::new(),
            commands: BTreeMap::new(),
            notes: Vec::new(),
            samples: values.iter().map(sample).collect(),
        }
    }

    fn met(form: &str, metric: Metric, without: f64, with: f64) -> Option<bool> {
        let many = beside_many_rows(form);
        with_many_rows(Numbers(&measured(&[(form, metric, without), (&many, metric, with)])), form, metric).met
    }

    #[test]
    fn many_rows_may_change_rates_and_times_by_the_factor_in_the_worse_direction_only() {
        assert_eq!(met(COMMITS, Metric::CommitsPerSecond, 3_000.0, 2_001.0), Some(true));
        assert_eq!(met(COMMITS, Metric::CommitsPerSecond, 3_000.0, 1_999.0), Some(false));
        assert_eq!(met(COMMITS, Metric::CommitsPerSecond, 3_000.0, 9_000.0), Some(true));
        assert_eq!(met(EVENTS, Metric::P50Ms, 10.0, 14.9), Some(true));
        assert_eq!(met(EVENTS, Metric::P50Ms, 10.0, 15.1), Some(false));
    }

    #[test]
    fn a_takeover_is_judged_by_its_kind() {
        let measured = measured(&[(HEALTHY, Metric::P99Ms, 151.0), (SILENT, Metric::MaxMs, 1_400.0)]);
        let verdicts = cluster(Numbers(&measured));
        let met: Vec<_> = verdicts.iter().map(|verdict| verdict.met).take(3).collect();
        assert_eq!(met, [Some(false), Some(true), None]);
    }
}
