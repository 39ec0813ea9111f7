//! Bar plots, written as SVG by hand: nothing to install, and a diff shows what changed.
//!
//! Colours are those of Okabe and Ito, which people with any kind of colour vision can tell apart; every bar is labelled
//! as well. A thin line shows the range from the smallest to the largest round.

use std::fmt::Write;

use crate::report::numbers::Numbers;
use crate::report::words::figure;
use crate::results::Metric;
use crate::stats::Spread;
use crate::subject::Subject;

const WIDTH: f64 = 820.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 48.0;
const BAR: f64 = 20.0;
const GAP: f64 = 6.0;
const GROUP: f64 = 26.0;

/// Nothing, when nobody has this number.
pub(crate) fn bars(title: &str, numbers: Numbers<'_>, metric: Metric) -> Option<String> {
    let mut rows = Vec::new();
    for variant in numbers.variants() {
        let of_variant = numbers.subjects(variant).into_iter();
        let found: Vec<_> =
            of_variant.filter_map(|subject| Some((subject, numbers.spread(subject, variant, metric)?))).collect();
        if !found.is_empty() {
            rows.push((variant, found));
        }
    }
    let largest = rows.iter().flat_map(|(_, found)| found).map(|(_, spread)| spread.max).fold(0.0, f64::max);
    (largest > 0.0).then(|| draw(title, metric, &rows, largest))
}

fn draw(title: &str, metric: Metric, rows: &[(&str, Vec<(Subject, Spread)>)], largest: f64) -> String {
    let scale = (WIDTH - LEFT - RIGHT) / largest;
    let mut body = String::new();
    let mut y = TOP;
    for (variant, found) in rows {
        if !variant.is_empty() {
            text(&mut body, 12.0, y + 14.0, "start", "bold", variant);
            y += GROUP;
        }
        for (subject, spread) in found {
            bar(&mut body, y, scale, *subject, *spread);
            y += BAR + GAP;
        }
        y += GAP;
    }
    let better = match metric.more_is_better() {
        Some(true) => ", more is better",
        Some(false) => ", less is better",
        None => "",
    };
    let mut out = String::new();
    let height = y + 6.0;
    let heading = format!("{title}: {}{better}", metric.label());
    put(
        &mut out,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"13\" role=\"img\" aria-label=\"{}\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n",
            escape(&heading)
        ),
    );
    text(&mut out, 12.0, 26.0, "start", "bold", &heading);
    put(
        &mut out,
        format_args!(
            "<line x1=\"{LEFT}\" y1=\"{:.0}\" x2=\"{LEFT}\" y2=\"{:.0}\" stroke=\"#444444\"/>\n",
            TOP - 6.0,
            height - 6.0
        ),
    );
    out + &body + "</svg>\n"
}

fn bar(out: &mut String, y: f64, scale: f64, subject: Subject, spread: Spread) {
    let middle = y + BAR / 2.0;
    let length = spread.median * scale;
    text(out, LEFT - 8.0, middle + 4.5, "end", "normal", subject.label());
    put(
        out,
        format_args!(
            "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{}\"/>\n",
            colour(subject)
        ),
    );
    let (from, to) = (LEFT + spread.min * scale, LEFT + spread.max * scale);
    if to - from > 1.0 {
        put(
            out,
            format_args!(
                "<path d=\"M{from:.1} {middle}H{to:.1}M{from:.1} {0}v8M{to:.1} {0}v8\" stroke=\"#222222\" stroke-width=\"1.5\"/>\n",
                middle - 4.0
            ),
        );
    }
    text(out, LEFT + length.max(spread.max * scale) + 8.0, middle + 4.5, "start", "normal", &figure(spread.median));
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, weight: &str, what: &str) {
    put(
        out,
        format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-weight=\"{weight}\" fill=\"#222222\">{}</text>\n",
            escape(what)
        ),
    );
}

fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("a string takes everything");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

fn colour(subject: Subject) -> &'static str {
    match subject {
        Subject::Longshore => "#0072b2",
        Subject::LongshoreRelaxed => "#56b4e9",
        Subject::Tusd => "#e69f00",
        Subject::TusNode => "#009e73",
        Subject::Rustus => "#cc79a7",
        Subject::Sink => "#bbbbbb",
        Subject::Bare => "#777777",
    }
}
