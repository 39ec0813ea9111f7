//! Limits for one endpoint: a token bucket, and slots that are reduced while its proxy reports trouble. Pure:
//! instants are arguments.

use std::time::Duration;

use tokio::time::Instant;

/// A token bucket that fills at a constant rate. Its size is what arrives in a tenth of a second, so that no
/// second sees much more than its share.
#[derive(Debug, Clone, Default)]
pub(crate) struct TokenBucket {
    tokens: f64,
    filled_at: Option<Instant>,
}

impl TokenBucket {
    /// Returns the number of attempts that may begin now.
    pub(crate) fn tokens(&mut self, per_second: f64, now: Instant) -> u32 {
        let room = (per_second / 10.0).max(1.0);
        self.tokens = match self.filled_at {
            None => room,
            Some(before) => {
                let came = now.saturating_duration_since(before).as_secs_f64() * per_second;
                (self.tokens + came).min(room)
            }
        };
        self.filled_at = Some(now);
        whole(self.tokens)
    }

    /// Takes the token of one attempt.
    pub(crate) fn take(&mut self) {
        self.tokens = (self.tokens - 1.0).max(0.0);
    }

    /// Returns the time until the next attempt may begin, from the last call of [`Self::tokens`].
    pub(crate) fn until_next(&self, per_second: f64) -> Duration {
        let missing = (1.0 - self.tokens).max(0.0);
        Duration::try_from_secs_f64(missing / per_second).unwrap_or(Duration::MAX)
    }
}

fn whole(tokens: f64) -> u32 {
    // A token that is short only by a rounding error counts as whole.
    let whole = (tokens + 1e-9).floor();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is at most a tenth of a rate")]
    let count = whole as u32;
    count
}

/// Halves the slots of an endpoint each time its proxy cannot reach it, until an attempt succeeds
/// (webhooks R5).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Throttle {
    halvings: u32,
}

impl Throttle {
    /// Returns the number of slots that remain of `slots`, at least one.
    pub(crate) fn of(self, slots: u32) -> u32 {
        slots.checked_shr(self.halvings).unwrap_or(0).max(1)
    }

    pub(crate) fn tighten(&mut self) {
        self.halvings = (self.halvings + 1).min(32);
    }

    pub(crate) fn release(&mut self) {
        self.halvings = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// webhooks E7.
    #[test]
    fn no_second_has_much_more_than_its_share() {
        for rate in [1_u32, 3, 10, 200, 10_000] {
            let (mut bucket, begin) = (TokenBucket::default(), Instant::now());
            let mut begun = 0;
            let mut in_first_second = 0;
            for step_ms in 0..5_000_u64 {
                let now = begin + Duration::from_millis(step_ms);
                for _ in 0..bucket.tokens(f64::from(rate), now) {
                    bucket.take();
                    begun += 1;
                }
                if step_ms == 999 {
                    in_first_second = begun;
                }
            }
            let most = rate + rate.div_ceil(10);
            assert!((rate..=most).contains(&in_first_second), "{in_first_second} at {rate} per second");
            assert!((5 * rate - 1..=5 * rate + rate.div_ceil(10)).contains(&begun), "{begun} at {rate} per second");
        }
    }

    #[test]
    fn an_empty_bucket_says_when_it_has_a_token_again() {
        let (mut bucket, now) = (TokenBucket::default(), Instant::now());
        assert_eq!(bucket.tokens(4.0, now), 1);
        bucket.take();
        assert_eq!(bucket.until_next(4.0), Duration::from_millis(250));
        assert_eq!(bucket.tokens(4.0, now + Duration::from_millis(249)), 0);
        assert_eq!(bucket.tokens(4.0, now + Duration::from_millis(250)), 1);
        assert_eq!(bucket.until_next(4.0), Duration::ZERO);
    }

    #[test]
    fn trouble_halves_the_slots_and_a_success_gives_them_back() {
        let mut throttle = Throttle::default();
        let mut left = Vec::new();
        for _ in 0..6 {
            left.push(throttle.of(16));
            throttle.tighten();
        }
        assert_eq!(left, [16, 8, 4, 2, 1, 1]);
        for _ in 0..100 {
            throttle.tighten();
        }
        assert_eq!(throttle.of(u32::MAX), 1);
        throttle.release();
        assert_eq!(throttle.of(16), 16);
    }
}
