//! Waiting for a condition. The functions here poll it, and panic after [`PATIENCE`].

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::Instant;

/// Longer than anything a test waits for on purpose, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Calls `ask` repeatedly until it returns a value.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    until_accepted(what, async || ask().await.ok_or("nothing so far")).await
}

/// Calls `ask` repeatedly until its value fits.
pub async fn until_fits<T: Debug>(what: &str, mut ask: impl AsyncFnMut() -> T, fits: impl Fn(&T) -> bool) -> T {
    let judge = async || {
        let answer = ask().await;
        if fits(&answer) { Ok(answer) } else { Err(answer) }
    };
    until_accepted(what, judge).await
}

async fn until_accepted<T, E: Debug>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let last = match ask().await {
            Ok(answer) => return answer,
            Err(last) => last,
        };
        assert!(Instant::now() < deadline, "waited in vain until {what}: {last:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
