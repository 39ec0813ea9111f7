//! Builds hook requests: the JSON body, and headers that sign it in the same way as webhooks.

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use crate::transport::SignedRequest;
use domain::hook::HookRequest;
use outbound::sign::{SharedSecret, sign};

pub(super) fn signed(request: &HookRequest, secret: &SharedSecret) -> SignedRequest {
    let body =
        serde_json::to_string(&api::event::EventMessage::from(request)).expect("strings and numbers are always JSON");
    // Standard Webhooks: the timestamp is in whole seconds.
    let unix_seconds = request.requested_at.unix_ms().div_euclid(1000);
    let mut signature = text(&sign(secret, &request.decision, unix_seconds, body.as_bytes()));
    signature.set_sensitive(true);
    let mut headers = HeaderMap::with_capacity(6);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(HeaderName::from_static("webhook-id"), text(&request.decision));
    headers.insert(HeaderName::from_static("webhook-timestamp"), HeaderValue::from(unix_seconds));
    headers.insert(HeaderName::from_static("webhook-signature"), signature);
    let kind = HeaderValue::from_static(request.hook.message_type());
    headers.insert(HeaderName::from_static("webhook-event-type"), kind);
    SignedRequest { headers, body: Bytes::from(body) }
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("names of decisions and base64 are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::{Value, json};
    use standardwebhooks::Webhook;

    use domain::dialect::Dialect;
    use domain::hook::{Caller, Hook};
    use domain::id::UploadId;
    use domain::metadata::Metadata;
    use domain::principal::TenantId;
    use domain::size::Length;
    use domain::time::Timestamp;
    use domain::upload::{NewUpload, Role, Upload, UploadTerms};
    use domain::write_rules::{Completion, WriteOrder, WriteRules};

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    fn upload(role: Role) -> Upload {
        let now = Timestamp::from_unix_ms(1_795_300_290_123);
        let new = NewUpload {
            id: UploadId::new(now, [7; 10]),
            tenant: TenantId::DEFAULT,
            dialect: Dialect::named("tus"),
            write_rules: WriteRules { order: WriteOrder::InOrder, completion: Completion::WhenFull },
            role,
            length: Length::new(11),
            metadata: Metadata::new(vec![("filename".to_owned(), b"a.mp4".to_vec()), ("raw".to_owned(), vec![255])])
                .unwrap(),
            metadata_as_sent: None,
            terms: UploadTerms::default(),
            wanted_digests: vec![],
            promised_digests: vec![],
            expires_at: now,
        };
        Upload::create(new, now)
    }

    fn request(hook: Hook, caller: Option<Caller>) -> HookRequest {
        let now = outbound::testing::wall_clock();
        HookRequest::new(hook, &upload(Role::Single), caller, now, [3; 10])
    }

    fn body(request: &HookRequest) -> Value {
        serde_json::to_value(api::event::EventMessage::from(request)).unwrap()
    }

    #[test]
    fn a_question_before_the_creation_says_what_is_asked_for_and_by_whom() {
        let caller = Caller {
            method: "POST".to_owned(),
            path: "/files".to_owned(),
            remote: Some("192.0.2.7".to_owned()),
            headers: vec![("authorization".to_owned(), "Bearer x".to_owned())],
        };
        let asked = request(Hook::PreCreate, Some(caller));
        let expected = json!({
            "type": "hook.pre_create",
            "timestamp": asked.requested_at.to_string(),
            "data": {
                "upload_id": "01a2003c-6e4b-7707-8707-070707070707",
                "dialect": "tus",
                "role": "single",
                "length": 11,
                "filename": "a.mp4",
                "content_type": null,
                "metadata": { "filename": "a.mp4", "raw": { "base64": "/w==" } },
                "request": {
                    "method": "POST",
                    "path": "/files",
                    "remote_address": "192.0.2.7",
                    "headers": { "authorization": "Bearer x" },
                },
            },
        });
        assert_eq!(body(&asked), expected);
    }

    #[test]
    fn later_questions_say_what_has_come() {
        let asked = body(&request(Hook::PreFinish, None));
        let keys: Vec<_> = asked["data"].as_object().unwrap().keys().map(String::as_str).collect();
        let known = ["upload_id", "dialect", "role", "length", "filename", "content_type", "metadata"];
        assert_eq!(keys, [&known[..], &["stage", "offset", "digests", "facts", "request"]].concat());
        assert!(asked["data"]["request"].is_null() && asked["data"]["facts"].is_null());
    }

    /// webhooks K1: the signature is the same as for notifications; the id is that of the decision.
    #[test]
    fn an_independent_receiver_accepts_the_signature() {
        for hook in Hook::ALL {
            let asked = request(hook, None);
            let message = signed(&asked, &SECRET.parse().unwrap());
            Webhook::new(SECRET).unwrap().verify(&message.body, &message.headers).unwrap();
            assert_eq!(message.headers["webhook-id"], asked.decision.as_str());
            assert_eq!(message.headers["webhook-event-type"], hook.message_type());
        }
    }

    #[test]
    fn a_decision_keeps_its_name_unless_it_may_be_taken_anew() {
        let now = Timestamp::from_unix_ms(1_795_300_290_123);
        let name = |hook, at, random| HookRequest::new(hook, &upload(Role::Single), None, at, [random; 10]).decision;
        let later = Timestamp::from_unix_ms(now.unix_ms() + 1);
        for hook in [Hook::PreCreate, Hook::PreFinish] {
            assert_eq!(name(hook, now, 1), name(hook, later, 2));
        }
        assert_ne!(name(Hook::PreTerminate, now, 1), name(Hook::PreTerminate, later, 2));
        assert_ne!(name(Hook::PreCreate, now, 1), name(Hook::PreFinish, now, 1));
        assert!(!name(Hook::PreFinish, now, 1).contains('.'), "webhooks H1");
    }
}
