//! Interprets responses to hooks: accepted, rejected, or no verdict.
//!
//! `200` or `204` accepts, unless the JSON body rejects. A status listed in the settings rejects. JSON is
//! read strictly: an unknown key makes the answer invalid, because a misspelled limit must not count as
//! acceptance without that limit.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::transport::{HookResponse, LIMIT_BYTES};
use api::problem::{REJECTION_STATUSES, rejection_of};
use domain::failure::{Failure, RejectionKind};
use domain::hook::{Hook, NO_REASON, REJECTED, UploadOverrides, Verdict};
use domain::id::{ID_SLACK, UploadId};
use domain::metadata::Metadata;
use domain::time::Timestamp;

/// Maximum length of a reason that is passed on to a client, in characters.
const MAX_REASON_CHARS: usize = 300;

/// Kind of rejection where the application names no status.
const DEFAULT_REJECTION: RejectionKind = RejectionKind::Forbidden;

/// The longest lifetime that an application may set for an upload, in seconds: 10 years.
const MAX_EXPIRY_S: u64 = 10 * 365 * 24 * 3600;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Interpretation {
    Verdict(Verdict),
    BadStatus,
    /// The answer is invalid, for the contained reason.
    BadAnswer(String),
}

#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct HookReply {
    reject: Option<RejectReply>,
    id: Option<String>,
    metadata: Option<Map<String, Value>>,
    max_size: Option<u64>,
    expires_after: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RejectReply {
    status: Option<u16>,
    message: Option<String>,
}

/// Interprets a response to `hook`. `requested_at` is the time of the request.
pub(super) fn interpret(
    hook: Hook,
    response: &HookResponse,
    reject_statuses: &[u16],
    requested_at: Timestamp,
) -> Interpretation {
    let judged = match response.status {
        200 | 204 => reply(hook, response, requested_at),
        status => match rejection_of(status).filter(|_| reject_statuses.contains(&status)) {
            Some(kind) => Ok(Verdict::Rejected(rejection(kind, rejection_reason(response)))),
            None => return Interpretation::BadStatus,
        },
    };
    judged.map_or_else(Interpretation::BadAnswer, Interpretation::Verdict)
}

fn reply(hook: Hook, response: &HookResponse, requested_at: Timestamp) -> Result<Verdict, String> {
    if response.too_large {
        return Err(format!("the answer has more than {LIMIT_BYTES} bytes"));
    }
    if response.body.trim_ascii().is_empty() {
        return Ok(Verdict::Accepted(UploadOverrides::default()));
    }
    let reply: HookReply =
        serde_json::from_slice(&response.body).map_err(|error| format!("not the expected JSON: {error}"))?;
    let sets =
        reply.id.is_some() || reply.metadata.is_some() || reply.max_size.is_some() || reply.expires_after.is_some();
    match reply.reject {
        Some(_) if sets => Err("it both rejects the upload and sets values".to_owned()),
        Some(RejectReply { status, message }) => {
            let kind = status.map_or(Ok(DEFAULT_REJECTION), |status| {
                let known = REJECTION_STATUSES.map(|(_, status)| status);
                rejection_of(status)
                    .ok_or_else(|| format!("{status} cannot be the status of a rejection; use one of {known:?}"))
            });
            Ok(Verdict::Rejected(rejection(kind?, message)))
        }
        None if sets && hook != Hook::PreCreate => Err("only pre_create can set values".to_owned()),
        None => overrides(reply, requested_at).map(Verdict::Accepted),
    }
}

fn overrides(reply: HookReply, requested_at: Timestamp) -> Result<UploadOverrides, String> {
    let within = |name: &str, value: Option<u64>, most: u64| match value {
        Some(value) if !(1..=most).contains(&value) => Err(format!("{name} must be from 1 to {most}")),
        value => Ok(value),
    };
    Ok(UploadOverrides {
        id: reply.id.map(|text| chosen_id(&text, requested_at)).transpose()?,
        metadata: reply.metadata.map(chosen_metadata).transpose()?,
        max_bytes: within("max_size", reply.max_size, i64::MAX.unsigned_abs())?,
        expires_after: within("expires_after", reply.expires_after, MAX_EXPIRY_S)?.map(Duration::from_secs),
    })
}

fn chosen_id(text: &str, requested_at: Timestamp) -> Result<UploadId, String> {
    let id: Option<UploadId> = text.parse().ok().filter(UploadId::is_v7);
    let id = id.ok_or("id must be a UUID of version 7, in lower case and with hyphens")?;
    let apart = id.made_at().since(requested_at).max(requested_at.since(id.made_at()));
    if apart > ID_SLACK {
        return Err(format!("the time in id must be within {} minutes of now", ID_SLACK.as_secs() / 60));
    }
    Ok(id)
}

fn chosen_metadata(pairs: Map<String, Value>) -> Result<Metadata, String> {
    let bytes = |(name, value): (String, Value)| match value_bytes(&value) {
        Some(bytes) if !name.is_empty() => Ok((name, bytes)),
        Some(_) => Err("metadata has an empty key".to_owned()),
        None => Err("a metadata value must be a string, or {\"base64\": \"...\"}".to_owned()),
    };
    let pairs = pairs.into_iter().map(bytes).collect::<Result<_, _>>()?;
    Metadata::new(pairs).map_err(|error| format!("metadata is invalid: {error}"))
}

fn value_bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Object(object) if object.len() == 1 => STANDARD.decode(object.get("base64")?.as_str()?).ok(),
        _ => None,
    }
}

/// Returns the reason for a rejection by status: `message` of the server's own form, `detail` of RFC 9457, or
/// a plain-text body.
fn rejection_reason(response: &HookResponse) -> Option<String> {
    if response.too_large {
        return None;
    }
    let json: Option<Value> = serde_json::from_slice(&response.body).ok();
    let texts = |json: &Value| {
        let found =
            [json.get("reject").and_then(|reject| reject.get("message")), json.get("message"), json.get("detail")];
        found.into_iter().flatten().find_map(Value::as_str).map(str::to_owned)
    };
    match json {
        Some(json) => texts(&json),
        None if response.media_type == "text/plain" => String::from_utf8(response.body.clone()).ok(),
        None => None,
    }
}

fn rejection(kind: RejectionKind, message: Option<String>) -> Failure {
    let message = message.map(|text| cleaned(&text)).filter(|text| !text.is_empty());
    Failure {
        code: REJECTED.to_owned(),
        message: message.unwrap_or_else(|| NO_REASON.to_owned()),
        rejection: Some(kind),
    }
}

/// Converts a text to one printable line of bounded length.
fn cleaned(text: &str) -> String {
    let words = text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    line.chars().take(MAX_REASON_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED_AT: Timestamp = Timestamp::from_unix_ms(1_795_300_290_123);
    const STATUSES: [u16; 2] = [403, 422];

    fn response(status: u16, body: &str) -> HookResponse {
        let media_type = if body.starts_with('{') { "application/json" } else { "text/plain" };
        HookResponse { status, media_type: media_type.to_owned(), body: body.as_bytes().to_vec(), too_large: false }
    }

    fn interpreted(hook: Hook, status: u16, body: &str) -> Interpretation {
        interpret(hook, &response(status, body), &STATUSES, ASKED_AT)
    }

    fn no(status: u16, message: &str) -> Interpretation {
        Interpretation::Verdict(Verdict::Rejected(rejection(rejection_of(status).unwrap(), Some(message.to_owned()))))
    }

    fn id_made(after_ms: i64) -> UploadId {
        UploadId::new(Timestamp::from_unix_ms(ASKED_AT.unix_ms() + after_ms), [9; 10])
    }

    #[test]
    fn yes_and_no_to_every_question() {
        let yes = Interpretation::Verdict(Verdict::Accepted(UploadOverrides::default()));
        for hook in Hook::ALL {
            for (status, body, expected) in [
                (200, "", &yes),
                (204, "", &yes),
                (200, " \n", &yes),
                (200, "{}", &yes),
                (200, r#"{"reject": null}"#, &yes),
                (200, r#"{"reject": {}}"#, &no(403, NO_REASON)),
                (200, r#"{"reject": {"status": 415, "message": "no videos"}}"#, &no(415, "no videos")),
                (200, r#"{"reject": {"message": " a\u0000\r\nb\tc "}}"#, &no(403, "a b c")),
                (403, "", &no(403, NO_REASON)),
                (422, r#"{"message": "too long"}"#, &no(422, "too long")),
                (422, r#"{"detail": "too long"}"#, &no(422, "too long")),
                (422, r#"{"reject": {"message": "mine"}, "detail": "theirs"}"#, &no(422, "mine")),
                (403, "not today", &no(403, "not today")),
                (403, "{broken", &no(403, NO_REASON)),
            ] {
                assert_eq!(&interpreted(hook, status, body), expected, "{hook:?} {status} {body}");
            }
        }
    }

    #[test]
    fn whatever_is_not_clear_is_no_verdict() {
        for status in [100, 201, 202, 206, 301, 302, 307, 400, 401, 404, 409, 410, 429, 500, 502, 503] {
            assert_eq!(interpreted(Hook::PreCreate, status, ""), Interpretation::BadStatus, "{status}");
        }
        for (body, why) in [
            ("ok", "not the expected JSON"),
            ("null", "not the expected JSON"),
            ("[]", "not the expected JSON"),
            ("true", "not the expected JSON"),
            ("{}{}", "not the expected JSON"),
            (r#"{"maxsize": 5}"#, "unknown field `maxsize`"),
            (r#"{"reject": true}"#, "not the expected JSON"),
            (r#"{"reject": {"code": 403}}"#, "unknown field `code`"),
            (r#"{"reject": {"status": 200}}"#, "cannot be the status"),
            (r#"{"reject": {"status": 409}}"#, "cannot be the status"),
            (r#"{"reject": {"status": 503}}"#, "cannot be the status"),
            (r#"{"reject": {}, "max_size": 5}"#, "sets values"),
            (r#"{"id": "7"}"#, "id must be"),
            (r#"{"id": "9b2e1c54-8f0a-4d53-9c6f-0f6a5d3f2b11"}"#, "id must be"),
            (r#"{"metadata": {"a": 5}}"#, "must be a string"),
            (r#"{"metadata": {"a": null}}"#, "must be a string"),
            (r#"{"metadata": {"": "x"}}"#, "an empty key"),
            (r#"{"metadata": {"a": {"base64": "!"}}}"#, "must be a string"),
            (r#"{"max_size": 0}"#, "max_size must be from 1"),
            (r#"{"max_size": -1}"#, "not the expected JSON"),
            (r#"{"max_size": 9223372036854775808}"#, "max_size must be from 1"),
            (r#"{"expires_after": 0}"#, "expires_after must be from 1"),
            (r#"{"expires_after": 1e18}"#, "not the expected JSON"),
        ] {
            let Interpretation::BadAnswer(reply) = interpreted(Hook::PreCreate, 200, body) else { panic!("{body}") };
            assert!(reply.contains(why), "{body}: {reply}");
        }
        for hook in [Hook::PreFinish, Hook::PreTerminate] {
            let reply = interpreted(hook, 200, r#"{"max_size": 5}"#);
            assert!(matches!(reply, Interpretation::BadAnswer(why) if why.contains("only pre_create")), "{hook:?}");
        }
    }

    #[test]
    fn a_yes_may_set_what_the_upload_is_to_be() {
        let id = id_made(-60_000);
        let body = format!(
            r#"{{"id": "{id}", "metadata": {{"user": "7", "raw": {{"base64": "/w=="}}}}, "max_size": 5, "expires_after": 60}}"#
        );
        let overrides = UploadOverrides {
            id: Some(id),
            metadata: Metadata::new(vec![("user".to_owned(), b"7".to_vec()), ("raw".to_owned(), vec![255])]).ok(),
            max_bytes: Some(5),
            expires_after: Some(Duration::from_secs(60)),
        };
        assert_eq!(interpreted(Hook::PreCreate, 200, &body), Interpretation::Verdict(Verdict::Accepted(overrides)));
    }

    /// The time in an id must be close to the current time, since lists and folders are ordered by it.
    #[test]
    fn an_id_is_of_about_now() {
        let slack_ms = i64::try_from(ID_SLACK.as_millis()).unwrap();
        for (after_ms, taken) in [(slack_ms, true), (-slack_ms, true), (slack_ms + 1, false), (-slack_ms - 1, false)] {
            let reply = interpreted(Hook::PreCreate, 200, &format!(r#"{{"id": "{}"}}"#, id_made(after_ms)));
            assert_eq!(matches!(reply, Interpretation::Verdict(_)), taken, "{after_ms}");
        }
    }

    #[test]
    fn what_is_too_large_is_no_yes_and_no_reason() {
        let large = |status| HookResponse { too_large: true, ..response(status, r#"{"message": "cut off"}"#) };
        let reply = interpret(Hook::PreCreate, &large(200), &STATUSES, ASKED_AT);
        assert!(matches!(reply, Interpretation::BadAnswer(why) if why.contains("16384")));
        assert_eq!(interpret(Hook::PreCreate, &large(403), &STATUSES, ASKED_AT), no(403, NO_REASON));
        let Interpretation::Verdict(Verdict::Rejected(failure)) = interpreted(Hook::PreFinish, 403, &"é".repeat(9_000))
        else {
            panic!("it is a no")
        };
        assert_eq!(failure.message.chars().count(), MAX_REASON_CHARS);
    }
}
