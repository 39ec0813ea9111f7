//! Requests that were answered with a problem: all are counted by problem code, and rejections are logged in
//! samples.
//!
//! A log line states the client, the route and the reason, with the request's id. It contains no token, no
//! query and no file name. There are few codes, but some come from records and applications, so the number of
//! distinct codes is limited.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use actix_web::http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::lock::lock;
use crate::problem::ProblemCode;
use crate::refusals::{LogSampler, Sampled};

/// The number of distinct codes; further codes are counted as one.
const MOST_CODES: usize = 100;

const OTHER: &str = "other";

/// A request that was answered with a problem.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RejectedRequest<'a> {
    pub(crate) status: StatusCode,
    pub(crate) method: &'a str,
    pub(crate) route: &'static str,
    pub(crate) client: Option<IpAddr>,
    pub(crate) request: &'a str,
}

/// Counts and logs problems. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Rejections(Arc<Mutex<BTreeMap<Cow<'static, str>, CodeCounts>>>);

#[derive(Debug, Default)]
struct CodeCounts {
    count: u64,
    sample: LogSampler,
    /// A counter outside this module that also counts this code.
    counter: Option<Counter>,
}

impl Rejections {
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// Also counts the problems of one code in `counter`.
    pub fn count_in(&self, code: &'static str, counter: Counter) {
        let mut all = lock(&self.0);
        all.entry(Cow::Borrowed(code)).or_default().counter = Some(counter);
    }

    /// Counts a response with a problem, and logs it if it is a rejection and in the sample.
    pub(crate) fn note(&self, ProblemCode(code): ProblemCode, rejected: &RejectedRequest<'_>) {
        let admitted = self.count(code.clone(), is_rejection(rejected.status), Instant::now());
        let Some(Sampled { suppressed, is_last }) = admitted else { return };
        let RejectedRequest { status, method, route, client, request } = *rejected;
        if suppressed > 0 {
            tracing::info!(
                code = &*code,
                suppressed,
                "some requests rejected for this reason were counted but not logged"
            );
        }
        let client = client.map(tracing::field::display);
        let status = status.as_u16();
        tracing::info!(code = &*code, status, method, route, client, request, "rejected a request");
        if is_last {
            tracing::info!(
                code = &*code,
                "further rejections for this reason are counted but not logged for up to a minute"
            );
        }
    }

    fn count(&self, code: Cow<'static, str>, is_logged: bool, now: Instant) -> Option<Sampled> {
        let mut all = lock(&self.0);
        let is_known = all.len() < MOST_CODES || all.contains_key(&code);
        let noted = all.entry(if is_known { code } else { Cow::Borrowed(OTHER) }).or_default();
        noted.count += 1;
        if let Some(counter) = &noted.counter {
            counter.inc();
        }
        if is_logged { noted.sample.admit(now) } else { None }
    }
}

/// Returns whether a status means that the client or the content of its request is rejected. Statuses that
/// belong to the normal course of an upload, such as a conflict of offsets or an upload that is gone, do not
/// count.
fn is_rejection(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400..=403 | 413 | 415 | 421 | 422 | 429 | 431 | 451 | 460 | 507)
}

impl Collector for Rejections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = lock(&self.0);
        let help = "Requests answered with a problem, by problem code.";
        let mut family = encoder.encode_descriptor("http_problems", help, None, MetricType::Counter)?;
        for (code, noted) in all.iter().filter(|(_, noted)| noted.count > 0) {
            ConstCounter::new(noted.count).encode(family.encode_family(&[("code", &**code)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_counted_and_codes_are_bounded() {
        let rejections = Rejections::default();
        let now = Instant::now();
        for code in 0..MOST_CODES + 7 {
            rejections.count(format!("code-{code}").into(), true, now);
        }
        rejections.count("code-0".into(), true, now);
        let noted = rejections.0.lock().unwrap();
        assert_eq!((noted.len(), noted["code-0"].count, noted[OTHER].count), (MOST_CODES + 1, 2, 7));
    }

    #[test]
    fn a_flood_of_one_kind_is_summarised_and_hides_no_other() {
        let rejections = Rejections::default();
        let now = Instant::now();
        let logged = (0..1_000).filter_map(|_| rejections.count("unauthorized".into(), true, now)).collect::<Vec<_>>();
        assert!(logged.len() < 200, "{}", logged.len());
        assert!(logged.last().is_some_and(|last| last.is_last));
        assert!(rejections.count("no-space".into(), true, now).is_some());
        let later = rejections.count("unauthorized".into(), true, now + std::time::Duration::from_secs(61)).unwrap();
        assert_eq!(later.suppressed, 1_000 - u64::try_from(logged.len()).unwrap());
    }

    #[test]
    fn what_belongs_to_the_course_of_an_upload_is_counted_and_not_logged() {
        for (status, expected) in
            [(401, true), (403, true), (421, true), (507, true), (404, false), (409, false), (503, false)]
        {
            assert_eq!(is_rejection(StatusCode::from_u16(status).unwrap()), expected, "{status}");
        }
        let rejections = Rejections::default();
        assert_eq!(rejections.count("wrong-offset".into(), false, Instant::now()), None);
        assert_eq!(rejections.0.lock().unwrap()["wrong-offset"].count, 1);
    }

    #[test]
    fn the_problems_of_one_code_are_counted_elsewhere_too() {
        let (rejections, counter) = (Rejections::default(), Counter::default());
        rejections.count_in("no-space", counter.clone());
        for code in ["no-space", "busy", "no-space"] {
            rejections.count(code.into(), true, Instant::now());
        }
        assert_eq!(counter.get(), 2);
    }
}
