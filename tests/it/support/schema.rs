//! Checks event bodies against the published schemas, `docs/events/*.schema.json`.
//!
//! Supports the keywords of JSON Schema 2020-12 that those files use, and rejects any other.

use std::path::Path;

use serde_json::{Value, json};

/// Panics unless this body conforms to the schema of its type and has no field that the schema does not
/// describe.
pub fn check_event(body: &Value) {
    let kind = body["type"].as_str().expect("webhooks P1: a body has a type");
    let mut wrong = Vec::new();
    let own = file(&format!("{kind}.schema.json"));
    check(body, &own, &Value::Null, "", &mut wrong);
    let shared = if own.get("$ref").is_some() { file("event.schema.json") } else { own };
    all_described(body, &shared, "", &mut wrong);
    all_described(&body["data"], &shared["properties"]["data"], "/data", &mut wrong);
    assert!(wrong.is_empty(), "webhooks P4: a body is as its schema says: {wrong:#?}\n{body:#}");
}

/// Returns every type of upload event that a schema is published for.
pub fn published_upload_types() -> Vec<String> {
    published_types(|name| name.starts_with("upload."))
}

/// Returns every published type of event that does not concern an upload.
pub fn published_news_types() -> Vec<String> {
    published_types(|name| !["upload.", "hook."].iter().any(|kind| name.starts_with(kind)) && name.contains('.'))
}

fn published_types(wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let names = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let types = names.filter_map(|name| name.strip_suffix(".schema.json").map(str::to_owned));
    let mut types: Vec<String> = types.filter(|name| wanted(name)).collect();
    types.sort();
    types
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/events"))
}

fn file(name: &str) -> Value {
    let path = folder().join(name);
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{} is not published: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

fn all_described(value: &Value, schema: &Value, at: &str, wrong: &mut Vec<String>) {
    for name in value.as_object().unwrap().keys() {
        if schema["properties"].get(name).is_none() {
            wrong.push(format!("{at}/{name} is described nowhere"));
        }
    }
}

/// Validates a value. `root` is the file that contains `schema`, for references within it.
fn check(value: &Value, schema: &Value, root: &Value, at: &str, wrong: &mut Vec<String>) {
    let root = if root.is_null() { schema } else { root };
    for (keyword, rule) in schema.as_object().expect("a schema is an object") {
        let number = || rule.as_i64().unwrap();
        let holds = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let target = rule.as_str().unwrap();
                match target.strip_prefix('#') {
                    Some(pointer) => check(value, root.pointer(pointer).unwrap(), root, at, wrong),
                    None => check(value, &file(target), &Value::Null, at, wrong),
                }
                true
            }
            "anyOf" => rule.as_array().unwrap().iter().any(|schema| {
                let mut against = Vec::new();
                check(value, schema, root, at, &mut against);
                against.is_empty()
            }),
            "properties" => {
                for (name, schema) in rule.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        check(value, schema, root, &format!("{at}/{name}"), wrong);
                    }
                }
                true
            }
            "items" => {
                for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                    check(value, rule, root, &format!("{at}/{index}"), wrong);
                }
                true
            }
            "additionalProperties" => {
                let described = |name: &str| schema["properties"].get(name).is_some();
                for (name, value) in value.as_object().into_iter().flatten().filter(|(name, _)| !described(name)) {
                    check(value, rule, root, &format!("{at}/{name}"), wrong);
                }
                true
            }
            "required" => {
                !value.is_object()
                    || rule.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some())
            }
            "type" => match rule {
                Value::Array(names) => names.iter().any(|name| is_a(value, name.as_str().unwrap())),
                name => is_a(value, name.as_str().unwrap()),
            },
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_i64().is_none_or(|value| value >= number()),
            "maximum" => value.as_i64().is_none_or(|value| value <= number()),
            "minLength" => value.as_str().is_none_or(|text| text.len() as i64 >= number()),
            "maxLength" => value.as_str().is_none_or(|text| text.len() as i64 <= number()),
            "maxProperties" => value.as_object().is_none_or(|object| object.len() as i64 <= number()),
            "format" => match rule.as_str().unwrap() {
                "date-time" => value.as_str().is_none_or(|text| text.parse::<jiff::Timestamp>().is_ok()),
                "uuid" => value.as_str().is_none_or(|text| text.parse::<uuid::Uuid>().is_ok()),
                "uri-reference" => value.as_str().is_none_or(|text| base().join(text).is_ok()),
                other => panic!("the format {other} is not known here"),
            },
            other => panic!("the keyword {other} is not known here"),
        };
        if !holds {
            wrong.push(format!("{at}: {value} against {}", json!({ keyword: rule })));
        }
    }
}

/// Returns the URL that references are relative to.
fn base() -> reqwest::Url {
    "http://server.example".parse().unwrap()
}

fn is_a(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        other => panic!("the type {other} is not known here"),
    }
}
