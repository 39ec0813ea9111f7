//! Bar plots, as handwritten SVG: there is nothing to install, and a diff shows the changes.
//!
//! The colors are those of Okabe and Ito, which people with any kind of color vision can distinguish; every
//! bar is labeled as well. A thin line shows the range from the smallest to the largest round.

use std::fmt::Write;

use crate::report::numbers::Numbers;
use crate::results::Metric;
use crate::scenario::records;
use crate::stats::Spread;
use crate::subject::Subject;
use crate::words::figure;

const WIDTH: f64 = 820.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 48.0;
const BAR: f64 = 20.0;
const GAP: f64 = 6.0;
const GROUP: f64 = 26.0;

/// A group of bars.
struct Group {
    heading: String,
    bars: Vec<(String, Subject, Spread)>,
}

/// Returns a plot, or `None` if no subject has this number.
pub(crate) fn bars(title: &str, numbers: Numbers<'_>, metric: Metric) -> Option<String> {
    let mut groups: Vec<Group> = Vec::new();
    for variant in numbers.variants() {
        for subject in numbers.subjects(variant) {
            let Some(spread) = numbers.spread(subject, variant, metric) else { continue };
            // Records are compared with fewer records, everything else with other servers.
            let (heading, label) = match records::parts(variant) {
                Some((count, question)) => (question, format!("{count} records")),
                None => (variant, subject.label().to_owned()),
            };
            match groups.iter_mut().find(|group| group.heading == heading) {
                Some(group) => group.bars.push((label, subject, spread)),
                None => groups.push(Group { heading: heading.to_owned(), bars: vec![(label, subject, spread)] }),
            }
        }
    }
    let largest = groups.iter().flat_map(|group| &group.bars).map(|(_, _, spread)| spread.max).fold(0.0, f64::max);
    (largest > 0.0).then(|| draw(title, metric, &groups, largest))
}

fn draw(title: &str, metric: Metric, groups: &[Group], largest: f64) -> String {
    let scale = (WIDTH - LEFT - RIGHT) / largest;
    let mut body = String::new();
    let mut y = TOP;
    for group in groups {
        if !group.heading.is_empty() {
            text(&mut body, 12.0, y + 14.0, "start", "bold", &group.heading);
            y += GROUP;
        }
        let top = y;
        for (label, subject, spread) in &group.bars {
            bar(&mut body, y, scale, label, *subject, *spread);
            y += BAR + GAP;
        }
        put(
            &mut body,
            format_args!("<line x1=\"{LEFT}\" y1=\"{top}\" x2=\"{LEFT}\" y2=\"{:.0}\" stroke=\"#444444\"/>\n", y - GAP),
        );
        y += GAP;
    }
    let better = match metric.more_is_better() {
        Some(true) => ", more is better",
        Some(false) => ", less is better",
        None => "",
    };
    let heading = format!("{title}: {}{better}", metric.label());
    let mut out = String::new();
    put(
        &mut out,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" viewBox=\"0 0 {WIDTH} {y}\" \
             font-family=\"sans-serif\" font-size=\"13\" role=\"img\" aria-label=\"{}\">\n\
             <rect width=\"{WIDTH}\" height=\"{y}\" fill=\"#ffffff\"/>\n",
            escape(&heading)
        ),
    );
    text(&mut out, 12.0, 26.0, "start", "bold", &heading);
    out + &body + "</svg>\n"
}

fn bar(out: &mut String, y: f64, scale: f64, label: &str, subject: Subject, spread: Spread) {
    let middle = y + BAR / 2.0;
    let length = spread.median * scale;
    text(out, LEFT - 8.0, middle + 4.5, "end", "normal", label);
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
        Subject::LongshoreBefore => "#999999",
        Subject::LongshorePostgres => "#d55e00",
        Subject::Tusd => "#e69f00",
        Subject::TusNode => "#009e73",
        Subject::Rustus => "#cc79a7",
        Subject::Sink => "#bbbbbb",
        Subject::Bare => "#777777",
    }
}
