//! Tests of arguments and their results.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use clap::ArgMatches;
use clap::error::ErrorKind;

use crate::cli::{Failure, admin_key, command, config, health, load, serve};
use crate::config::{Config, DEFAULTS, HealthTarget, Inputs, keys};

fn typed(line: &str) -> ArgMatches {
    let matches = command().try_get_matches_from(line.split_whitespace()).unwrap();
    matches.subcommand().unwrap().1.clone()
}

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn the_command_line_holds_together() {
    command().debug_assert();
}

#[test]
fn nothing_typed_shows_the_help_as_a_mistake() {
    let error = command().try_get_matches_from(["longshore"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("longshore serve --config longshore.toml"), "{error}");
}

#[test]
fn every_key_is_a_flag_and_its_help_is_the_first_sentence_of_its_comment() {
    for subcommand in ["serve", "config"] {
        let mut command = command();
        let command = command.find_subcommand_mut(subcommand).unwrap();
        for key in keys() {
            let flag = command.get_arguments().find(|flag| flag.get_long() == Some(&key.flag)).unwrap();
            assert!(flag.get_help().unwrap().to_string().starts_with(key.summary()), "{}", key.name);
            assert!(key.summary().len() < 120, "{} is long for a line of help", key.name);
        }
        let help = command.render_help().to_string();
        assert!(help.contains("--limits-idle-timeout <DURATION>"), "{help}");
        assert!(help.contains("--data-dir <DIR>"), "{help}");
    }
}

#[test]
fn flags_win_over_variables_and_those_over_the_file_they_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("longshore.toml");
    std::fs::write(&path, "workers = 1\nlimits.idle_timeout = \"61s\"\nlimits.stall_after = \"7s\"").unwrap();
    let env = environment(&[
        ("LONGSHORE_CONFIG", path.to_str().unwrap()),
        ("LONGSHORE_WORKERS", "2"),
        ("LONGSHORE_LIMITS_IDLE_TIMEOUT", "62s"),
    ]);
    let config = load(&typed("longshore serve --workers 3 --listen 127.0.0.1:0 --data-dir x"), &env).unwrap();
    assert_eq!(config.server.workers, Some(3));
    assert_eq!(config.limits.bodies.idle_timeout, Duration::from_secs(62));
    assert_eq!(config.engine.lifetimes.stall_after, Duration::from_secs(7));

    let errors = load(&typed("longshore serve --config /none.toml"), &env).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "could not read the configuration file /none.toml (from --config): No such file or directory (os error 2)"
    );
}

#[test]
fn serve_hands_over_the_configuration_and_reports_what_came_of_it() {
    let mut workers = None;
    let matches = typed("longshore serve --workers 3");
    serve::run(&matches, &BTreeMap::new(), |config| {
        workers = config.server.workers;
        Ok(())
    })
    .unwrap();
    assert_eq!(workers, Some(3));
    let failed = serve::run(&matches, &BTreeMap::new(), |_| anyhow::bail!("could not listen"));
    assert!(matches!(failed, Err(Failure::Serving(error)) if error.to_string() == "could not listen"));
    let refused = serve::run(&typed("longshore serve --workers few"), &BTreeMap::new(), |_| panic!("it served"));
    assert!(matches!(refused, Err(Failure::Configuration(errors)) if errors.lines().len() == 1));
}

#[test]
fn config_prints_the_defaults_or_what_is_in_force() {
    let printed = |line: &str| {
        let mut out = Vec::new();
        config::run(&typed(line), &environment(&[("LONGSHORE_AUTH_TOKEN", "0123456789abcdef")]), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    assert_eq!(printed("longshore config --defaults"), DEFAULTS);
    let in_force = printed("longshore config --workers 3");
    assert!(in_force.contains("\nworkers = 3  # from --workers\n"), "{in_force}");
    assert!(in_force.contains("\ntoken = \"(hidden)\"  # from LONGSHORE_AUTH_TOKEN\n"), "{in_force}");
}

#[test]
fn an_admin_key_is_printed_with_the_line_that_lets_the_server_know_it() {
    let printed = || {
        let mut out = Vec::new();
        admin_key::run(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    let text = printed();
    assert_ne!(text, printed(), "each is another");
    let (key, file) = text.split_once('\n').unwrap();
    let inputs = Inputs { file: Some(("printed.toml".into(), file.to_owned())), ..Inputs::default() };
    let [hash] = Config::read(&inputs).unwrap().auth.admin_keys.try_into().unwrap();
    assert!(key.starts_with("lsk_") && hash.is_of(key.as_bytes()));
}

/// Starts a server that reads one request, responds with these bytes and closes. Returns its address, and the
/// request once it has been read.
fn answering(answer: &'static str) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let served = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (at, served)
}

#[test]
fn health_asks_readyz_and_tells_a_ready_server() {
    let (at, served) = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let everywhere = SocketAddr::new([0, 0, 0, 0].into(), at.port()).to_string();
    let mut out = Vec::new();
    let matches = typed(&format!("longshore health --listen {everywhere}"));
    health::run(&matches, &BTreeMap::new(), &mut out).unwrap();
    assert_eq!(out, b"ready\n");
    let request = served.join().unwrap();
    assert!(request.starts_with(&format!("GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n", at.port())), "{request}");
}

#[test]
fn health_takes_the_address_from_the_environment() {
    let (at, served) = answering("HTTP/1.1 200 OK\r\n\r\n");
    let env = environment(&[("LONGSHORE_LISTEN", &at.to_string())]);
    health::run(&typed("longshore health"), &env, &mut Vec::new()).unwrap();
    served.join().unwrap();
}

fn plain(listen: SocketAddr) -> HealthTarget {
    HealthTarget { listen, tls: false }
}

#[test]
fn health_says_in_one_line_why_not() {
    for (answer, reason) in [
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "{} returned 503 Service Unavailable"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "{} did not respond like a Longshore server"),
        ("", "{} did not respond like a Longshore server"),
    ] {
        let (at, served) = answering(answer);
        let expected = reason.replace("{}", &at.to_string());
        assert_eq!(health::check(plain(at), Duration::from_secs(3)), Err(expected));
        served.join().unwrap();
    }
}

#[test]
fn health_gives_up_on_a_server_that_is_gone_or_silent() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = silent.local_addr().unwrap();
    assert_eq!(health::check(plain(at), Duration::from_millis(50)), Err(format!("no response from {at} within 50ms")));
    drop(silent);
    let gone = health::check(plain(at), Duration::from_secs(3));
    assert_eq!(gone, Err(format!("could not query {at}: Connection refused (os error 111)")));
    let unknown = health::check(plain(SocketAddr::new([127, 0, 0, 1].into(), 0)), Duration::from_secs(3));
    assert!(unknown.is_err_and(|why| why.contains("--listen")));
}
