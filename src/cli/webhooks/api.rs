//! The server's API as the command line asks it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::anyhow;
use clap::ArgMatches;
use reqwest::Method;
use reqwest::Url;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::cli::Failure;
use crate::cli::webhooks::KEY_VARIABLE;
use crate::cli::webhooks::SERVER_VARIABLE;
use crate::webhook::install_tls_provider;

const DEFAULT_SERVER: &str = "http://127.0.0.1:8080";

/// A test waits for its receiver, which has half a minute at most.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The most that is read of an answer.
const ANSWER_MAX_BYTES: usize = 16 << 20;

#[derive(Debug)]
pub(super) struct Api {
    base: Url,
    key: Option<String>,
    client: reqwest::Client,
    runtime: Runtime,
}

impl Api {
    pub(super) fn new(typed: &ArgMatches, env: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let server = typed.get_one::<String>("server").or_else(|| env.get(SERVER_VARIABLE));
        let server = server.map_or(DEFAULT_SERVER, String::as_str);
        let base = Url::parse(server).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let base = base.ok_or_else(|| {
            Failure::NotUnderstood(format!("{server} is not the URL of a server; write one such as {DEFAULT_SERVER}"))
        })?;
        let key = match typed.get_one::<PathBuf>("key-file") {
            Some(path) => {
                let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()));
                Some(text.map_err(Failure::Serving)?.trim().to_owned())
            }
            None => env.get(KEY_VARIABLE).cloned(),
        };
        install_tls_provider();
        let client = reqwest::Client::builder()
            .user_agent(concat!("longshore-cli/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT);
        // The certificates of the system are looked for only where they are needed.
        let client = if base.scheme() == "https" { client } else { client.tls_certs_only([]) };
        let client = client.build().context("could not set up the client").map_err(Failure::Serving)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("could not start a runtime").map_err(Failure::Serving)?;
        Ok(Self { base, key, client, runtime })
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.get_with(path, &[])
    }

    pub(super) fn get_with(&self, path: &str, query: &[(&str, String)]) -> Result<Value, Failure> {
        self.ask(Method::GET, path, query, None)
    }

    pub(super) fn post(&self, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        self.ask(Method::POST, path, &[], body)
    }

    pub(super) fn patch(&self, path: &str, body: Value) -> Result<Value, Failure> {
        self.ask(Method::PATCH, path, &[], Some(body))
    }

    pub(super) fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.ask(Method::DELETE, path, &[], None)
    }

    fn ask(&self, method: Method, path: &str, query: &[(&str, String)], body: Option<Value>) -> Result<Value, Failure> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("an http URL has a path")
            .pop_if_empty()
            .extend(["api", "v1", "webhooks"])
            .extend(path.split('/').filter(|segment| !segment.is_empty()));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.client.request(method, url);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let server = self.base.origin().ascii_serialization();
        let exchange = async {
            let mut response = request.send().await?;
            let mut answer = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                answer.extend_from_slice(&chunk);
                if answer.len() > ANSWER_MAX_BYTES {
                    break;
                }
            }
            Ok::<_, reqwest::Error>((response.status(), answer))
        };
        let (status, answer) = self
            .runtime
            .block_on(exchange)
            .map_err(reqwest::Error::without_url)
            .with_context(|| format!("could not ask {server}"))
            .map_err(Failure::Serving)?;
        let answer: Value = if answer.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&answer).map_err(|_| {
                Failure::Serving(anyhow!("{server} answers {status} without JSON; is it a Longshore server?"))
            })?
        };
        if status.is_success() {
            return Ok(answer);
        }
        let detail = answer["detail"].as_str().unwrap_or("it does not say why");
        Err(Failure::Serving(anyhow!("the server refuses with {}: {detail}", status.as_u16())))
    }
}
