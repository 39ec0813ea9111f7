//! Tests of the layers and the messages, and of the promise that the default file documents exactly the
//! existing keys.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::layers::{Block, Layers};
use crate::config::reader::Reader;
use crate::config::{
    AllowOrigins, Config, ConfigErrors, DEFAULTS, HealthTarget, Inputs, LogFormat, ResolvedConfig, SecretText, keys,
};
use domain::checksum::Algorithm;
use domain::endpoint::{EndpointTerms, Ordering, Payload, Signing};
use domain::event::EventKind;
use domain::hook::Hook;
use domain::host::Host;
use keyring::{AdminKeyHash, ServerKeys};

mod cluster;
mod database;
mod open;

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const PRIVATE_KEY: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=";

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn file(text: &str) -> Inputs {
    Inputs { file: Some((PathBuf::from("longshore.toml"), text.to_owned())), ..Inputs::default() }
}

fn env(variables: &[(&str, &str)]) -> Inputs {
    Inputs { env: pairs(variables), ..Inputs::default() }
}

fn errors(inputs: &Inputs) -> Vec<String> {
    Config::read(inputs).map_or_else(|errors| errors.lines().to_vec(), |_| Vec::new())
}

/// Returns the single error of a file.
fn file_error(text: &str) -> String {
    let lines = errors(&file(text));
    assert_eq!(lines.len(), 1, "{text:?} gave {lines:?}");
    lines.into_iter().next().unwrap()
}

fn endpoint(fields: &str) -> String {
    format!("[[webhooks.endpoints]]\nurl = \"https://backend.example.com/hooks\"\n{fields}\n")
}

// The default file.

#[test]
fn the_default_file_read_as_a_file_changes_nothing() {
    let config = Config { file: None, ..Config::read(&file(DEFAULTS)).unwrap() };
    assert_eq!(config, Config::default());
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.server.workers, None);
    assert_eq!(config.engine.max_upload_bytes, 64 << 30);
    assert_eq!(config.engine.lifetimes.unfinished_expiry, Duration::from_secs(86_400));
    assert_eq!(config.engine.writer.digests, []);
    assert_eq!(
        config.webhooks.sending.retry_schedule.iter().map(Duration::as_secs).sum::<u64>(),
        272_105,
        "webhooks R2"
    );
    assert_eq!(config.webhooks.endpoints, []);
    assert_eq!(config.auth.token, None);
    assert_eq!(config.cors.allow_origins, AllowOrigins::Auto);
    assert_eq!(config.log.format, LogFormat::Text);
}

#[test]
fn every_key_of_the_file_is_read_and_every_key_read_is_in_the_file() {
    let mut reader = Reader::new(Layers::new(&Inputs::default()));
    Config::from(&mut reader);
    let read: BTreeSet<&str> = reader.keys_read().into_iter().collect();
    let written: BTreeSet<&str> = keys().iter().map(|key| key.name.as_str()).collect();
    assert_eq!(read, written);

    let parsed: toml::Table = DEFAULTS.parse().unwrap();
    let parsed: BTreeSet<String> = leaves("", &parsed).into_iter().collect();
    assert_eq!(parsed, written.into_iter().map(str::to_owned).collect(), "the scan finds what the parser finds");
}

/// Returns the full names of all keys of a table and of its subtables.
fn leaves(prefix: &str, table: &toml::Table) -> Vec<String> {
    let below = |(name, value): (&String, &toml::Value)| match value {
        toml::Value::Table(table) => leaves(&format!("{prefix}{name}."), table),
        _ => vec![format!("{prefix}{name}")],
    };
    table.iter().flat_map(below).collect()
}

#[test]
fn keys_that_have_moved_are_understood_by_both_names() {
    for text in [
        "[storage]\ndirect_io = \"off\"\npreallocate = false",
        "[storage.local]\ndirect_io = \"off\"\npreallocate = false",
        "storage.local.direct_io = \"off\"\nstorage.preallocate = false",
    ] {
        let local = Config::read(&file(text)).unwrap().storage.local;
        assert_eq!((local.direct_io, local.preallocate), (false, false), "{text}");
    }
    for (direct_io, preallocate) in [
        ("LONGSHORE_STORAGE_DIRECT_IO", "LONGSHORE_STORAGE_PREALLOCATE"),
        ("LONGSHORE_STORAGE_LOCAL_DIRECT_IO", "LONGSHORE_STORAGE_LOCAL_PREALLOCATE"),
    ] {
        let local = Config::read(&env(&[(direct_io, "off"), (preallocate, "false")])).unwrap().storage.local;
        assert_eq!((local.direct_io, local.preallocate), (false, false), "{direct_io}");
    }
    assert_eq!(
        file_error("[storage.locla]\ndirect_io = \"off\""),
        "storage.locla (from longshore.toml, line 1): no such key; `longshore config --defaults` shows them all"
    );
}

#[test]
fn every_key_has_a_comment_and_its_range_is_the_one_enforced() {
    let mut ranges = 0;
    for key in keys() {
        assert!(key.doc.len() > 30 && key.doc.ends_with('.'), "{} has no comment", key.name);
        let wrong = errors(&env(&[(&key.variable, "5 bananas")])).join("\n");
        if let Some((_, range)) = wrong.rsplit_once(", from ") {
            assert!(key.doc.contains(&format!("rom {range}.")), "{} does not say: from {range}", key.name);
            ranges += 1;
        }
    }
    assert!(ranges >= 72, "only {ranges} ranges were found");
}

#[test]
fn every_default_stands_in_its_own_type() {
    for key in keys() {
        let words = match &key.default {
            toml::Value::String(text) => text.clone(),
            toml::Value::Array(items) => items.iter().filter_map(|item| item.as_str()).collect::<Vec<_>>().join(","),
            other => other.to_string(),
        };
        let inputs = env(&[(&key.variable, &words)]);
        assert_eq!(Config::read(&inputs).as_ref(), Ok(&Config::default()), "{}", key.name);
    }
}

#[test]
fn the_example_endpoint_works_once_its_comment_marks_are_gone() {
    let uncomment = |line: &'static str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
        _ => line,
    };
    let text = DEFAULTS.lines().map(uncomment).collect::<Vec<_>>().join("\n");
    let config = Config::read(&file(&text)).unwrap();
    let [endpoint] = config.webhooks.endpoints.as_slice() else { panic!("{:?}", config.webhooks.endpoints) };
    assert_eq!(endpoint.name.as_str(), "backend");
    assert!(endpoint.terms.filter.wants(EventKind::Completed) && !endpoint.terms.filter.wants(EventKind::Created));
}

#[test]
fn the_reference_lists_every_key_of_an_endpoint() {
    for field in Block::FIELDS {
        let is_listed = |line: &str| line.trim_start_matches(['#', ' ']).starts_with(&format!("{field} = "));
        assert!(DEFAULTS.lines().filter(|line| line.starts_with('#')).any(is_listed), "{field}");
    }
}

#[test]
fn no_two_keys_share_a_variable_or_a_flag() {
    let names: BTreeSet<_> = keys().iter().flat_map(|key| [&key.variable, &key.flag]).collect();
    assert_eq!(names.len(), 2 * keys().len());
    let key = keys().iter().find(|key| key.name == "limits.idle_timeout").unwrap();
    assert_eq!((key.variable.as_str(), key.flag.as_str()), ("LONGSHORE_LIMITS_IDLE_TIMEOUT", "limits-idle-timeout"));
    let listen = keys().iter().find(|key| key.name == "listen").unwrap();
    assert_eq!((listen.variable.as_str(), listen.flag.as_str()), ("LONGSHORE_LISTEN", "listen"));
}

// Layers.

#[test]
fn flags_win_over_variables_over_the_file_over_the_defaults() {
    let idle = |inputs: &Inputs| Config::read(inputs).unwrap().limits.bodies.idle_timeout.as_secs();
    let mut inputs = Inputs::default();
    assert_eq!(idle(&inputs), 60);
    inputs.file = file("[limits]\nidle_timeout = \"61s\"\nstall_after = \"7s\"").file;
    assert_eq!(idle(&inputs), 61);
    inputs.env = pairs(&[("LONGSHORE_LIMITS_IDLE_TIMEOUT", "62s"), ("HOME", "/root")]);
    assert_eq!(idle(&inputs), 62);
    inputs.flags = pairs(&[("limits.idle_timeout", "63s")]);
    assert_eq!(idle(&inputs), 63);
    assert_eq!(Config::read(&inputs).unwrap().engine.lifetimes.stall_after, Duration::from_secs(7), "other keys stay");
}

#[test]
fn variables_and_flags_take_every_type() {
    let config = Config::read(&env(&[
        ("LONGSHORE_LISTEN", "[::]:0"),
        ("LONGSHORE_WORKERS", "3"),
        ("LONGSHORE_LIMITS_MAX_UPLOAD_SIZE", "1048576"),
        ("LONGSHORE_STORAGE_DIGESTS", "sha256, crc32c ,MD5"),
        ("LONGSHORE_WEBHOOKS_RETRY_SCHEDULE", "1s,7d"),
        ("LONGSHORE_CORS_ALLOW_ORIGINS", "https://a.example,http://localhost:3000"),
        ("LONGSHORE_CORS_ALLOW_CREDENTIALS", "true"),
        ("LONGSHORE_PUBLIC_URL", "https://uploads.example.com/"),
        ("LONGSHORE_AUTH_TOKEN", "correct-horse-battery"),
        ("LONGSHORE_AUTH_HOSTS", "uploads.example.com, 10.0.0.5"),
        ("LONGSHORE_LOG_FORMAT", "json"),
    ]))
    .unwrap();
    assert_eq!(config.server.listen.to_string(), "[::]:0");
    assert_eq!(config.server.workers, Some(3));
    assert_eq!(config.server.public_url.as_deref(), Some("https://uploads.example.com"));
    assert_eq!(config.engine.max_upload_bytes, 1 << 20);
    assert_eq!(config.engine.writer.digests, [Algorithm::Sha256, Algorithm::Md5], "crc32c is computed anyway");
    assert_eq!(config.webhooks.sending.retry_schedule, [Duration::from_secs(1), Duration::from_secs(604_800)]);
    let origins = ["https://a.example", "http://localhost:3000"].map(str::to_owned);
    assert_eq!(config.cors.allow_origins, AllowOrigins::Listed(origins.to_vec()));
    assert_eq!(config.auth.hosts, ["uploads.example.com", "10.0.0.5"].map(|host| Host::parse(host).unwrap()));
    assert_eq!(config.log.format, LogFormat::Json);

    let none = Config::read(&env(&[("LONGSHORE_CORS_ALLOW_ORIGINS", "")])).unwrap();
    assert_eq!(none.cors.allow_origins, AllowOrigins::Listed(vec![]), "empty words are an empty list");
}

#[test]
fn origins_may_be_of_any_scheme() {
    let origins = [
        "capacitor://localhost",
        "ionic://localhost",
        "tauri://localhost",
        "app://obsidian.md",
        "chrome-extension://abcdefghijklmnop",
        "app://local:8080",
        "https://*.example.com",
    ];
    let config = Config::read(&file(&format!("cors.allow_origins = {origins:?}"))).unwrap();
    assert_eq!(config.cors.allow_origins, AllowOrigins::Listed(origins.map(str::to_owned).to_vec()));
    let with_token = "auth.token = \"correct-horse-battery\"";
    let hidden = Config::read(&file(&format!("cors.allow_origins = [\"null\"]\n{with_token}"))).unwrap();
    assert_eq!(hidden.cors.allow_origins, AllowOrigins::Listed(vec!["null".to_owned()]));
    for wrong in [
        "capacitor://",
        "capacitor://localhost/",
        "Capacitor://localhost",
        "capacitor:localhost",
        "a://b:c",
        "app://*.b",
    ] {
        assert!(Config::read(&file(&format!("cors.allow_origins = [{wrong:?}]"))).is_err(), "{wrong}");
    }
}

#[test]
fn a_file_takes_sizes_as_plain_numbers() {
    let config = Config::read(&file("limits.max_upload_size = 5_000_000")).unwrap();
    assert_eq!(config.engine.max_upload_bytes, 5_000_000);
}

// Messages.

#[test]
fn everything_wrong_is_told_at_once_with_its_source() {
    let inputs = Inputs {
        file: file("data_dir = \"\"\n\n[limits]\nmax_connections = \"many\"\nidle_timout = \"60s\"").file,
        env: pairs(&[("LONGSHORE_LIMITS_IDLE_TIMEOUT", "5 bananas"), ("LONGSHORE_WORKER", "2")]),
        flags: pairs(&[("limits.max_upload_size", "1PB"), ("limits.sweep_every", "2h")]),
    };
    assert_eq!(
        errors(&inputs),
        [
            "limits.idle_timout (from longshore.toml, line 5): no such key; did you mean limits.idle_timeout?",
            "LONGSHORE_WORKER (in the environment): no such variable; did you mean LONGSHORE_WORKERS?",
            "data_dir = \"\" (from longshore.toml, line 1): empty; write the path of a folder",
            "limits.max_upload_size = \"1PB\" (from --limits-max-upload-size): not a size; write a number and a unit, \
             such as 512KiB, 64MiB or 1GB, from 1B to 900TiB",
            "limits.max_connections = \"many\" (from longshore.toml, line 4): not a number; write a whole number, \
             from 1 to 1000000",
            "limits.idle_timeout = \"5 bananas\" (from LONGSHORE_LIMITS_IDLE_TIMEOUT): not a duration; write a number \
             and a unit, such as 60s, 5m or 24h, from 1s to 1h",
            "limits.sweep_every = \"2h\" (from --limits-sweep-every): out of range; write a value from 100ms to 1h",
        ]
    );
}

#[test]
fn each_wrong_value_says_what_to_write() {
    let address = "not an address and port; write numbers, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080";
    let url = "not a usable URL; write an absolute http or https URL without user, query or fragment, such as \
               https://uploads.example.com";
    let level = "not a level; write error, warn, info, debug or trace, or levels for parts such as \
                 info,longshore_webhook=debug";
    let list = "not a list; write strings in brackets, such as [\"a\", \"b\"]";
    for (line, why) in [
        ("listen = \"localhost:8080\"", address),
        ("listen = \":8080\"", address),
        ("listen = 8080", "write a string in quotes"),
        ("workers = 1025", "out of range; write a value from 0 to 512"),
        ("workers = -1", "out of range; write a value from 0 to 512"),
        ("workers = 1.5", "not a number; write a whole number, from 0 to 512"),
        ("workers = \"99999999999999999999\"", "not a number; write a whole number, from 0 to 512"),
        ("public_url = \"uploads.example.com\"", url),
        ("public_url = \"ftp://example.com\"", url),
        ("public_url = \"https://example.com/?a=b\"", url),
        ("limits.idle_timeout = \"0s\"", "out of range; write a value from 1s to 1h"),
        (
            "limits.idle_timeout = 60",
            "not a duration; write a number and a unit, such as 60s, 5m or 24h, from 1s to 1h",
        ),
        ("limits.max_upload_size = 0", "out of range; write a value from 1B to 900TiB"),
        ("limits.max_upload_size = \"901TiB\"", "out of range; write a value from 1B to 900TiB"),
        ("storage.digests = \"md5\"", list),
        ("storage.digests = [1]", list),
        (
            "storage.digests = [\"sha-256\"]",
            "\"sha-256\" is not a digest; write any of crc32, md5, sha1, sha256 and sha512",
        ),
        ("storage.digests = [\"md5\", \"MD5\"]", "\"MD5\" is listed twice; list each digest once"),
        ("media.read_limit = \"1KiB\"", "out of range; write a value from 64KiB to 1GiB"),
        ("media.allowed_types = [\"mp4\"]", "\"mp4\" is not a media type; write a type such as video/mp4, or video/*"),
        ("media.max_sizes = [\"video/*\"]", "\"video/*\" is not a type and a size; write them such as video/*=10GiB"),
        (
            "media.max_durations = [\"video/*\"]",
            "\"video/*\" is not a type and a duration; write them such as video/*=2h",
        ),
        (
            "media.max_durations = [\"video=2h\"]",
            "\"video\" is not a media type; write a type such as video/mp4, or video/*",
        ),
        ("media.max_durations = [\"video/*=366d\"]", "\"366d\" is out of range; write a value from 0s to 365d"),
        (
            "media.max_sizes = [\"video=10GiB\"]",
            "\"video\" is not a media type; write a type such as video/mp4, or video/*",
        ),
        ("webhooks.retry_schedule = []", "empty; write at least one wait, such as 5s"),
        ("webhooks.retry_schedule = [\"5s\", \"8d\"]", "\"8d\" is out of range; write a value from 1s to 7d"),
        (
            "webhooks.retry_schedule = [\"soon\"]",
            "\"soon\" is not a duration; write a number and a unit, such as 60s, 5m or 24h, from 1s to 7d",
        ),
        (
            "hooks.pre_create = \"backend:9000/hooks\"",
            "not an absolute http or https URL; write one such as http://127.0.0.1:9000/hooks",
        ),
        (
            "hooks.pre_finish = \"http://a:b@example.com/\"",
            "contains a user or a password; leave them out, requests are signed with hooks.secret",
        ),
        (
            "hooks.pre_terminate = \"http://example.com/\"",
            "requires a secret to sign requests; set hooks.secret or, better, hooks.secret_file",
        ),
        ("hooks.timeout = \"16s\"", "out of range; write a value from 1s to 15s"),
        (
            "hooks.fail_open = [\"pre-create\"]",
            "\"pre-create\" is not a hook; write pre_create, pre_finish or pre_terminate",
        ),
        (
            "hooks.forward_headers = [\"Authorization: Bearer\"]",
            "\"Authorization: Bearer\" is not a header field name; write names such as authorization",
        ),
        (
            "hooks.reject_statuses = [\"409\"]",
            "\"409\" is not a status that every client treats as final; write any of 400, 401, 402, 403, 404, 406, 410, \
             413, 415, 422, 451",
        ),
        ("cors.allow_credentials = \"yes\"", "write true or false"),
        (
            "cors.allow_origins = [\"*\", \"https://a.example\"]",
            "\"*\" means all origins; write it alone, or leave it out",
        ),
        (
            "cors.allow_origins = [\"https://a.example/\"]",
            "\"https://a.example/\" is not an exact origin; write https://a.example",
        ),
        (
            "cors.allow_origins = [\"https://A.example:443\"]",
            "\"https://A.example:443\" is not an exact origin; write https://a.example",
        ),
        (
            "cors.allow_origins = [\"a.example\"]",
            "\"a.example\" is not an origin; write a scheme and a host, such as https://app.example.com or \
             capacitor://localhost",
        ),
        (
            "cors.allow_origins = [\"file:///index.html\"]",
            "\"file:///index.html\" is not an origin; write a scheme and a host, such as https://app.example.com or \
             capacitor://localhost",
        ),
        (
            "cors.allow_headers = [\"x tenant\"]",
            "\"x tenant\" is not a header field name; write names such as x-tenant",
        ),
        ("cors.allow_headers = [\"*\"]", "* does not cover Authorization; write each name"),
        ("cors.allow_origins = [\"auto\", \"https://a.example\"]", "write \"auto\" alone, or leave it out"),
        (
            "cors.allow_origins = [\"https://a.*.example\"]",
            "\"https://a.*.example\" is not an origin; * replaces the first label of a name, as in https://*.example.com",
        ),
        (
            "cors.allow_origins = [\"https://*.A.example:443\"]",
            "\"https://*.A.example:443\" is not an exact origin; write https://*.a.example",
        ),
        (
            "auth.hosts = [\"uploads.example.com:443\"]",
            "\"uploads.example.com:443\" is not a host; write a name or an address without a port, such as \
             uploads.example.com",
        ),
        ("auth.open = \"yes\"", "write true or false"),
        ("log.level = \"loud\"", level),
        ("log.level = \"info,longshore=loud\"", level),
        ("log.level = \"\"", level),
        ("log.format = \"xml\"", "not a format; write text or json"),
    ] {
        let (key, value) = line.split_once(" = ").unwrap();
        assert_eq!(file_error(line), format!("{key} = {value} (from longshore.toml, line 1): {why}"));
    }
}

#[test]
fn hooks_are_read_with_their_secret_from_either_place() {
    let asked = format!(
        "[hooks]\npre_create = \"http://127.0.0.1:9000/hooks\"\nsecret = \"{SECRET}\"\nforward_headers = [\"Cookie\"]"
    );
    let hooks = Config::read(&file(&asked)).unwrap().hooks;
    assert!(hooks.calls(Hook::PreCreate) && !hooks.calls(Hook::PreFinish) && !hooks.calls(Hook::PreTerminate));
    assert_eq!(
        (hooks.calls.unwrap().secret.expose(), hooks.forward_headers),
        (SECRET.to_owned(), vec!["cookie".to_owned()])
    );
    let shown = ResolvedConfig::read(&file(&asked)).unwrap().to_toml();
    assert!(!shown.contains(&SECRET[6..]), "{shown}");
    let both = format!("{asked}\nsecret_file = \"/dev/null\"");
    let why = errors(&file(&both)).join("\n");
    assert!(why.contains("its secret is not a signing secret"), "{why}");
}

#[test]
fn a_number_too_large_for_any_is_told_like_another() {
    assert_eq!(
        file_error("workers = 99_999_999_999_999_999_999"),
        "workers = \"99_999_999_999_999_999_999\" (from longshore.toml, line 1): not a number; write a whole number, \
         from 0 to 512"
    );
}

#[test]
fn a_value_of_many_lines_is_told_in_one() {
    assert_eq!(
        errors(&env(&[("LONGSHORE_WORKERS", "a\nb\"\u{1b}[31m")])),
        [r#"workers = "a\nb\"\u001b[31m" (from LONGSHORE_WORKERS): not a number; write a whole number, from 0 to 512"#]
    );
    let inputs =
        env(&[("LONGSHORE_DATA_DIR", "a\nb\t\\ 'c' \"d\""), ("LONGSHORE_CORS_ALLOW_ORIGINS", "http://a,http://b")]);
    let resolved = ResolvedConfig::read(&inputs).unwrap();
    let shown = Config::read(&file(&resolved.to_toml())).unwrap();
    assert_eq!(shown.file, Some(PathBuf::from("longshore.toml")));
    assert_eq!(Config { file: None, ..shown }, resolved.config);
}

#[test]
fn values_that_do_not_fit_together_are_told_with_both_sources() {
    let lease = env(&[("LONGSHORE_WEBHOOKS_LEASE", "19s")]);
    assert_eq!(
        errors(&lease),
        ["webhooks.lease = \"19s\" (from LONGSHORE_WEBHOOKS_LEASE): too short; it must exceed webhooks.timeout = \
          \"15s\" (default) by at least 5s"]
    );
    assert!(Config::read(&env(&[("LONGSHORE_WEBHOOKS_LEASE", "20s")])).is_ok());
    assert_eq!(
        file_error("[webhooks]\ntimeout = \"4s\""),
        "webhooks.connect_timeout = \"5s\" (default): too large; it cannot be more than webhooks.timeout = \"4s\" (from \
         longshore.toml, line 2)"
    );
    assert_eq!(
        file_error("webhooks.max_in_flight = 8"),
        "webhooks.max_in_flight_per_endpoint = 16 (default): too large; it cannot be more than webhooks.max_in_flight = \
         8 (from longshore.toml, line 1)"
    );
    assert_eq!(
        file_error("webhooks.response_limit = \"1KiB\""),
        "webhooks.response_kept = \"4KiB\" (default): too large; it cannot be more than webhooks.response_limit = \
         \"1KiB\" (from longshore.toml, line 1)"
    );
    assert_eq!(
        file_error("tls.certificate_file = \"a.pem\""),
        "tls.certificate_file = \"a.pem\" (from longshore.toml, line 1): set both files or neither; \
         the other is tls.private_key_file = \"\" (default)"
    );
    assert_eq!(
        file_error("http2.memory = \"63MiB\""),
        "http2.memory = \"63MiB\" (from longshore.toml, line 1): too small; it must hold 1MiB for each \
         connection of http2.max_connections = 64 (default)"
    );
    assert_eq!(
        file_error("[media]\nenabled = false\nmax_duration = \"1h\""),
        "media.max_duration = \"1h\" (from longshore.toml, line 3): requires media detection; it has no \
         effect with media.enabled = false (from longshore.toml, line 2)"
    );
    assert_eq!(
        file_error("[media]\nmax_durations = [\"video/*=0s\"]\nrequire_duration = true"),
        "media.require_duration = true (from longshore.toml, line 3): requires a maximum duration; there is \
         none with media.max_duration = \"0s\" (default) and media.max_durations = [\"video/*=0s\"] (from \
         longshore.toml, line 2)"
    );
    assert_eq!(
        file_error("cors.allow_credentials = true"),
        "cors.allow_credentials = true (from longshore.toml, line 1): with \
         cors.allow_origins = [\"auto\"] (default), it lets every web page act for its visitors; list the origins \
         you trust"
    );
}

#[test]
fn a_rule_between_keys_is_silent_while_one_of_them_is_wrong() {
    let lines = errors(&env(&[("LONGSHORE_WEBHOOKS_LEASE", "6s"), ("LONGSHORE_WEBHOOKS_TIMEOUT", "soon")]));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("webhooks.timeout"), "{lines:?}");
}

// Unknown names.

#[test]
fn unknown_keys_are_refused_with_the_nearest_known() {
    let place = "(from longshore.toml, line 1)";
    for (line, message) in [
        ("lisen = \"a\"", "lisen {}: no such key; did you mean listen?"),
        ("limits.listen = \"a\"", "limits.listen {}: no such key; did you mean listen?"),
        ("limit.idle_timeout = \"1s\"", "limit.idle_timeout {}: no such key; did you mean limits.idle_timeout?"),
        ("idle_timeout = \"1s\"", "idle_timeout {}: no such key; did you mean limits.idle_timeout?"),
        ("limits.idel_timeout = \"1s\"", "limits.idel_timeout {}: no such key; did you mean limits.idle_timeout?"),
        ("colour = \"blue\"", "colour {}: no such key; `longshore config --defaults` shows them all"),
        ("\"limits.idle_timeout\" = \"1s\"", "limits.idle_timeout {}: no such key; did you mean limits.idle_timeout?"),
        ("[limitz]", "limitz {}: no such section; did you mean limits?"),
        ("[[webhooks.endpoint]]", "webhooks.endpoint {}: no such key; did you mean webhooks.endpoints?"),
    ] {
        assert_eq!(file_error(line), message.replace("{}", place));
    }
}

#[test]
fn unknown_variables_are_refused_and_those_of_others_are_not() {
    assert_eq!(
        errors(&env(&[("LONGSHORE_LIMITS_IDLE_TIMOUT", "1s"), ("LONGSHORE_BACKGROUND_COLOUR", "blue")])),
        [
            "LONGSHORE_BACKGROUND_COLOUR (in the environment): no such variable; `longshore config --defaults` shows them all",
            "LONGSHORE_LIMITS_IDLE_TIMOUT (in the environment): no such variable; did you mean \
             LONGSHORE_LIMITS_IDLE_TIMEOUT?",
        ]
    );
    assert_eq!(
        errors(&env(&[("LONGSHORE_WEBHOOKS_ENDPOINTS_0_URL", "http://a")])),
        ["LONGSHORE_WEBHOOKS_ENDPOINTS_0_URL: endpoints are set in a file, as [[webhooks.endpoints]] blocks"]
    );
    assert_eq!(errors(&env(&[("LONGSHORE_PORT", "8080")])).len(), 1, "a typo of somebody");
}

#[test]
fn variables_of_kubernetes_service_links_are_not_typos() {
    let links = [
        ("LONGSHORE_CONFIG", "/etc/longshore.toml"),
        ("LONGSHORE_SERVICE_HOST", "10.0.0.11"),
        ("LONGSHORE_SERVICE_PORT", "8080"),
        ("LONGSHORE_SERVICE_PORT_HTTP", "8080"),
        ("LONGSHORE_PORT", "tcp://10.0.0.11:8080"),
        ("LONGSHORE_PORT_8080_TCP", "tcp://10.0.0.11:8080"),
        ("LONGSHORE_PORT_8080_TCP_PROTO", "tcp"),
        ("LONGSHORE_HEADLESS_SERVICE_HOST", "10.0.0.12"),
    ];
    assert_eq!(errors(&env(&links)), [] as [&str; 0]);
}

#[test]
fn a_file_that_is_not_toml_is_told_by_line_and_hides_no_other_mistake() {
    let mut inputs = file("[webhooks]\nlease = \"10s\ntimeout = = 3\n");
    inputs.env = pairs(&[("LONGSHORE_WORKERS", "few"), ("LONGSHORE_WEBHOOKS_CONNECT_TIMEOUT", "20s")]);
    assert_eq!(
        errors(&inputs),
        [
            "longshore.toml, line 2: not TOML: invalid basic string, expected `\"`",
            "longshore.toml, line 3: not TOML: extra `=`, expected nothing",
            "workers = \"few\" (from LONGSHORE_WORKERS): not a number; write a whole number, from 0 to 512",
        ]
    );
}

// Secrets.

#[test]
fn secrets_are_hidden_wherever_they_could_be_shown() {
    let token = "correct-horse-battery-staple";
    let inputs = Inputs {
        file: file(&endpoint(&format!("secret = \"{SECRET}\"")).replace("https://", "https://user:hunter2@")).file,
        env: pairs(&[("LONGSHORE_AUTH_TOKEN", token)]),
        ..Inputs::default()
    };
    let resolved = ResolvedConfig::read(&inputs).unwrap();
    assert_eq!(resolved.config.auth.token.as_ref().map(SecretText::expose), Some(token));
    assert_eq!(resolved.config.webhooks.endpoints[0].secrets[0].expose(), SECRET);
    for shown in [format!("{resolved:?}"), resolved.to_toml()] {
        for hidden in [token, &SECRET[6..], "hunter2"] {
            assert!(!shown.contains(hidden), "{shown}");
        }
    }

    let wrong = Inputs { env: pairs(&[("LONGSHORE_AUTH_TOKEN", "hunter2")]), ..file("auth.token_file = \"/none\"") };
    assert_eq!(
        errors(&wrong),
        [
            "auth.token = \"(hidden)\" (from LONGSHORE_AUTH_TOKEN): too short; write at least 16 characters",
            "auth.token_file = \"/none\" (from longshore.toml, line 1): could not read the file: No such file or \
             directory (os error 2)",
        ]
    );
}

#[test]
fn a_token_can_come_from_a_file_but_not_from_two_places() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    fs::write(&path, "0123456789abcdef\r\n").unwrap();
    let path = path.to_str().unwrap();
    let config = Config::read(&env(&[("LONGSHORE_AUTH_TOKEN_FILE", path)])).unwrap();
    assert_eq!(config.auth.token, Some(SecretText::new("0123456789abcdef")));

    let both = env(&[("LONGSHORE_AUTH_TOKEN_FILE", path), ("LONGSHORE_AUTH_TOKEN", "fedcba9876543210")]);
    assert_eq!(
        errors(&both),
        [format!(
            "auth.token = \"(hidden)\" (from LONGSHORE_AUTH_TOKEN): set together with auth.token_file = \"{path}\" \
             (from LONGSHORE_AUTH_TOKEN_FILE); leave one of them empty"
        )]
    );

    for (content, why) in [
        ("short\n", "its token is too short; write at least 16 characters"),
        ("", "its token is too short; write at least 16 characters"),
        (
            "sixteen and more",
            "its token is not a valid token; write letters, digits and punctuation characters, without spaces",
        ),
        (&"x".repeat(5_000), "the file is larger than 4KiB; it must contain only the secret"),
    ] {
        fs::write(path, content).unwrap();
        let lines = errors(&env(&[("LONGSHORE_AUTH_TOKEN_FILE", path)]));
        assert_eq!(lines, [format!("auth.token_file = \"{path}\" (from LONGSHORE_AUTH_TOKEN_FILE): {why}")]);
    }
}

#[test]
fn admin_keys_are_hashes_and_never_shown() {
    let hash = AdminKeyHash::of(b"lsk_one").to_string();
    let list = format!("{hash},{}", AdminKeyHash::of(b"lsk_two"));
    let resolved = ResolvedConfig::read(&env(&[("LONGSHORE_AUTH_ADMIN_KEYS", &list)])).unwrap();
    assert_eq!(resolved.config.auth.admin_keys.len(), 2);
    assert!(resolved.config.auth.admin_keys[0].is_of(b"lsk_one"));
    assert!(!resolved.to_toml().contains(&hash[..20]), "{}", resolved.to_toml());
    assert!(ResolvedConfig::read(&Inputs::default()).unwrap().to_toml().contains("\nadmin_keys = []\n"));

    let shown = "auth.admin_keys = \"(hidden)\" (from LONGSHORE_AUTH_ADMIN_KEYS)";
    let too_many = vec![hash.as_str(); 101].join(",");
    for (list, why) in [
        (
            format!("{hash},lsk_secret"),
            "item 2 is the admin key itself; write its hash, which `longshore admin-key` prints with the key",
        ),
        (
            "secret".to_owned(),
            "item 1 is not the hash of an admin key; `longshore admin-key` prints one, as sha256: and 64 hexadecimal digits",
        ),
        (too_many, "too many; give at most 100"),
    ] {
        let lines = errors(&env(&[("LONGSHORE_AUTH_ADMIN_KEYS", &list)]));
        assert_eq!(lines, [format!("{shown}: {why}")]);
    }
}

#[test]
fn server_keys_are_read_from_their_file_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let keys = ServerKeys::generate([7; 32], [1; 4]);
    fs::write(&path, keys.to_text()).unwrap();
    let path = path.to_str().unwrap();
    let resolved = ResolvedConfig::read(&env(&[("LONGSHORE_AUTH_SERVER_KEY_FILE", path)])).unwrap();
    assert!(!format!("{resolved:?}").contains("BwcHBw"), "{resolved:?}");
    assert_eq!(resolved.config.auth.server_keys, Some(keys));

    fs::write(path, "secret\n").unwrap();
    let lines = errors(&env(&[("LONGSHORE_AUTH_SERVER_KEY_FILE", path)]));
    let shown = format!("auth.server_key_file = \"{path}\" (from LONGSHORE_AUTH_SERVER_KEY_FILE)");
    assert_eq!(lines, [format!("{shown}: line 1 is not ID:BASE64")]);
}

// Endpoints.

#[test]
fn an_endpoint_needs_only_a_url_and_a_secret() {
    let config = Config::read(&file(&endpoint(&format!("secret = \"{SECRET}\"")))).unwrap();
    let endpoint = &config.webhooks.endpoints[0];
    assert_eq!(endpoint.url, "https://backend.example.com/hooks");
    assert_eq!(endpoint.name.as_str(), "ep-8378f65a", "made from the url, the same at every start");
    for kind in EventKind::ALL {
        assert_eq!(
            endpoint.terms.filter.wants(kind),
            kind.is_of_upload() && kind != EventKind::Progress,
            "webhooks C1: progress is sent only on request"
        );
    }
}

#[test]
fn a_signing_secret_can_come_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    fs::write(&path, format!("{SECRET}\n")).unwrap();
    let text = endpoint(&format!("secret_file = {:?}", path.to_str().unwrap()));
    assert_eq!(Config::read(&file(&text)).unwrap().webhooks.endpoints[0].secrets, [SECRET.parse().unwrap()]);
    fs::write(&path, "whsec_AAAA").unwrap();
    assert!(
        file_error(&text).ends_with("its secret is 3 bytes long; it must have 24 to 64 bytes"),
        "{}",
        file_error(&text)
    );
}

#[test]
fn each_wrong_field_of_an_endpoint_says_what_to_write() {
    let good = format!("secret = \"{SECRET}\"");
    let hidden = "webhooks.endpoints#1.secret = \"(hidden)\" (from longshore.toml, line 3)";
    let not_secret = "not a signing secret; write whsec_ followed by 24 to 64 bytes in standard base64";
    let bytes = |count: usize| format!("secret = \"whsec_{}\"", "AAAA".repeat(count / 3));
    for (fields, message) in [
        (
            String::new(),
            "webhooks.endpoints#1 (from longshore.toml, line 1): its secret is missing; write secret or secret_file"
                .to_owned(),
        ),
        (
            format!("{good}\nsecret_file = \"x\""),
            "webhooks.endpoints#1 (from longshore.toml, line 1): secret and secret_file are both set; remove one of \
             them"
            .to_owned(),
        ),
        ("secret = \"swordfish\"".to_owned(), format!("{hidden}: {not_secret}")),
        (good.replace('+', "-"), format!("{hidden}: {not_secret}")),
        (good.replace("oD\"", "o\""), format!("{hidden}: {not_secret}")),
        (bytes(21), format!("{hidden}: 21 bytes long; it must have 24 to 64 bytes")),
        (bytes(66), format!("{hidden}: 66 bytes long; it must have 24 to 64 bytes")),
        (
            format!("{good}\nname = \"my backend\""),
            "webhooks.endpoints#1.name = \"my backend\" (from longshore.toml, line 4): not a name; write 1 to 64 \
             letters, digits, _ or -"
                .to_owned(),
        ),
        (
            format!("{good}\nevents = [\"upload.complete\"]"),
            "webhooks.endpoints#1.events = [\"upload.complete\"] (from longshore.toml, line 4): there is no event \
             \"upload.complete\"; write names such as upload.completed, or upload.* for all upload events"
                .to_owned(),
        ),
        (
            format!("{good}\nevents = []"),
            "webhooks.endpoints#1.events = [] (from longshore.toml, line 4): empty, so nothing would be sent; leave it \
             out for all upload events except upload.progress"
                .to_owned(),
        ),
        (
            format!("{good}\nevent = []"),
            "webhooks.endpoints#1.event (from longshore.toml, line 4): no such key; did you mean events?".to_owned(),
        ),
    ] {
        assert_eq!(file_error(&endpoint(&fields)), message);
    }
    assert!(Config::read(&file(&endpoint(&bytes(24)))).is_ok() && Config::read(&file(&endpoint(&bytes(63)))).is_ok());
    for url in ["backend.example.com", "/hooks", "ftp://backend.example.com", "https://"] {
        assert_eq!(
            file_error(&format!("[[webhooks.endpoints]]\nurl = \"{url}\"\n{good}")),
            format!(
                "webhooks.endpoints#1.url = \"{url}\" (from longshore.toml, line 2): not an absolute http or https \
                 URL; write one such as https://backend.example.com/hooks"
            )
        );
    }
    assert_eq!(
        file_error(&format!("[[webhooks.endpoints]]\n{good}")),
        "webhooks.endpoints#1 (from longshore.toml, line 1): its url is missing"
    );
    assert_eq!(
        file_error("webhooks.endpoints = [\"https://a.example\"]"),
        "webhooks.endpoints (from longshore.toml, line 1): write each endpoint as a [[webhooks.endpoints]] block"
    );
}

#[test]
fn an_endpoint_can_have_terms_of_its_own() {
    let fields = format!(
        "secret = \"{SECRET}\"\nold_secrets = [\"{SECRET}\"]\nprivate_key = \"{PRIVATE_KEY}\"\n\
         metadata = {{ tenant = \"a\" }}\nheaders = {{ X-Token = \"t0p\" }}\ndescription = \"the app\"\n\
         ordering = \"strict\"\npayload = \"thin\"\nmax_in_flight = 3\nmax_per_second = 7\ntimeout = \"9s\"\n\
         retry_schedule = [\"1s\", \"2s\"]\nauto_disable = false"
    );
    let resolved = ResolvedConfig::read(&file(&endpoint(&fields))).unwrap();
    let endpoint = &resolved.config.webhooks.endpoints[0];
    assert_eq!((endpoint.secrets.len(), endpoint.private_key.is_some()), (2, true));
    assert_eq!(endpoint.headers, [("X-Token".to_owned(), SecretText::new("t0p"))]);
    let terms = EndpointTerms {
        description: "the app".to_owned(),
        metadata: vec![("tenant".to_owned(), "a".to_owned())],
        ordering: Ordering::Strict,
        payload: Payload::Thin,
        signing: Signing::Both,
        max_in_flight: Some(3),
        max_per_second: Some(7),
        timeout: Some(Duration::from_secs(9)),
        retry_schedule: Some(vec![Duration::from_secs(1), Duration::from_secs(2)]),
        auto_disable: false,
        ..EndpointTerms::of("https://backend.example.com/hooks")
    };
    assert_eq!(endpoint.terms, terms);
    let shown = format!("{}{endpoint:?}", resolved.to_toml());
    for secret in [SECRET, PRIVATE_KEY, "t0p"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn each_wrong_term_of_an_endpoint_says_what_to_write() {
    let good = format!("secret = \"{SECRET}\"\n");
    for (fields, told) in [
        ("signing = \"both\"", "its private key is missing; write private_key or private_key_file"),
        ("signing = \"md5\"", "unknown; write one of hmac, ed25519, both"),
        ("ordering = \"fifo\"", "unknown; write one of per_upload, strict, none"),
        ("payload = \"tiny\"", "unknown; write one of full, thin"),
        ("private_key = \"whsk_AAAA\"", "3 bytes long; it must have 32"),
        (
            &format!("private_key = \"whsk_{}==\"", "A".repeat(86)),
            "inconsistent; the public key after the seed does not match the seed",
        ),
        ("old_secrets = [\"x\"]", "one of them is not a signing secret"),
        ("old_secret_files = [\"/none\"]", "\"/none\": could not read the file"),
        ("colour = \"blue\"", "no such key; an endpoint has name, url, secret, secret_file, old_secrets,"),
        ("metadata = { a = 1 }", "not a table of strings"),
        ("headers = { \"a b\" = \"x\" }", "\"a b\" is not a header name"),
        ("headers = { Host = \"x\" }", "Host is set by the server and cannot be changed"),
        ("headers = { webhook-id = \"x\" }", "webhook-id is set by the server and cannot be changed"),
        ("headers = { x = \"a\\nb\" }", "characters that are not allowed in a header"),
        ("timeout = \"31s\"", "out of range; write a value from 1s to 30s"),
        ("retry_schedule = []", "empty; write at least one wait"),
        ("max_per_second = 0", "out of range; write a value from 1 to 10000"),
        ("max_in_flight = 600", "its max_in_flight is more than webhooks.max_in_flight"),
        ("auto_disable = \"no\"", "write true or false"),
    ] {
        let line = file_error(&endpoint(&format!("{good}{fields}")));
        assert!(line.contains(told), "{line}");
    }
    let short = format!("[webhooks]\nlease = \"20s\"\ntimeout = \"15s\"\n{}timeout = \"16s\"", endpoint(&good));
    assert!(file_error(&short).contains("its timeout can be at most 15s; webhooks.lease must exceed it by 5s"));
    assert!(file_error("webhooks.allow_networks = [\"10.0.0.1/8\"]").contains("the network is 10.0.0.0/8"));
    assert!(file_error("webhooks.keep_dead = \"1d\"").contains("too short; it cannot be less than"));
}

#[test]
fn old_secrets_can_be_files_and_both_count() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old");
    std::fs::write(&path, format!("{SECRET}\n")).unwrap();
    let fields = |files: usize, texts: usize| {
        let files = vec![path.display().to_string(); files];
        format!("secret = \"{SECRET}\"\nold_secret_files = {files:?}\nold_secrets = {:?}", vec![SECRET; texts])
    };
    let resolved = ResolvedConfig::read(&file(&endpoint(&fields(1, 1)))).unwrap();
    assert_eq!(resolved.config.webhooks.endpoints[0].secrets, vec![SECRET.parse().unwrap(); 3]);
    assert!(!resolved.to_toml().contains(SECRET));
    let line = file_error(&endpoint(&fields(6, 5)));
    assert!(line.contains("its old_secrets and old_secret_files have more than 10"), "{line}");
    std::fs::write(&path, "whsec_AAAA").unwrap();
    let line = file_error(&endpoint(&fields(1, 0)));
    assert!(line.contains("its secret is 3 bytes") && !line.contains("AAAA"), "{line}");
}

#[test]
fn endpoints_are_told_apart_by_name() {
    let good = endpoint(&format!("secret = \"{SECRET}\""));
    assert_eq!(
        file_error(&format!("{good}{good}")),
        "webhooks.endpoints (from longshore.toml, line 4): another endpoint (from longshore.toml, line 1) is also named \
         ep-8378f65a; give each endpoint a unique name"
    );
    let named = format!("{good}name = \"other\"\n");
    assert_eq!(Config::read(&file(&format!("{good}{named}"))).unwrap().webhooks.endpoints.len(), 2);
}

// The effective configuration.

#[test]
fn what_is_in_force_reads_back_and_tells_its_sources() {
    let inputs = Inputs {
        file: file(&format!("[limits]\nidle_timeout = \"61s\"\n{}", endpoint(&format!("secret = \"{SECRET}\"")))).file,
        env: pairs(&[("LONGSHORE_STORAGE_DIGESTS", "sha256,md5"), ("LONGSHORE_AUTH_TOKEN", "0123456789abcdef")]),
        flags: pairs(&[("workers", "2")]),
    };
    let resolved = ResolvedConfig::read(&inputs).unwrap();
    let text = resolved.to_toml();
    for line in [
        "listen = \"127.0.0.1:8080\"",
        "workers = 2  # from --workers",
        "idle_timeout = \"61s\"  # from longshore.toml, line 2",
        "digests = [\"sha256\", \"md5\"]  # from LONGSHORE_STORAGE_DIGESTS",
        "[[webhooks.endpoints]]  # from longshore.toml, line 3",
        "name = \"ep-8378f65a\"  # made from the url",
        "secret = \"(hidden)\"",
        "token = \"(hidden)\"  # from LONGSHORE_AUTH_TOKEN",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
    }
    let revealed = text.replacen("secret = \"(hidden)\"", &format!("secret = \"{SECRET}\""), 1);
    let revealed = revealed.replace("token = \"(hidden)\"", "token = \"0123456789abcdef\"");
    assert_eq!(Config::read(&file(&revealed)).unwrap(), resolved.config);
    assert!(Config::read(&file(&text)).is_err(), "a hidden secret is never taken for a real one");
}

#[test]
fn how_to_reach_a_server_can_be_asked_for_alone() {
    let inputs = env(&[("LONGSHORE_LISTEN", "0.0.0.0:9000"), ("LONGSHORE_WORKERS", "few")]);
    let listen = "0.0.0.0:9000".parse().unwrap();
    assert_eq!(HealthTarget::read(&inputs), Ok(HealthTarget { listen, tls: false }));
    let inputs = env(&[("LONGSHORE_LISTEN", "0.0.0.0:9000"), ("LONGSHORE_TLS_CERTIFICATE_FILE", "/none")]);
    assert_eq!(HealthTarget::read(&inputs), Ok(HealthTarget { listen, tls: true }));
    assert!(matches!(HealthTarget::read(&env(&[("LONGSHORE_LISTEN", "x")])), Err(ConfigErrors { .. })));
}
