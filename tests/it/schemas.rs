//! The schemas of events, as the server serves them, and rare events.

use std::time::Duration;

use domain::endpoint::{DisabledBecause, Endpoint, EndpointId, EndpointTerms, Origin};
use domain::event::EventFilter;
use domain::id::{DeliveryId, EventId, UploadId};
use domain::notice::Notice;
use domain::principal::{TenantId, TenantScope};
use domain::time::Timestamp;
use serde_json::Value;
use state::{Dispatch, Endpoints, Notices, Store};
use state_sqlite::{SqliteSettings, SqliteStore};

use crate::support::app::TestApp;
use crate::support::client::Client;
use crate::support::schema::{check_event, published_news_types};

const INDEX: &str = "/api/v1/webhooks/schemas";

/// Follows `$ref`s from file to file, like a validator that starts at this URL.
async fn resolves(client: &mut Client, url: String) {
    let answer = client.get(&url).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/schema+json")), "{url}");
    let mut found = vec![answer.json()];
    let mut files = Vec::new();
    while let Some(value) = found.pop() {
        match value {
            Value::Object(members) => {
                files.extend(
                    members.get("$ref").and_then(Value::as_str).filter(|to| !to.starts_with('#')).map(str::to_owned),
                );
                found.extend(members.into_iter().map(|(_, value)| value));
            }
            Value::Array(items) => found.extend(items),
            _ => {}
        }
    }
    let folder = url.rsplit_once('/').unwrap().0.to_owned();
    for file in files {
        Box::pin(resolves(client, format!("{folder}/{file}"))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_schema_is_served_with_all_that_it_refers_to() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let index = client.get(INDEX).await;
    assert_eq!((index.status, index.header("content-type")), (200, Some("application/json; charset=utf-8")));
    let index = index.json();
    let schemas = index["schemas"].as_object().unwrap();
    assert!(schemas.contains_key("upload.completed") && schemas.contains_key("webhook.ping"), "{schemas:?}");
    for (kind, url) in schemas {
        let url = url.as_str().unwrap();
        let schema = client.get(url).await.json();
        assert_eq!(schema["properties"]["type"]["const"], kind.as_str(), "{url}");
        let file = client.get(&format!("{url}.schema.json")).await;
        assert_eq!(file.json(), schema, "under the name of its file too");
        resolves(&mut client, url.to_owned()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_known_is_not_sent_again() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for path in [INDEX.to_owned(), format!("{INDEX}/upload.completed")] {
        let first = client.get(&path).await;
        let tag = first.header("etag").unwrap().to_owned();
        assert_eq!(first.header("cache-control"), Some("max-age=3600"));
        let list = format!("\"x\", {tag}");
        // A compressing proxy makes it weak.
        let weak = format!("W/{tag}");
        for known in [tag.as_str(), list.as_str(), weak.as_str(), "*"] {
            let again = client.request("GET", &path, &[("If-None-Match", known)], b"").await;
            assert_eq!((again.status, again.header("etag"), again.body.len()), (304, Some(tag.as_str()), 0));
        }
        assert_eq!(client.request("GET", &path, &[("If-None-Match", "\"x\"")], b"").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_type_is_said_to_be_none() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for name in
        ["upload", "upload.nothing", ".schema.json", "upload.completed.schema.json.schema.json", "..%2Fwebhooks"]
    {
        let answer = client.get(&format!("{INDEX}/{name}")).await;
        assert_eq!(answer.status, 404, "{name}");
        assert_eq!(answer.json()["type"], "urn:longshore:problem:no-such-type", "{name}");
    }
    assert_eq!(client.request("POST", INDEX, &[], b"").await.status, 405);
}

/// webhooks P4: also events that occur only after days of failures.
#[tokio::test]
async fn all_news_of_the_sending_is_as_its_schema_says() {
    let folder = tempfile::tempdir().unwrap();
    let store =
        SqliteStore::open(&folder.path().join("state.db"), SqliteSettings::default(), webhook::bodies()).await.unwrap();
    let now = Timestamp::from_unix_ms(1_795_300_290_123);
    let node = domain::id::InstanceId::new(now, [0; 10]);
    let endpoint = |name: &str| EndpointId::new(name).unwrap();
    let filter = EventFilter::new(vec!["*".to_owned()]).unwrap();
    let terms = EndpointTerms { filter, ..EndpointTerms::of("http://127.0.0.1:9/hook") };
    let all = Endpoint::new(TenantId::DEFAULT, endpoint("all"), Origin::Config, terms, now);
    store.open_for(node, vec![all], now).await.unwrap();

    let exhausted = |upload| Notice::Exhausted {
        delivery: DeliveryId::new(now, [1; 10]),
        endpoint: endpoint("app"),
        event: EventId::new(now, [2; 10]),
        upload,
        attempts: 0,
    };
    let disabled = |because| Notice::EndpointDisabled { endpoint: endpoint("app"), because };
    let mut notices = vec![exhausted(None), exhausted(Some(UploadId::new(now, [3; 10])))];
    notices.extend([0, 100].map(|percent| Notice::EndpointFailing { endpoint: endpoint("app"), since: now, percent }));
    notices.extend(DisabledBecause::ALL.iter().copied().map(disabled));
    let count = notices.len();
    for notice in notices {
        store.announce(TenantId::DEFAULT, notice, now).await.unwrap();
    }

    let lease = Duration::from_secs(60);
    let mut claims = store.claim_due(node, &[state::conformance::up_to("all", 100)], now, lease).await.unwrap();
    assert_eq!(claims.len(), count);
    claims.extend(store.test_endpoint(TenantScope::All, node, &endpoint("all"), now, lease).await.unwrap());
    let mut told = Vec::new();
    for claim in claims {
        let body: Value = serde_json::from_slice(&claim.body).unwrap();
        check_event(&body);
        told.push(body["type"].as_str().unwrap().to_owned());
    }
    told.sort();
    told.dedup();
    assert_eq!(told, published_news_types(), "these and no others, each with its schema");
    store.close().await;
}
