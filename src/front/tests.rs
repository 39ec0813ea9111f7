//! Tests of the route table: every path has its route, and each route requires the intended rights.

use std::sync::{Arc, LazyLock};

use actix_web::HttpResponse;
use actix_web::test::TestRequest;
use domain::id::UploadId;
use domain::principal::Right;
use edge::access::Needs;
use edge::table::{Handler, Route, RouteTable, RoutedRequest};
use futures::FutureExt;
use futures::future::ready;

use crate::front::dialect_switch;
use crate::front::routes::ROUTES;

mod access;

/// The routes of the server, with empty handlers.
static TABLE: LazyLock<RouteTable> = LazyLock::new(|| {
    let dialects = Arc::new(dialects::all());
    let silent = || -> Handler { Box::new(|_: RoutedRequest| ready(HttpResponse::Ok().finish()).boxed_local()) };
    let own = dialects
        .iter()
        .flat_map(|dialect| dialect.routes.iter().map(|(path, _)| dialect_switch::own_route(path, silent())));
    let rows =
        ROUTES.iter().map(|route| Route::new(route.method, route.path, route.needs, silent()).labelled(route.label));
    RouteTable::new(own.chain(rows).collect::<Vec<_>>(), dialect_switch::effective_method(Arc::clone(&dialects)))
});

const ID: &str = "01a2003c-6e4b-7707-8707-070707070707";

#[test]
fn every_path_has_its_place() {
    use Needs::{Client, Nothing, Operator, Upload};
    let id: Option<UploadId> = ID.parse().ok();
    let nowhere = (Client(Right::Read), None);
    let administration = (Operator(Right::ManageWebhooks), None);
    for (path, place) in [
        ("/healthz", (Nothing, None)),
        ("/lb", (Nothing, None)),
        ("/readyz", (Nothing, None)),
        ("/healthz/", nowhere),
        ("/api/v1/uploads", (Client(Right::List), None)),
        ("/api/v1/events", (Client(Right::List), None)),
        ("/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707/stages", (Upload(Right::Report), id)),
        ("/api/v1/uploads/x/y/stages", nowhere),
        ("/api/v1/uploads/x/stages", (Upload(Right::Report), None)),
        ("/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707", (Upload(Right::Read), id)),
        ("/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707/events", (Upload(Right::Events), id)),
        ("/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707/events/events", nowhere),
        ("/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707/read-token", (Client(Right::MintTokens), None)),
        ("/api/v1/uploads/x/events", (Upload(Right::Events), None)),
        ("/api/v1/uploads/x", (Upload(Right::Read), None)),
        ("/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707/", nowhere),
        ("/api/v1/webhooks", administration),
        ("/api/v1/webhooks/anything", administration),
        ("/api/v1/webhooks/schemas", (Client(Right::Read), None)),
        ("/api/v1/webhooks/schemas/upload.created", (Client(Right::Read), None)),
        ("/api/v1/webhooks/schemas2", administration),
        ("/api/v1/webhooks//schemas", administration),
        ("/api/v1/webhooks/deliveries", (Operator(Right::ReadWebhooks), None)),
        ("/files", (Client(Right::Create), None)),
        ("/files/", (Client(Right::Append), None)),
        ("/files/01a2003c-6e4b-7707-8707-070707070707", (Client(Right::Download), None)),
        ("/files/a.mp4", (Client(Right::Download), None)),
        ("/", nowhere),
    ] {
        let request = TestRequest::with_uri(path).to_srv_request();
        let wanted = TABLE.requested_access(&request);
        assert_eq!((wanted.needs, wanted.upload), place, "{path}");
    }
}

#[test]
fn what_counts_is_the_method_that_is_followed() {
    let over = |method| ("x-http-method-override", method);
    for (method, fields, followed) in [
        ("GET", &[][..], "GET"),
        ("HEAD", &[], "HEAD"),
        ("OPTIONS", &[], "OPTIONS"),
        ("POST", &[], "POST"),
        ("PATCH", &[], "PATCH"),
        ("PUT", &[], "PUT"),
        ("DELETE", &[], "DELETE"),
        ("TRACE", &[], "TRACE"),
        ("get", &[], "get"),
        ("POST", &[over("DELETE")], "DELETE"),
        ("POST", &[over("delete")], "DELETE"),
        ("POST", &[over("PATCH")], "POST"),
        ("POST", &[over("HEAD")], "POST"),
        ("POST", &[over("DELETE"), over("HEAD")], "POST"),
        ("GET", &[over("DELETE")], "GET"),
        ("HEAD", &[over("DELETE")], "HEAD"),
        ("PATCH", &[over("DELETE")], "PATCH"),
        ("OPTIONS", &[over("DELETE")], "OPTIONS"),
        ("PUT", &[("content-range", "bytes */*")], "HEAD"),
        ("PUT", &[("content-range", "bytes */10")], "HEAD"),
        ("PUT", &[("content-range", "bytes 0-9/10")], "PUT"),
        ("PUT", &[("content-range", "bytes */ten")], "PUT"),
        ("PUT", &[("content-range", "bytes */*"), ("content-range", "bytes 0-9/10")], "PUT"),
        ("POST", &[("content-range", "bytes */*")], "POST"),
    ] {
        let request = TestRequest::with_uri("/files/a").method(method.parse().unwrap());
        let request = fields.iter().fold(request, |request, pair| request.append_header(*pair)).to_srv_request();
        assert_eq!(TABLE.requested_access(&request).method, followed, "{method} {fields:?}");
    }
}

#[test]
fn a_request_needs_what_the_row_that_answers_it_does() {
    use Needs::{Client, Operator};
    let over = |method| ("x-http-method-override", method);
    for (method, path, field, needs) in [
        // No dialect answers there, so the method that was sent decides.
        ("POST", "/api/v1/webhooks/endpoints", over("DELETE"), Operator(Right::ManageWebhooks)),
        ("POST", "/api/v1/webhooks/pause", over("DELETE"), Operator(Right::ManageWebhooks)),
        ("POST", "/api/v1/webhooks/endpoints", over("GET"), Operator(Right::ManageWebhooks)),
        ("POST", "/api/v1/uploads", over("DELETE"), Client(Right::List)),
        ("POST", "/api/v1/uploads/a", over("DELETE"), Operator(Right::Terminate)),
        ("POST", "/files/a", over("DELETE"), Client(Right::Terminate)),
        ("PUT", "/files/a", ("content-range", "bytes */*"), Client(Right::Read)),
        ("PUT", "/files", ("content-range", "bytes */*"), Client(Right::Create)),
    ] {
        let request = TestRequest::with_uri(path).method(method.parse().unwrap()).append_header(field).to_srv_request();
        assert_eq!(TABLE.requested_access(&request).needs, needs, "{method} {path} {field:?}");
    }
}

#[test]
fn every_path_of_the_table_has_a_label_and_there_are_few() {
    let paths: Vec<_> = TABLE.paths().map(|(_, path)| path).collect();
    assert!(paths.len() > 40, "{paths:?}");
    for path in paths {
        let label = TABLE.label_of(&path.replace("{..}", "x/y").replace(['{', '}'], ""));
        assert_eq!(label == "other", path == "/files/{..}", "{path}");
    }
    assert!(TABLE.labels().len() <= 16, "{:?}", TABLE.labels());
}

#[test]
fn whatever_is_requested_there_is_a_label_for_it() {
    for (path, label) in [
        ("/files", "/files"),
        ("/files/a.mp4", "/files/{id}"),
        ("/files/a/b", "other"),
        ("/api/v1/uploads/x/y/stages", "other"),
        ("/api/v1/uploads/", "other"),
        ("/api/v1/webhooks/endpoints/a/test", "/api/v1/webhooks"),
        ("/api/v1/webhooks2", "other"),
        ("/upload/storage/v1/b/films/o", "/upload/storage/v1/b/{bucket}/o"),
        ("/upload/storage/v1/b//o", "other"),
        ("/", "other"),
        ("", "other"),
    ] {
        assert_eq!(TABLE.label_of(path), label, "{path}");
    }
}

#[test]
fn pages_may_send_and_read_what_every_dialect_names() {
    let dialects = dialects::all();
    let lists = crate::front::cors_lists(&dialects, vec!["X-Own".to_owned()]);
    for dialect in &dialects {
        assert!(dialect.methods.iter().all(|method| lists.methods.contains(method)), "{dialect:?}");
        assert!(dialect.request_fields.iter().all(|name| lists.request_fields.iter().any(|known| known == name)));
        assert!(dialect.answer_fields.iter().all(|name| lists.answer_fields.contains(name)), "{dialect:?}");
    }
    assert!(lists.request_fields.contains(&"X-Own".to_owned()));
}
