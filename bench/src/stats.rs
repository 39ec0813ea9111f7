//! Medians and percentiles of measurements.

use std::time::Duration;

/// The minimum, the median and the maximum of some numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Returns `None` if there are no numbers.
    pub(crate) fn of(numbers: &[f64]) -> Option<Self> {
        let mut sorted = numbers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { median, min, max })
    }
}

/// Times of single requests.
#[derive(Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns, in milliseconds, the time that `per_mille` of a thousand requests did not exceed, or zero
    /// without requests.
    pub(crate) fn quantile_ms(&mut self, per_mille: usize) -> f64 {
        self.0.sort_unstable();
        let rank = (self.0.len() * per_mille).div_ceil(1000).max(1);
        self.0.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_quantile_is_a_time_that_was_measured() {
        let mut times = Times::default();
        for ms in (1..=1000).rev() {
            times.add(Duration::from_millis(ms));
        }
        assert_eq!(times.quantile_ms(500), 500.0);
        assert_eq!(times.quantile_ms(990), 990.0);
        assert_eq!(times.quantile_ms(999), 999.0);
        assert_eq!(Times::default().quantile_ms(990), 0.0);
    }
}
