//! A deadline that moves, mostly to a later time, for as long as its connection lives.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep};

/// The time by which something must have happened, if any is set.
///
/// Moving it is cheap: the timer is reset only when it fires before the current deadline.
pub(crate) struct Deadline {
    at: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    pub(crate) fn none() -> Self {
        Self { at: None, timer: None }
    }

    pub(crate) fn at(at: Instant) -> Self {
        Self { at: Some(at), timer: None }
    }

    pub(crate) fn set(&mut self, at: Instant) {
        self.at = Some(at);
    }

    pub(crate) fn clear(&mut self) {
        self.at = None;
    }

    pub(crate) fn is_set(&self) -> bool {
        self.at.is_some()
    }

    /// Ready once, when the deadline has passed. Until then, the task is woken at the deadline or earlier.
    pub(crate) fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= at {
                self.at = None;
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_passes_when_it_was_set_to_last() {
        let second = Duration::from_secs(1);
        let began = Instant::now();
        let mut deadline = Deadline::at(began + second);
        assert!(poll_fn(|cx| deadline.poll_passed(cx)).now_or_never().is_none());
        for (after, passes_after) in [(5, 5), (3, 3), (9, 9)] {
            deadline.set(Instant::now() + after * second);
            let set = Instant::now();
            poll_fn(|cx| deadline.poll_passed(cx)).await;
            assert_eq!(set.elapsed().as_secs(), passes_after);
        }
        assert!(poll_fn(|cx| deadline.poll_passed(cx)).now_or_never().is_none(), "it passes once");
        deadline.set(Instant::now() + second);
        deadline.clear();
        assert!(tokio::time::timeout(10 * second, poll_fn(|cx| deadline.poll_passed(cx))).await.is_err());
    }
}
