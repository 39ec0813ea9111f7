//! Formats of numbers in text.

/// Formats a number with three significant digits; a count with all of its digits.
pub(crate) fn figure(value: f64) -> String {
    let digits = match value.abs() {
        _ if value.fract() == 0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    match text.split_once('.') {
        None => thousands(&text),
        Some(_) => text,
    }
}

fn thousands(text: &str) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    format!("{sign}{out}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_readable() {
        let figures = [0.123_45, 1.005, 5.0, 12.34, 999.6, 1_234_567.0, -1500.0].map(figure);
        assert_eq!(figures, ["0.123", "1.00", "5", "12.3", "1,000", "1,234,567", "-1,500"]);
    }
}
