//! The JSON Schemas of events, from `docs/events`, built into the program.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::http::header::{HeaderMap, HeaderValue};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::front::UploadApi;
use edge::conditions;
use edge::problem::Problem;
use edge::table::RoutedRequest;

/// The schemas change only with the program.
const CACHE: HeaderValue = HeaderValue::from_static("max-age=3600");

/// Name of the schema that others refer to. No event has this type.
const COMMON: &str = "event";

macro_rules! schemas {
    ($($name:literal,)*) => {
        /// Schemas by name, which is the type of the events.
        const SCHEMAS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../docs/events/", $name, ".schema.json")))),*];
    };
}

schemas! {
    "event",
    "upload.created",
    "upload.receiving",
    "upload.progress",
    "upload.stalled",
    "upload.resumed",
    "upload.received",
    "upload.verified",
    "upload.stored",
    "upload.completed",
    "upload.failed",
    "upload.expired",
    "upload.terminated",
    "upload.removed",
    "upload.processing",
    "webhook.ping",
    "delivery.exhausted",
    "endpoint.failing",
    "endpoint.disabled",
    "hook.pre_create",
    "hook.pre_finish",
    "hook.pre_terminate",
}

/// `GET /api/v1/webhooks/schemas`: the URL of the schema for each type.
pub(super) async fn list(call: RoutedRequest, shared: Arc<UploadApi>) -> Result<HttpResponse, Problem> {
    let url = |name: &str| Value::from(shared.uploads.addresses.link(&format!("/api/v1/webhooks/schemas/{name}")));
    let types = SCHEMAS.iter().filter(|(name, _)| *name != COMMON);
    let schemas: Map<String, Value> = types.map(|(name, _)| ((*name).to_owned(), url(name))).collect();
    Ok(serve(call.request.headers(), "application/json", &json!({ "schemas": schemas }).to_string()))
}

/// `GET /api/v1/webhooks/schemas/{type}`, also with the file name, which schemas use to refer to each other.
pub(super) async fn one(call: RoutedRequest, _: Arc<UploadApi>) -> Result<HttpResponse, Problem> {
    let name = call.parameter(0);
    let name = name.strip_suffix(".schema.json").unwrap_or(&name);
    match SCHEMAS.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => Ok(serve(call.request.headers(), "application/schema+json", text)),
        None => {
            let detail = "there is no event of this type; /api/v1/webhooks/schemas lists all types";
            Err(Problem::new(actix_web::http::StatusCode::NOT_FOUND, "no-such-type", detail))
        }
    }
}

fn serve(headers: &HeaderMap, content_type: &'static str, text: &str) -> HttpResponse {
    let tag: String = Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{tag}\"");
    let known = conditions::list(headers, &header::IF_NONE_MATCH);
    let is_known = known.is_some_and(|known| conditions::names(&known, &tag));
    let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response.insert_header((header::ETAG, tag)).insert_header((header::CACHE_CONTROL, CACHE));
    if is_known { response.finish() } else { response.content_type(content_type).body(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::event::EventKind;
    use domain::hook::Hook;

    #[test]
    fn every_type_has_a_schema_and_every_schema_is_served() {
        let mut names: Vec<&str> = SCHEMAS.iter().map(|(name, _)| *name).collect();
        let questions = Hook::ALL.map(Hook::message_type);
        let events = EventKind::ALL.map(EventKind::name);
        let mut expected: Vec<&str> = events.into_iter().chain(questions).chain([COMMON]).collect();
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected, "webhooks P4");

        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/events")).unwrap();
        let mut files: Vec<String> = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        files.sort_unstable();
        assert_eq!(files, names.iter().map(|name| format!("{name}.schema.json")).collect::<Vec<_>>());
    }

    #[test]
    fn a_schema_says_which_type_it_is_of_and_refers_to_what_is_there() {
        for (name, text) in SCHEMAS {
            let schema: Value = serde_json::from_str(text).unwrap();
            if *name != COMMON {
                assert_eq!(schema["properties"]["type"]["const"], *name);
            }
            let refers = text.split("\"$ref\": \"").skip(1).filter_map(|rest| rest.split('"').next());
            for file in refers.filter(|target| !target.starts_with('#')) {
                let target = file.strip_suffix(".schema.json");
                assert!(SCHEMAS.iter().any(|(name, _)| Some(*name) == target), "{name} refers to {file}");
            }
        }
    }
}
