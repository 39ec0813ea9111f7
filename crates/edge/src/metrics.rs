//! Metrics of connections and requests.
//!
//! Each request is counted, so counting takes no lock and allocates nothing: each combination of labels has
//! an entry in a table that is allocated in full at the start.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use actix_web::http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::listen::ListenerRole;
use crate::table::RouteLabel;

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const LISTENERS: [(ListenerRole, &str); 2] = [(ListenerRole::All, "listen"), (ListenerRole::Reading, "read_listen")];

/// The counters of the edge. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct EdgeMetrics(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Allocated once the routes are known.
    requests: OnceLock<Requests>,
    sent_bytes: AtomicU64,
    connections: [Arc<AtomicUsize>; LISTENERS.len()],
    streams: Arc<AtomicUsize>,
}

/// The number of requests by method, route and status class, in this order.
#[derive(Debug)]
struct Requests {
    routes: Vec<&'static str>,
    counts: Box<[AtomicU64]>,
}

impl Requests {
    fn of(routes: &[&'static str]) -> Self {
        let places = METHODS.len() * routes.len() * CLASSES.len();
        Self { routes: routes.to_vec(), counts: std::iter::repeat_with(AtomicU64::default).take(places).collect() }
    }

    fn count(&self, method: usize, route: usize, class: usize) {
        if let Some(count) = self.counts.get((method * self.routes.len() + route) * CLASSES.len() + class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn by_labels(&self) -> impl Iterator<Item = ([(&'static str, &'static str); 3], u64)> {
        let labels = METHODS.into_iter().flat_map(|method| {
            self.routes.iter().flat_map(move |route| {
                CLASSES.into_iter().map(move |class| [("method", method), ("route", *route), ("status", class)])
            })
        });
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        labels.zip(counts).filter(|(_, count)| *count > 0)
    }
}

impl EdgeMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// Allocates the counters for these routes. The index of a route is that of its [`RouteLabel`].
    pub(crate) fn add_routes(&self, routes: &[&'static str]) {
        self.0.requests.get_or_init(|| Requests::of(routes));
    }

    /// Counts an answered request.
    pub(crate) fn answered(&self, method: &str, route: RouteLabel, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        if let Some(requests) = self.0.requests.get() {
            requests.count(place_of_method(method), route.index, class);
        }
    }

    /// Counts bytes of a download that were passed to their connection.
    pub fn sent(&self, bytes: usize) {
        self.0.sent_bytes.fetch_add(u64::try_from(bytes).unwrap_or_default(), Ordering::Relaxed);
    }

    /// Returns the gauge of a listener's open connections, which the caller maintains.
    pub(crate) fn connections(&self, of: ListenerRole) -> Arc<AtomicUsize> {
        let [all, reading] = &self.0.connections;
        Arc::clone(match of {
            ListenerRole::All | ListenerRole::ReadNode => all,
            ListenerRole::Reading => reading,
        })
    }

    /// Returns the gauge of clients that wait for events, which the caller maintains.
    pub fn streams(&self) -> &Arc<AtomicUsize> {
        &self.0.streams
    }
}

impl Collector for EdgeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests answered, by method, route and status class.";
        let mut family = encoder.encode_descriptor("http_requests", help, None, MetricType::Counter)?;
        for (labels, count) in self.0.requests.get().into_iter().flat_map(Requests::by_labels) {
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        let help = "Open connections, by listener.";
        let mut family = encoder.encode_descriptor("http_connections", help, None, MetricType::Gauge)?;
        for ((_, listener), open) in LISTENERS.iter().zip(&self.0.connections) {
            gauge(open).encode(family.encode_family(&[("listener", *listener)])?)?;
        }
        let help = "Open event streams and waiting long polls.";
        gauge(&self.0.streams).encode(encoder.encode_descriptor(
            "http_event_streams",
            help,
            None,
            MetricType::Gauge,
        )?)?;
        let help = "Bytes of downloads passed to client connections.";
        let sent = ConstCounter::new(self.0.sent_bytes.load(Ordering::Relaxed));
        sent.encode(encoder.encode_descriptor("download_bytes_sent", help, None, MetricType::Counter)?)
    }
}

/// Returns the name of a method as one of a few short names, because clients can send any method.
pub(crate) fn method_name(method: &str) -> &'static str {
    METHODS[place_of_method(method)]
}

fn place_of_method(method: &str) -> usize {
    METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1)
}

fn gauge(count: &AtomicUsize) -> ConstGauge {
    ConstGauge::new(i64::try_from(count.load(Ordering::Relaxed)).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_its_place_and_nobody_else_counts_there() {
        const ROUTES: [&str; 3] = ["other", "/files", "/metrics"];
        let metrics = EdgeMetrics::default();
        metrics.add_routes(&ROUTES);
        let counted = || metrics.0.requests.get().unwrap().by_labels().collect::<Vec<_>>();
        let mut expected = Vec::new();
        for method in METHODS {
            for (index, name) in ROUTES.into_iter().enumerate() {
                for class in 1..=5 {
                    let status = StatusCode::from_u16(class * 100 + 4).unwrap();
                    metrics.answered(method, RouteLabel { index, name }, status);
                    let labels = [("method", method), ("route", name), ("status", CLASSES[usize::from(class) - 1])];
                    expected.push((labels, 1));
                }
            }
        }
        assert_eq!(counted(), expected);
        metrics.answered("BREW", RouteLabel { index: 1, name: "/files" }, StatusCode::from_u16(999).unwrap());
        let odd = [("method", "other"), ("route", "/files"), ("status", "5xx")];
        assert!(counted().contains(&(odd, 2)));
    }

    #[test]
    fn listeners_are_told_apart() {
        let metrics = EdgeMetrics::default();
        metrics.connections(ListenerRole::All).fetch_add(3, Ordering::Relaxed);
        metrics.connections(ListenerRole::Reading).fetch_add(2, Ordering::Relaxed);
        metrics.sent(5);
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        for line in [
            r#"http_connections{listener="listen"} 3"#,
            r#"http_connections{listener="read_listen"} 2"#,
            "http_event_streams 0",
            "download_bytes_sent_total 5",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }
}
