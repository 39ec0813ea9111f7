//! Tests of access to every route.

use std::time::Duration;

use actix_web::dev::ServiceRequest;
use actix_web::http::Version;
use actix_web::test::TestRequest;

use super::TABLE;
use domain::host::Host;
use domain::principal::Right;
use domain::time::Timestamp;
use edge::access::{Access, ClientRights, Exposure, LoggedDenials, Needs, Origins, RequestedAccess, Token};
use keyring::{AdminKey, AdminKeyHash, ReadTokens, ServerKeys, StageTokens};

const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_290_000);
const TOKEN: &str = "correct-horse-battery-staple";
const UPLOAD: &str = "/files/01a2003c-6e4b-7707-8707-070707070707";

fn access(token: Option<&str>, keys: usize, exposure: Exposure) -> Access {
    let hash = |byte| AdminKeyHash::of(key(byte).as_bytes());
    Access {
        token: token.map(Token::new),
        admin_keys: (0..u8::try_from(keys).unwrap()).map(hash).collect(),
        stage_tokens: StageTokens::new(&ServerKeys::generate([1; 32], [1; 4])),
        read_tokens: ReadTokens::new(&ServerKeys::generate([1; 32], [1; 4])),
        read_token_lifetime: Duration::from_secs(60),
        query_tokens: false,
        exposure,
        hosts: vec![Host::parse("uploads.example.com").unwrap()],
        origins: if token.is_some() { Origins::Any } else { Origins::ThisMachine { public: None } },
        client_rights: ClientRights { list: true, download: true, terminate: true },
        logged_denials: LoggedDenials::default(),
    }
}

/// Returns the access rules of a server on a laptop with nothing configured.
fn laptop() -> Access {
    access(None, 0, Exposure::ThisMachine)
}

fn key(byte: u8) -> String {
    AdminKey::generate([byte; 32]).expose().to_owned()
}

/// Returns the status with which a request is rejected; 200 if it is accepted.
fn judged(access: &Access, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
    let method = method.parse().unwrap();
    let request =
        headers.iter().fold(TestRequest::with_uri(path).method(method), |request, pair| request.append_header(*pair));
    status(access, &request.to_srv_request())
}

fn status(access: &Access, request: &ServiceRequest) -> u16 {
    let refused = access.admit(request.head(), &TABLE.requested_access(request), NOW).err();
    refused.map_or(200, |problem| problem.respond(request.request()).status().as_u16())
}

fn with<'a>(host: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [("host", host)].into_iter().chain(more.iter().copied()).collect()
}

/// Returns every path in the route table.
fn routes() -> Vec<String> {
    let paths = TABLE.paths().map(|(_, path)| path).filter(|path| !matches!(*path, "/healthz" | "/readyz" | "/lb"));
    let mut paths: Vec<_> = paths.map(|path| path.replace("{..}", "x/y").replace(['{', '}'], "")).collect();
    paths.dedup();
    paths
}

#[test]
fn a_request_of_http_1_0_needs_no_host_unless_a_page_is_behind_it() {
    let judged = |version, path: &str, headers: &[(&str, &str)]| {
        let request = TestRequest::with_uri(path).version(version);
        let request = headers.iter().fold(request, |request, pair| request.append_header(*pair)).to_srv_request();
        status(&laptop(), &request)
    };
    assert_eq!(judged(Version::HTTP_10, UPLOAD, &[]), 200);
    assert_eq!(judged(Version::HTTP_11, UPLOAD, &[]), 400);
    assert_eq!(judged(Version::HTTP_10, "/api/v1/webhooks/endpoints", &[]), 403, "the host is unknown");
    for page in
        [("origin", "http://localhost"), ("sec-fetch-site", "none"), ("host", "a"), ("sec-fetch-site", "same-origin")]
    {
        assert_ne!(judged(Version::HTTP_10, UPLOAD, &[page]), 200, "{page:?}");
    }
}

#[test]
fn without_a_token_no_route_answers_to_a_foreign_host_or_to_a_page_elsewhere() {
    let routes = routes();
    assert!(routes.len() > 20 && routes.contains(&"/api/v1/webhooks/endpoints/id".to_owned()), "{routes:?}");
    let (laptop, own, evil) = (laptop(), "127.0.0.1:8080", ("origin", "https://evil.example"));
    for path in routes.iter().map(String::as_str).chain(["/", "/nothing/here", UPLOAD]) {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            for host in
                ["evil.example", "evil.example:8080", "localhost:80@evil.example", "localhost.evil.example", "10.0.0.1"]
            {
                assert_eq!(judged(&laptop, method, path, &with(host, &[])), 421, "{method} {path} {host}");
            }
            assert_eq!(judged(&laptop, method, path, &[]), 400, "{method} {path} without a host");
            assert_eq!(judged(&laptop, method, path, &with(own, &[("host", "evil.example")])), 400, "{method} {path}");
        }
        for method in ["POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"] {
            let page = |more: &[(&str, &str)]| judged(&laptop, method, path, &with(own, more));
            for headers in [
                &[evil][..],
                &[("origin", "null")],
                &[("origin", "")],
                &[("origin", "http://localhost:3000"), evil],
                &[evil, ("sec-fetch-site", "cross-site")],
                &[evil, ("sec-fetch-site", "same-site")],
                &[("sec-fetch-site", "cross-site")],
                &[("sec-fetch-site", "same-site")],
                &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")],
                &[("sec-fetch-site", "something-new")],
            ] {
                assert_eq!(page(headers), 403, "{method} {path} {headers:?}");
            }
        }
        for method in ["GET", "HEAD"] {
            for headers in [
                &[evil, ("sec-fetch-site", "cross-site")][..],
                &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")],
                &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
            ] {
                assert_eq!(judged(&laptop, method, path, &with(own, headers)), 403, "{method} {path} {headers:?}");
            }
        }
    }
    for path in ["/healthz", "/readyz", "/lb"] {
        assert_eq!(judged(&laptop, "GET", path, &with("evil.example", &[])), 200, "{path}");
        assert_eq!(judged(&laptop, "GET", path, &[]), 200, "HTTP/1.0 probes name no host: {path}");
    }
}

#[test]
fn without_a_token_programs_and_pages_of_this_machine_are_served() {
    let laptop = laptop();
    for host in [
        "localhost:8080",
        "LOCALHOST",
        "app.localhost",
        "127.0.0.1:8080",
        "127.9.9.9",
        "[::1]:8080",
        "uploads.example.com",
        "Uploads.Example.com:443",
    ] {
        for method in ["GET", "POST", "PATCH", "DELETE", "OPTIONS"] {
            assert_eq!(judged(&laptop, method, UPLOAD, &with(host, &[])), 200, "{method} {host}");
        }
    }
    let navigation = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
    for (method, headers) in [
        ("POST", &[("origin", "http://localhost:3000")][..]),
        ("POST", &[("origin", "http://127.0.0.1:8080"), ("sec-fetch-site", "same-origin")]),
        ("DELETE", &[("origin", "http://localhost:3000"), ("sec-fetch-site", "cross-site")]),
        // A proxy changes the host: only the browser knows that the page belongs to this server.
        ("POST", &[("origin", "https://app.example.com"), ("sec-fetch-site", "same-origin")]),
        ("POST", &[("sec-fetch-site", "none")]),
        ("GET", &[("sec-fetch-site", "same-site")]),
        ("GET", &[("origin", "https://app.example.com"), ("sec-fetch-site", "same-origin")]),
        ("GET", &navigation),
        ("OPTIONS", &[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")]),
    ] {
        assert_eq!(judged(&laptop, method, UPLOAD, &with("127.0.0.1:8080", headers)), 200, "{method} {headers:?}");
    }
    let own = [("origin", "https://uploads.example.com"), ("sec-fetch-site", "cross-site")];
    assert_eq!(judged(&laptop, "POST", "/files", &with("uploads.example.com", &own)), 200, "pages of this very host");
}

#[test]
fn a_credential_settles_host_and_origin() {
    let page = [("host", "anything.example"), ("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")];
    let keys = [key(0), TOKEN.to_owned()].map(|key| format!("Bearer {key}"));
    let with_token = access(Some(TOKEN), 1, Exposure::Network);
    let open = access(None, 1, Exposure::Network);
    for method in ["GET", "POST", "DELETE"] {
        for bearer in &keys {
            let headers = [&page[..], &[("authorization", bearer)]].concat();
            assert_eq!(judged(&with_token, method, UPLOAD, &headers), 200, "{method}");
        }
        let headers = [&page[..], &[("authorization", &keys[0])]].concat();
        assert_eq!(judged(&open, method, UPLOAD, &headers), 200, "{method}: an admin key is one too");
        assert_eq!(judged(&open, method, UPLOAD, &page), 421, "{method}");
        assert_eq!(judged(&with_token, method, UPLOAD, &page), 401, "{method}");
    }
    assert_eq!(judged(&with_token, "OPTIONS", UPLOAD, &page), 200, "browsers send none with a preflight");
}

#[test]
fn the_scheme_of_a_credential_is_the_same_in_any_case() {
    let access = access(Some(TOKEN), 0, Exposure::Network);
    for (given, status) in [
        (format!("Bearer {TOKEN}"), 200),
        (format!("bearer {TOKEN}"), 200),
        (format!("BEARER {TOKEN}"), 200),
        (format!("bearer{TOKEN}"), 401),
        (format!("Basic {TOKEN}"), 401),
        (format!("Bearer\t{TOKEN}"), 401),
        ("Bearer".to_owned(), 401),
        (TOKEN.to_owned(), 401),
    ] {
        assert_eq!(
            judged(&access, "GET", "/api/v1/uploads", &with("h", &[("authorization", &given)])),
            status,
            "{given}"
        );
    }
}

const ADMINISTRATION: &str = "/api/v1/webhooks/endpoints";

#[test]
fn the_administration_is_opened_by_any_of_its_keys() {
    for exposure in [Exposure::ThisMachine, Exposure::Network] {
        let access = access(Some(TOKEN), 3, exposure);
        let open = |given: &str, path| {
            let bearer = format!("Bearer {given}");
            judged(&access, "POST", path, &with("127.0.0.1:8080", &[("authorization", &bearer)])) == 200
        };
        for byte in 0..3 {
            assert!(open(&key(byte), ADMINISTRATION));
            assert!(open(&key(byte), UPLOAD), "and so is everything else");
        }
        for wrong in [key(3), TOKEN.to_owned(), String::new(), AdminKeyHash::of(key(0).as_bytes()).to_string()] {
            assert!(!open(&wrong, ADMINISTRATION), "{wrong}");
        }
    }
}

#[test]
fn without_keys_the_administration_is_open_to_this_machine() {
    let here = "127.0.0.1:8080";
    let bearer = format!("Bearer {TOKEN}");
    let token = ("authorization", bearer.as_str());
    let open = |access: &Access, headers: &[(&str, &str)]| judged(access, "GET", ADMINISTRATION, headers) == 200;
    let local = laptop();
    assert!(open(&local, &with(here, &[])));
    assert!(!open(&access(None, 0, Exposure::Network), &with(here, &[])));
    let with_token = access(Some(TOKEN), 0, Exposure::ThisMachine);
    assert!(open(&with_token, &with(here, &[token])) && !open(&with_token, &with(here, &[])));
    assert!(!open(&access(Some(TOKEN), 0, Exposure::Network), &with(here, &[token])));

    for access in [&local, &with_token] {
        for name in ["x-forwarded-for", "x-forwarded-port", "forwarded", "via", "true-client-ip", "cdn-loop"] {
            assert!(!open(access, &with(here, &[token, (name, "")])), "{name}");
        }
        for (host, is_near) in [
            ("localhost", true),
            ("LOCALHOST:80", true),
            ("127.0.0.2:8080", true),
            ("[::1]", true),
            ("[::1]:8080", true),
            ("[::ffff:127.0.0.1]:8080", true),
            ("", false),
            ("localhost:80@evil.example", false),
            ("page.example:8080", false),
            ("localhost.page.example", false),
            ("127.0.0.1.page.example:8080", false),
            ("10.0.0.1:8080", false),
            ("uploads.example.com", false),
            ("[::2]:8080", false),
        ] {
            assert_eq!(open(access, &with(host, &[token])), is_near, "{host}");
        }
        assert!(!open(access, &[token]), "requests without a host");
        for (header, value, is_near) in [
            ("origin", "http://127.0.0.1:8080", true),
            ("origin", "http://127.0.0.1:3000", false),
            ("origin", "http://localhost:8080", false),
            ("origin", "https://page.example", false),
            ("origin", "null", false),
            ("sec-fetch-site", "none", true),
            ("sec-fetch-site", "same-origin", true),
            ("sec-fetch-site", "same-site", false),
            ("sec-fetch-site", "cross-site", false),
        ] {
            assert_eq!(open(access, &with(here, &[token, (header, value)])), is_near, "{header}: {value}");
        }
    }
}

#[test]
fn what_is_closed_to_clients_takes_an_admin_key() {
    let over = |method| ("x-http-method-override", method);
    let closed = |token, list, download, terminate| Access {
        client_rights: ClientRights { list, download, terminate },
        ..access(token, 1, Exposure::ThisMachine)
    };
    for (method, path, headers, closes) in [
        ("GET", "/api/v1/uploads", &[][..], [true, false, false]),
        ("HEAD", "/api/v1/uploads", &[], [true, false, false]),
        ("GET", "/api/v1/events", &[], [true, false, false]),
        ("GET", "/api/v1/uploads/a", &[], [false; 3]),
        ("GET", UPLOAD, &[], [false, true, false]),
        ("HEAD", UPLOAD, &[], [false; 3]),
        ("PUT", UPLOAD, &[("content-range", "bytes */*")], [false; 3]),
        ("POST", UPLOAD, &[over("HEAD")], [false; 3]),
        ("DELETE", UPLOAD, &[], [false, false, true]),
        ("POST", UPLOAD, &[over("DELETE")], [false, false, true]),
        ("POST", UPLOAD, &[over("delete")], [false, false, true]),
        ("PATCH", UPLOAD, &[over("DELETE")], [false; 3]),
        ("GET", UPLOAD, &[over("DELETE")], [false, true, false]),
        ("OPTIONS", UPLOAD, &[], [false; 3]),
        ("POST", "/files", &[], [false; 3]),
    ] {
        for (which, is_closed) in closes.into_iter().enumerate() {
            let may = [0, 1, 2].map(|switch| switch != which);
            let admin = format!("Bearer {}", key(0));
            let shared = format!("Bearer {TOKEN}");
            for (token, bearer, status) in
                [(None, "", 401), (Some(TOKEN), shared.as_str(), 403), (None, &admin, 200), (Some(TOKEN), &admin, 200)]
            {
                let access = closed(token, may[0], may[1], may[2]);
                let headers = with("localhost", &[headers, &[("authorization", bearer)]].concat());
                let expected = if is_closed { status } else { 200 };
                assert_eq!(judged(&access, method, path, &headers), expected, "{method} {path} {headers:?} {which}");
            }
        }
    }
}

#[test]
fn deletion_by_an_override_is_as_foreign_as_any_other() {
    let page = with("localhost", &[("sec-fetch-site", "same-site"), ("x-http-method-override", "DELETE")]);
    assert_eq!(judged(&laptop(), "POST", UPLOAD, &page), 403);
    assert_eq!(judged(&laptop(), "GET", UPLOAD, &page), 200, "a GET stays one");
}

#[test]
fn the_host_of_a_target_must_be_the_one_of_the_field() {
    let judged = |target: &str, host| judged(&laptop(), "GET", target, &[("host", host)]);
    assert_eq!(judged("http://localhost:8080/api/v1/uploads", "localhost:8080"), 200);
    assert_eq!(judged("http://evil.example/api/v1/uploads", "localhost"), 400);
    assert_eq!(judged("http://localhost/api/v1/uploads", "evil.example"), 400);
    assert_eq!(judged("http://evil.example/api/v1/uploads", "evil.example"), 421);
}

/// The access check and the rights of the principal agree.
#[test]
fn whoever_is_admitted_has_the_right_that_was_needed() {
    let id = STATUS.rsplit('/').next().unwrap();
    let (mut admitted, mut refused) = (0, 0);
    let tokens = [None, Some(TOKEN)].into_iter().flat_map(|token| [0, 1].map(|keys| (token, keys)));
    let reached = tokens
        .flat_map(|(token, keys)| [Exposure::ThisMachine, Exposure::Network].map(|exposure| (token, keys, exposure)));
    for (token, keys, exposure, may) in
        reached.flat_map(|(token, keys, exposure)| [true, false].map(|may| (token, keys, exposure, may)))
    {
        let client_rights = ClientRights { list: may, download: may, terminate: may };
        let access = Access { client_rights, ..access(token, keys, exposure) };
        let stage = access.stage_tokens.token(id.parse().unwrap());
        let read = [read_token(&access, 60), read_token(&access, -1)];
        for credential in [String::new(), TOKEN.to_owned(), key(0), stage].iter().chain(&read) {
            let judge = |method: &str, path: &str| {
                let request = TestRequest::with_uri(path).method(method.parse().unwrap());
                let bearer = format!("Bearer {credential}");
                let request = request.append_header(("host", "localhost")).append_header(("authorization", bearer));
                let request = request.to_srv_request();
                let wanted = TABLE.requested_access(&request);
                (wanted.needs, access.admit(request.head(), &wanted, NOW))
            };
            let client = judge("GET", "/").1.ok();
            let rows = TABLE.paths().map(|(method, path)| (if method == "*" { "POST" } else { method }, path));
            for (method, path) in rows {
                let (needs, judged) =
                    judge(method, &path.replace("{id}", id).replace("{..}", "x/y").replace(['{', '}'], ""));
                let what = format!("{method} {path} {needs:?} {judged:?}");
                match (needs.right(), &judged) {
                    (None, judged) => assert!(judged.is_ok(), "{what}"),
                    (Some(right), Ok(principal)) => assert!(principal.may(right), "{what}"),
                    (Some(_), Err(_)) => assert!(!what.contains("does not give"), "{what}"),
                }
                if let (Needs::Client(right), Some(client)) = (needs, &client) {
                    assert_eq!(client.may(right), judged.is_ok(), "{what}");
                }
                *if judged.is_ok() { &mut admitted } else { &mut refused } += 1;
            }
        }
    }
    assert!(admitted > 500 && refused > 500, "{admitted} {refused}");
}

#[test]
fn nobody_is_let_in_without_the_right_that_is_needed() {
    let access = access(Some(TOKEN), 1, Exposure::Network);
    for (credential, needs, status) in [
        (TOKEN.to_owned(), Needs::Client(Right::Read), 200),
        (TOKEN.to_owned(), Needs::Client(Right::ManageWebhooks), 403),
        (key(0), Needs::Client(Right::ManageWebhooks), 200),
    ] {
        let bearer = format!("Bearer {credential}");
        let request = TestRequest::with_uri("/").append_header(("authorization", bearer)).to_srv_request();
        let wanted = RequestedAccess { needs, method: "GET", follows: false, upload: None };
        let refused = access.admit(request.head(), &wanted, NOW).err();
        assert_eq!(refused.map_or(200, |problem| problem.respond(request.request()).status().as_u16()), status);
    }
}

#[test]
fn nothing_secret_prints_itself() {
    let shown = format!("{:?}", access(Some(TOKEN), 1, Exposure::Network));
    assert!(!shown.contains(TOKEN) && !shown.contains("lsk_"), "{shown}");
}

const STATUS: &str = "/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707";

/// Returns a read token for [`STATUS`] that expires this many seconds from now.
fn read_token(access: &Access, ends_in_seconds: i64) -> String {
    let id = STATUS.rsplit('/').next().unwrap().parse().unwrap();
    access.read_tokens.token(id, Timestamp::from_unix_ms(NOW.unix_ms() + 1_000 * ends_in_seconds))
}

#[test]
fn a_read_token_opens_the_status_and_the_events_of_its_upload_and_nothing_else() {
    let access = access(Some(TOKEN), 1, Exposure::Network);
    let bearer = format!("Bearer {}", read_token(&access, 60));
    let shown = [("host", "uploads.example.com"), ("authorization", bearer.as_str())];
    let events = format!("{STATUS}/events");
    for path in [STATUS, &events] {
        for (method, status) in [("GET", 200), ("HEAD", 200), ("POST", 401), ("DELETE", 401)] {
            assert_eq!(judged(&access, method, path, &shown), status, "{method} {path}");
        }
    }
    let other = STATUS.replace("070707070707", "070707070708");
    let elsewhere = routes().into_iter().chain([other, format!("{STATUS}/stages"), format!("{STATUS}/read-token")]);
    for path in elsewhere.chain([UPLOAD.to_owned()]) {
        for method in ["GET", "POST", "DELETE"] {
            assert_eq!(judged(&access, method, &path, &shown), 401, "{method} {path}");
        }
    }
    let expired = format!("Bearer {}", read_token(&access, -1));
    assert_eq!(judged(&access, "GET", STATUS, &with("a", &[("authorization", &expired)])), 401);
}

/// The address accepts read tokens, so the rejection states what is wrong with the token, whatever the method
/// requires.
#[test]
fn deletion_of_what_a_read_token_opens_is_refused_for_what_is_wrong_with_the_token() {
    let delete = |access: &Access, uri: &str, credential: &str| {
        let bearer = format!("Bearer {credential}");
        let request = TestRequest::with_uri(uri).method("DELETE".parse().unwrap());
        let request = request.append_header(("host", "localhost")).append_header(("authorization", bearer));
        let request = request.to_srv_request();
        let refused = access.admit(request.head(), &TABLE.requested_access(&request), NOW).err();
        refused.map(|problem| format!("{problem:?}")).unwrap_or_default()
    };
    let keyed = access(Some(TOKEN), 1, Exposure::Network);
    assert_eq!(delete(&keyed, STATUS, &key(0)), "");
    assert!(delete(&keyed, &format!("{STATUS}?token=x"), &key(0)).contains("token-in-url"));
    assert!(delete(&keyed, STATUS, &read_token(&keyed, -1)).contains("token-expired"));
    assert!(delete(&keyed, STATUS, &read_token(&keyed, 60)).contains("a read token allows only GET and HEAD"));
    let local = laptop();
    assert_eq!(delete(&local, STATUS, ""), "", "programs on this machine may");
    assert!(delete(&local, STATUS, &read_token(&local, 60)).contains("a read token allows only GET and HEAD"));
}

#[test]
fn a_token_in_a_url_is_refused_unless_it_is_a_read_token_where_it_may_be() {
    let closed = access(Some(TOKEN), 1, Exposure::Network);
    let open = Access { query_tokens: true, ..access(Some(TOKEN), 1, Exposure::Network) };
    let token = read_token(&open, 60);
    let host = with("uploads.example.com", &[]);
    let at = |path: &str, token: &str| format!("{path}?token={token}");
    for path in [STATUS.to_owned(), format!("{STATUS}/events")] {
        for method in ["GET", "HEAD"] {
            assert_eq!(judged(&open, method, &at(&path, &token), &host), 200, "{method} {path}");
            assert_eq!(judged(&closed, method, &at(&path, &token), &host), 400, "{method} {path}");
            assert_eq!(
                judged(&open, method, &at(&path, &token).replace("token", "%74oken"), &host),
                200,
                "it is decoded"
            );
        }
        assert_eq!(judged(&open, "POST", &at(&path, &token), &host), 400);
        assert_eq!(judged(&open, "GET", &at(&path, &read_token(&open, -1)), &host), 401, "it has expired");
        assert_eq!(judged(&open, "GET", &at(&path, &token.replace('1', "2")), &host), 401, "it is not genuine");
        let both = with("a", &[("authorization", "Bearer correct-horse-battery-staple")]);
        assert_eq!(judged(&open, "GET", &at(&path, &token), &both), 400, "one way to show it is enough");
    }
    for credential in [TOKEN.to_owned(), key(0), "stg_x".to_owned(), "lsk_x".to_owned(), token] {
        for path in [UPLOAD, "/files", "/metrics", "/api/v1/uploads", "/api/v1/events", "/api/v1/webhooks/deliveries"] {
            for access in [&open, &closed] {
                assert_eq!(judged(access, "GET", &at(path, &credential), &host), 400, "{path} {credential}");
            }
        }
    }
    let clients_own = with("a", &[("authorization", "Bearer correct-horse-battery-staple")]);
    assert_eq!(judged(&closed, "POST", "/files?token=of-the-application", &clients_own), 200);
}
