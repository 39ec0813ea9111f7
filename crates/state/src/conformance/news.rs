//! What every adapter of news promises to those it reaches.

use futures::FutureExt;

use super::new_upload;
use crate::News;

pub async fn a_change_rings_its_own_bell_and_the_common_one(news: &dyn News) {
    let [one, two] = [1, 2].map(|number| new_upload(number).id());
    let (mut first, mut second, mut other, mut all) =
        (news.of_upload(one), news.of_upload(one), news.of_upload(two), news.of_all());
    news.changed(one);
    first.rang().await;
    second.rang().await;
    all.rang().await;
    assert!(other.rang().now_or_never().is_none());
    assert!(first.rang().now_or_never().is_none(), "one change is told once");
}

/// Whoever makes the bell first and looks then misses nothing.
pub async fn a_change_before_the_waiting_is_not_missed(news: &dyn News) {
    let id = new_upload(1).id();
    news.changed(id);
    let (mut bell, mut all) = (news.of_upload(id), news.of_all());
    assert!(bell.rang().now_or_never().is_none() && all.rang().now_or_never().is_none(), "it was before");
    news.changed(id);
    assert!(bell.rang().now_or_never().is_some() && all.rang().now_or_never().is_some());
}
