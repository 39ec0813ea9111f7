//! `longshore webhooks listen`: a small receiver for inspecting events. It verifies every signature as a real
//! receiver should, and prints the events.

use std::fmt::Display;
use std::io;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Arg, ArgMatches, Command};
use serde_json::Value;

use crate::cli::Failure;
use crate::cli::webhooks::{flag, switch};
use crate::terminal::{escaped, escaped_lines};
use outbound::ed25519::PublicKey;
use outbound::sign::{SharedSecret, sign};

/// Standard Webhooks: maximum difference between the timestamp of a message and the clock.
const TOLERANCE: Duration = Duration::from_mins(5);

/// Maximum size of a body in bytes: more than that of any event.
const BODY_MAX_BYTES: usize = 1 << 20;

pub(super) fn command() -> Command {
    Command::new("listen")
        .about("Receive events on this machine, verify their signatures and print them")
        .arg(
            Arg::new("listen")
                .long("listen")
                .value_name("ADDR:PORT")
                .default_value("127.0.0.1:9000")
                .value_parser(clap::value_parser!(SocketAddr))
                .help("Address and port to listen on"),
        )
        .arg(flag(
            "secret",
            "SECRET",
            "Secret that verifies v1 (hmac) signatures [default: generated and printed at the start, if no public key \
             is given]",
        ))
        .arg(flag("public-key", "KEY", "Public key that verifies v1a (ed25519) signatures: whpk_ and base64"))
        .arg(switch("body", "Print the complete bodies"))
        .arg(
            Arg::new("answer")
                .long("answer")
                .value_name("STATUS")
                .default_value("204")
                .value_parser(clap::value_parser!(u16).range(200..=599))
                .help("Status to return for events whose signature is valid; 500 shows how retries work"),
        )
}

struct Listener {
    keys: Keys,
    answer: StatusCode,
    whole: bool,
}

/// The keys that verify messages; at least one of the two is present.
struct Keys {
    secret: Option<SharedSecret>,
    public: Option<PublicKey>,
}

pub(super) fn run(typed: &ArgMatches) -> Result<(), Failure> {
    let public = typed.get_one::<String>("public-key");
    let secret = typed.get_one::<String>("secret").cloned().or_else(|| public.is_none().then(new_secret));
    let not_understood = |flag: &str, why: &dyn Display| Failure::NotUnderstood(format!("--{flag}: {why}"));
    let keys = Keys {
        secret: secret
            .as_deref()
            .map(str::parse::<SharedSecret>)
            .transpose()
            .map_err(|why| not_understood("secret", &why))?,
        public: public
            .map(|text| text.parse::<PublicKey>())
            .transpose()
            .map_err(|why| not_understood("public-key", &why))?,
    };
    let answer = typed.get_one::<u16>("answer").and_then(|status| StatusCode::from_u16(*status).ok());
    let listener = web::Data::new(Listener {
        keys,
        answer: answer.unwrap_or(StatusCode::NO_CONTENT),
        whole: typed.get_flag("body"),
    });
    let address = *typed.get_one::<SocketAddr>("listen").expect("it has a default");
    let serve = async {
        let app = move || {
            App::new()
                .app_data(listener.clone())
                .app_data(web::PayloadConfig::new(BODY_MAX_BYTES))
                .default_service(web::route().to(receive))
        };
        let server = HttpServer::new(app).workers(1).bind(address);
        let server = server.with_context(|| format!("could not listen on {address}"))?;
        let at = server.addrs().first().copied().unwrap_or(address);
        print(&introduction(at, secret.as_deref()));
        server.run().await.context("the listener failed")
    };
    actix_web::rt::System::new().block_on(serve).map_err(Failure::Serving)
}

/// Returns the text printed at the start. With a secret, it contains the configuration that a server needs to
/// send here.
fn introduction(at: SocketAddr, secret: Option<&str>) -> String {
    let Some(secret) = secret else {
        return format!(
            "listening on http://{at} for events that verify with the public key.\n\nPress Ctrl-C to stop.\n"
        );
    };
    format!(
        "listening on http://{at}; add this to the server's configuration file and start the server:\n\n\
         [[webhooks.endpoints]]\nname = \"listen\"\nurl = \"http://{at}/\"\nsecret = \"{secret}\"\nevents = [\"*\"]\n\n\
         Press Ctrl-C to stop. If the next run has the same --secret, the server needs no change.\n"
    )
}

fn new_secret() -> String {
    format!("whsec_{}", STANDARD.encode(rand::random::<[u8; 32]>()))
}

async fn receive(request: HttpRequest, body: web::Bytes, listener: web::Data<Listener>) -> HttpResponse {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let message = ReceivedMessage {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signatures: header("webhook-signature"),
        body: &body,
    };
    if let Err(why) = message.verify(&listener.keys, unix_seconds()) {
        print(&format!("REJECTED  {} {}: {why}", request.method(), request.path()));
        return HttpResponse::BadRequest().body(why);
    }
    let event: Value = serde_json::from_slice(&body).unwrap_or_default();
    print(&line(&event, header("webhook-attempt")));
    if listener.whole {
        print(&format!("{event:#}"));
    }
    HttpResponse::build(listener.answer).finish()
}

/// A delivery as received.
struct ReceivedMessage<'a> {
    id: &'a str,
    timestamp: &'a str,
    signatures: &'a str,
    body: &'a [u8],
}

impl ReceivedMessage<'_> {
    /// Verifies a message by the rules of Standard Webhooks: it is recent, and one of the signatures is
    /// valid.
    fn verify(&self, keys: &Keys, now: i64) -> Result<(), &'static str> {
        let sent: i64 =
            self.timestamp.parse().map_err(|_| "it has no webhook-timestamp header, so it is not a webhook")?;
        if now.abs_diff(sent) > TOLERANCE.as_secs() {
            return Err("its timestamp differs from the clock of this machine by more than five minutes");
        }
        let expected = keys.secret.as_ref().map(|secret| sign(secret, self.id, sent, self.body));
        let fits = self.signatures.split(' ').any(|one| {
            expected.as_ref().is_some_and(|expected| constant_time_eq(one.as_bytes(), expected.as_bytes()))
                || keys.public.is_some_and(|key| key.verifies(one, self.id, sent, self.body))
        });
        if fits { Ok(()) } else { Err("no signature verifies with the keys of this listener (--secret, --public-key)") }
    }
}

fn constant_time_eq(one: &[u8], other: &[u8]) -> bool {
    bool::from(subtle::ConstantTimeEq::ct_eq(one, other))
}

/// Formats an event in one line: time, type, upload, and progress.
fn line(event: &Value, attempt: &str) -> String {
    let (data, text) = (&event["data"], |value: &Value| value.as_str().unwrap_or("-").to_owned());
    let far = match (data["offset"].as_u64(), data["length"].as_u64()) {
        (Some(offset), Some(length)) => format!("{offset} of {length} bytes"),
        (Some(offset), None) => format!("{offset} bytes"),
        _ => String::new(),
    };
    let again = if matches!(attempt, "" | "1") { String::new() } else { format!("  attempt {attempt}") };
    let about = match data["sequence"].as_u64() {
        Some(sequence) => format!("{} #{sequence}", text(&data["upload_id"])),
        // An event about the delivery of events.
        None => data.to_string(),
    };
    let line = format!("{}  {:<18} {about}  {far}{again}", text(&event["timestamp"]), text(&event["type"]));
    escaped(line.trim_end()).into_owned()
}

#[expect(clippy::disallowed_methods, reason = "a receiver goes by the clock of its machine")]
fn unix_seconds() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn print(text: &str) {
    // If stdout is closed, nothing can be reported.
    let mut out = io::stdout().lock();
    drop(writeln!(out, "{}", escaped_lines(text)).and_then(|()| out.flush()));
}

#[cfg(test)]
mod tests {
    use super::*;

    use outbound::ed25519::PrivateKey;

    const NOW: i64 = 1_795_300_290;

    #[test]
    fn only_what_is_signed_and_recent_passes() {
        let secret: SharedSecret = new_secret().parse().unwrap();
        let keys = Keys { secret: Some(secret.clone()), public: None };
        let body = br#"{"type":"upload.created"}"#;
        let good = sign(&secret, "evt_1", NOW, body);
        let verify = |id, timestamp: i64, signatures: &str, body: &[u8]| {
            let timestamp = timestamp.to_string();
            ReceivedMessage { id, timestamp: &timestamp, signatures, body }.verify(&keys, NOW)
        };
        assert_eq!(verify("evt_1", NOW, &good, body), Ok(()));
        assert_eq!(verify("evt_1", NOW, &format!("v1,AAAA v9,x {good}"), body), Ok(()));
        for (id, timestamp, signature, body) in [
            ("evt_2", NOW, good.as_str(), &body[..]),
            ("evt_1", NOW + 1, &good, body),
            ("evt_1", NOW, &good, b"{}"),
            ("evt_1", NOW, "", body),
            ("evt_1", NOW, &good[..good.len() - 1], body),
        ] {
            assert!(verify(id, timestamp, signature, body).is_err(), "{id} {timestamp} {signature}");
        }
        for off in [NOW - 301, NOW + 301] {
            assert!(verify("evt_1", off, &sign(&secret, "evt_1", off, body), body).is_err(), "{off}");
        }
    }

    #[test]
    fn either_kind_of_signature_is_enough() {
        let private: PrivateKey = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=".parse().unwrap();
        let secret: SharedSecret = new_secret().parse().unwrap();
        let (v1, v1a) = (sign(&secret, "evt_1", NOW, b"{}"), private.sign("evt_1", NOW, b"{}"));
        let public: PublicKey = private.public().parse().unwrap();
        let timestamp = NOW.to_string();
        for (secret, public, passing) in [
            (Some(&secret), None, [true, false, true]),
            (None, Some(public), [false, true, true]),
            (Some(&secret), Some(public), [true, true, true]),
        ] {
            let keys = Keys { secret: secret.cloned(), public };
            let both = format!("{v1} {v1a}");
            for (signatures, passes) in [&v1, &v1a, &both].into_iter().zip(passing) {
                let message = ReceivedMessage { id: "evt_1", timestamp: &timestamp, signatures, body: b"{}" };
                assert_eq!(message.verify(&keys, NOW).is_ok(), passes, "{signatures}");
            }
        }
    }

    #[test]
    fn an_event_is_one_line() {
        let event = serde_json::json!({
            "type": "upload.progress", "timestamp": "2026-11-21T22:31:30.123Z",
            "data": { "upload_id": "01a2", "sequence": 3, "offset": 5, "length": 10 },
        });
        let expected = "2026-11-21T22:31:30.123Z  upload.progress    01a2 #3  5 of 10 bytes  attempt 2";
        assert_eq!(line(&event, "2"), expected);
        let ping = serde_json::json!({ "type": "webhook.ping", "timestamp": "t", "data": { "endpoint": "a\u{1b}" } });
        assert_eq!(line(&ping, "1"), r#"t  webhook.ping       {"endpoint":"a\u001b"}"#);
    }
}
