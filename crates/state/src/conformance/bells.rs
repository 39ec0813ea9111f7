//! Guarantees of every adapter of [`Bells`].

use futures::FutureExt;

use super::new_upload;
use crate::Bells;

pub async fn a_change_rings_its_own_bell_and_the_common_one(bells: &dyn Bells) {
    let [one, two] = [1, 2].map(|number| new_upload(number).id());
    let (mut first, mut second, mut other, mut all) =
        (bells.of_upload(one), bells.of_upload(one), bells.of_upload(two), bells.of_all());
    bells.changed(one);
    first.rung().await;
    second.rung().await;
    all.rung().await;
    assert!(other.rung().now_or_never().is_none());
    assert!(first.rung().now_or_never().is_none(), "one change rings once");
}

/// A task that makes the bell before it reads the state misses no change.
pub async fn a_change_before_the_waiting_is_not_missed(bells: &dyn Bells) {
    let id = new_upload(1).id();
    bells.changed(id);
    let (mut bell, mut all) = (bells.of_upload(id), bells.of_all());
    assert!(bell.rung().now_or_never().is_none() && all.rung().now_or_never().is_none(), "it was before");
    bells.changed(id);
    assert!(bell.rung().now_or_never().is_some() && all.rung().now_or_never().is_some());
}
