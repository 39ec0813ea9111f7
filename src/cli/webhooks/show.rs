//! Answers of the API as people read them.

use serde_json::Value;

use crate::terminal::escaped;

pub(super) fn pretty(answer: &Value) -> String {
    format!("{answer:#}\n")
}

/// Lists as tables, single things as lines of names and values.
pub(super) fn readable(answer: &Value) -> String {
    if answer.is_null() {
        return "done\n".to_owned();
    }
    if let Some(endpoints) = answer["endpoints"].as_array() {
        return table(
            "no endpoints",
            endpoints,
            &["NAME", "STATE", "URL", "EVENTS", "WAITING", "FAILING SINCE"],
            |it| {
                vec![
                    word(&it["id"]),
                    state(it),
                    word(&it["url"]),
                    words(&it["events"]),
                    backlog(&it["backlog"]),
                    word(&it["health"]["failing_since"]),
                ]
            },
        );
    }
    if let Some(deliveries) = answer["deliveries"].as_array() {
        let header = &["DELIVERY", "EVENT", "UPLOAD", "ENDPOINT", "STATE", "ATTEMPTS", "LAST RESULT"];
        let page = table("no deliveries", deliveries, header, |it| {
            let attempts = it["attempts"].as_array().map_or(&[][..], Vec::as_slice);
            vec![
                word(&it["id"]),
                word(&it["type"]),
                word(&it["upload_id"]),
                word(&it["endpoint"]),
                word(&it["state"]),
                attempts.len().to_string(),
                attempts.last().map(result).unwrap_or_default(),
            ]
        });
        return match answer["next"].as_str() {
            Some(_) => format!("{page}older ones: --cursor {}\n", word(&answer["next"])),
            None => page,
        };
    }
    if let Some(jobs) = answer["replays"].as_array() {
        return table("no replays", jobs, &["JOB", "ENDPOINT", "WHAT", "STATE", "QUEUED", "CREATED"], |it| {
            ["id", "endpoint", "what", "state", "queued", "created_at"].map(|name| word(&it[name])).to_vec()
        });
    }
    let mut lines = String::new();
    tell(&mut lines, answer, 0);
    lines
}

/// What waits; it is not counted to its end.
fn backlog(backlog: &Value) -> String {
    let more = if backlog["has_more"] == true { "+" } else { "" };
    format!("{}{more}", word(&backlog["total"]))
}

fn state(endpoint: &Value) -> String {
    match endpoint["state_reason"].as_str() {
        Some(reason) => format!("{} ({reason})", word(&endpoint["state"])),
        None => word(&endpoint["state"]),
    }
}

fn result(attempt: &Value) -> String {
    let result = if attempt["status"].is_null() { &attempt["error"] } else { &attempt["status"] };
    let duration = word(&attempt["duration_ms"]);
    format!("{} in {duration} ms", word(result))
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => escaped(text).into_owned(),
        other => other.to_string(),
    }
}

fn words(list: &Value) -> String {
    list.as_array().map(|items| items.iter().map(word).collect::<Vec<_>>().join(",")).unwrap_or_default()
}

fn table(nothing: &str, rows: &[Value], header: &[&str], cells: impl Fn(&Value) -> Vec<String>) -> String {
    if rows.is_empty() {
        return format!("{nothing}\n");
    }
    let header = header.iter().map(|title| (*title).to_owned()).collect();
    let lines: Vec<Vec<String>> = [header].into_iter().chain(rows.iter().map(cells)).collect();
    let columns = lines[0].len();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let padded = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Names and values, what lies deeper indented.
fn tell(lines: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::Object(inner) if !inner.is_empty() => {
                        lines.push_str(&format!("{indent}{}:\n", escaped(name)));
                        tell(lines, value, depth + 1);
                    }
                    Value::Array(items) if items.iter().any(Value::is_object) => {
                        lines.push_str(&format!("{indent}{}:\n", escaped(name)));
                        for (number, item) in items.iter().enumerate() {
                            lines.push_str(&format!("{indent}  {}.\n", number + 1));
                            tell(lines, item, depth + 2);
                        }
                    }
                    Value::Array(_) => lines.push_str(&format!("{indent}{}: {}\n", escaped(name), words(value))),
                    other => lines.push_str(&format!("{indent}{}: {}\n", escaped(name), word(other))),
                }
            }
        }
        other => lines.push_str(&format!("{indent}{}\n", word(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    #[test]
    fn lists_line_up() {
        let answer = json!({ "endpoints": [
            { "id": "backend", "state": "enabled", "url": "https://a/b", "events": ["upload.*"], "backlog": { "total": 3 },
              "health": { "failing_since": null } },
            { "id": "x", "state": "disabled", "state_reason": "gone", "url": "u", "events": ["a", "b"],
              "backlog": { "total": 100_000, "has_more": true }, "health": { "failing_since": "2026-11-21T22:31:30Z" } },
        ] });
        let expected = "\
NAME     STATE            URL          EVENTS    WAITING  FAILING SINCE
backend  enabled          https://a/b  upload.*  3        -
x        disabled (gone)  u            a,b       100000+  2026-11-21T22:31:30Z
";
        assert_eq!(readable(&answer), expected);
        assert_eq!(readable(&json!({ "deliveries": [] })), "no deliveries\n");
        let page = readable(&json!({ "deliveries": [{ "id": "d" }], "next": "deliveries_d" }));
        assert_eq!(page.lines().last(), Some("older ones: --cursor deliveries_d"));
    }

    /// What a receiver answered must not move the cursor of a terminal.
    #[test]
    fn nothing_printed_controls_the_terminal() {
        let answer =
            json!({ "id": "d", "attempts": [{ "status": 200, "response_body": "a\u{1b}[2Jb\nid: e", "\u{202e}": 1 }] });
        assert_eq!(
            readable(&answer),
            "id: d\nattempts:\n  1.\n    status: 200\n    response_body: a\\u001b[2Jb\\u000aid: e\n    \\u202e: 1\n"
        );
    }
}
