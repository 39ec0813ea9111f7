//! `/metrics`, in the requested format: OpenMetrics 1.0, or the text format of Prometheus (0.0.4).

use std::fmt;
use std::sync::Arc;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use prometheus_client::registry::Registry;

use crate::front::HealthApi;
use edge::problem::Problem;
use edge::table::RoutedRequest;

/// Format of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    OpenMetrics,
}

/// `GET /metrics`
pub(super) async fn metrics(call: RoutedRequest, shared: Arc<HealthApi>) -> Result<HttpResponse, Problem> {
    let accepted = call.request.headers().get_all(header::ACCEPT).filter_map(|value| value.to_str().ok());
    let format = Format::wanted(accepted);
    let (registry, engine) = (Arc::clone(&shared.registry), shared.engine.clone());
    // Some values are measured now: the disk, and the kernel's facts about the process.
    let rendered = web::block(move || {
        if let Err(error) = engine.disk() {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not measure the free disk space");
        }
        format.render(&registry)
    });
    let rendered = rendered.await;
    Ok(match rendered {
        Ok(Ok(text)) => HttpResponse::Ok()
            .content_type(format.content_type())
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .body(text),
        Ok(Err(fmt::Error)) | Err(_) => HttpResponse::InternalServerError().finish(),
    })
}

impl Format {
    /// Returns the format with the greater weight (RFC 9110, 12.5.1). A client that names neither gets the
    /// text format, which all clients read.
    fn wanted<'a>(accepted: impl Iterator<Item = &'a str>) -> Self {
        let (mut text, mut open_metrics) = (0, 0);
        for range in accepted.flat_map(|line| line.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let (mut weight, mut version) = (1_000, None);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => weight = thousandths(value.trim()),
                    "version" => version = Some(value.trim()),
                    _ => {}
                }
            }
            let is_spoken = matches!(version, None | Some("1.0.0" | "0.0.1"));
            if kind.eq_ignore_ascii_case("application/openmetrics-text") && is_spoken {
                open_metrics = open_metrics.max(weight);
            } else if kind.eq_ignore_ascii_case("text/plain") {
                text = text.max(weight);
            }
        }
        if open_metrics > 0 && open_metrics >= text { Self::OpenMetrics } else { Self::Text }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    fn render(self, registry: &Registry) -> Result<String, fmt::Error> {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, registry)?;
        Ok(match self {
            Self::OpenMetrics => page,
            Self::Text => to_text(&page),
        })
    }
}

/// Parses a weight between 0 and 1, in thousandths. An unreadable weight is zero.
fn thousandths(weight: &str) -> u32 {
    let (whole, fraction) = weight.split_once('.').unwrap_or((weight, ""));
    let digits = format!("{fraction:0<3}");
    let read = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u32>().ok()).flatten();
    match (read(whole), digits.get(..3).and_then(read)) {
        (Some(whole), Some(fraction)) => (whole.saturating_mul(1_000) + fraction).min(1_000),
        _ => 0,
    }
}

/// Converts the OpenMetrics format to the text format. OpenMetrics has separate names for families, and the
/// samples of some kinds have a suffix; the text format uses the name of the samples for both. Units and the
/// end marker are omitted.
fn to_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some(named) = line.strip_prefix("# HELP ") {
            help = named.split_once(' ');
            continue;
        }
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' ')) else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let (suffix, kind) = match kind {
            "counter" => ("_total", "counter"),
            "info" => ("_info", "gauge"),
            "unknown" => ("", "untyped"),
            other => ("", other),
        };
        if let Some((_, help)) = help.take().filter(|(described, _)| *described == name) {
            text.push_str(&format!("# HELP {name}{suffix} {help}\n"));
        }
        text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::metrics::info::Info;
    use prometheus_client::registry::Unit;

    use super::*;

    #[test]
    fn open_metrics_is_for_those_who_ask_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,*/*;q=0.1";
        for (accept, expected) in [
            (&[][..], Format::Text),
            (&["*/*"], Format::Text),
            (&["text/plain"], Format::Text),
            (&["text/html, */*;q=0.8"], Format::Text),
            (&["application/openmetrics-text"], Format::OpenMetrics),
            (&["Application/OpenMetrics-Text; version=1.0.0; charset=utf-8"], Format::OpenMetrics),
            (&["text/plain;q=0.5", "application/openmetrics-text;q=0.6"], Format::OpenMetrics),
            (&["text/plain;q=0.7, application/openmetrics-text;q=0.6"], Format::Text),
            (&["application/openmetrics-text;q=0"], Format::Text),
            (&["application/openmetrics-text;version=2.0.0"], Format::Text),
            (&["application/openmetrics-text;q=much"], Format::Text),
            (&[prometheus], Format::OpenMetrics),
        ] {
            assert_eq!(Format::wanted(accept.iter().copied()), expected, "{accept:?}");
        }
    }

    #[test]
    fn weights_are_read_in_thousandths() {
        for (weight, expected) in
            [("1", 1_000), ("0.5", 500), ("0.25", 250), ("0.1239", 123), ("1.5", 1_000), ("0", 0), ("", 0), ("-1", 0)]
        {
            assert_eq!(thousandths(weight), expected, "{weight}");
        }
    }

    #[test]
    fn the_text_format_calls_families_as_their_samples() {
        let mut registry = Registry::with_prefix("a");
        let counter: Counter = Counter::default();
        counter.inc();
        registry.register("things", "Things", counter);
        let histogram = Histogram::new([1.0]);
        histogram.observe(0.5);
        registry.register_with_unit("wait", "Waits", Unit::Seconds, histogram);
        registry.register("build", "What runs", Info::new(vec![("version", "1")]));
        let expected = "\
# HELP a_things_total Things.
# TYPE a_things_total counter
a_things_total 1
# HELP a_wait_seconds Waits.
# TYPE a_wait_seconds histogram
a_wait_seconds_sum 0.5
a_wait_seconds_count 1
a_wait_seconds_bucket{le=\"1.0\"} 1
a_wait_seconds_bucket{le=\"+Inf\"} 1
# HELP a_build_info What runs.
# TYPE a_build_info gauge
a_build_info{version=\"1\"} 1
";
        assert_eq!(Format::Text.render(&registry).unwrap(), expected);
        assert!(Format::OpenMetrics.render(&registry).unwrap().ends_with("# EOF\n"));
    }
}
