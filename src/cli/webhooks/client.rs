//! Client for the server's API.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::ArgMatches;
use reqwest::{Certificate, Method, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::cli::Failure;
use crate::cli::webhooks::{KEY_VARIABLE, SERVER_VARIABLE, TOKEN_VARIABLE};
use api::problem::Problem;
use outbound::tls::install_tls_provider;

const DEFAULT_SERVER: &str = "http://127.0.0.1:8080";

/// Timeout of a request. A test waits for its receiver, which may take up to 30 seconds.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum number of bytes that are read of a response.
const ANSWER_MAX_BYTES: usize = 16 << 20;

/// A response of the server.
#[derive(Debug)]
pub(in crate::cli) struct Answer<T> {
    /// The JSON as received, for programs.
    pub(in crate::cli) raw: Value,
    /// The JSON as parsed by the command line.
    pub(in crate::cli) read: T,
}

#[derive(Debug)]
pub(in crate::cli) struct Api {
    base: Url,
    /// The part of the API that contains the paths.
    area: &'static str,
    /// An admin key, or the shared token of clients.
    credential: Option<String>,
    client: reqwest::Client,
    runtime: Runtime,
}

/// A request that the server has rejected.
#[derive(Debug)]
pub(super) struct ServerRejection {
    status: u16,
    /// The last part of the problem's type.
    pub(super) code: String,
    detail: String,
    had_credential: bool,
}

impl ServerRejection {
    /// Returns advice on the rejection in terms of the command line.
    fn advice(&self) -> String {
        match self.code.as_str() {
            "unauthorized" if self.had_credential => {
                "the server rejected this key; check --key-file or --token-file (LONGSHORE_ADMIN_KEY, LONGSHORE_TOKEN)"
                    .to_owned()
            }
            "unauthorized" => "the server requires a key: give an admin key (--key-file, or LONGSHORE_ADMIN_KEY), or, \
                               if the server has no admin keys, the token of auth.token (--token-file, or \
                               LONGSHORE_TOKEN)"
                .to_owned(),
            "admin-key-needed" => "the shared token does not grant access to this; give an admin key (--key-file, or \
                                   LONGSHORE_ADMIN_KEY)"
                .to_owned(),
            "has-succeeded" => "this delivery has succeeded; to send it again anyway, use --force".to_owned(),
            "needs-force" => "--what everything also resends successful deliveries; to confirm, use --force".to_owned(),
            "takes-no-range" => {
                "--what pending takes neither --from nor --before: it sends all pending deliveries".to_owned()
            }
            _ => format!("the server rejected the request ({}): {}", self.status, self.detail),
        }
    }
}

impl From<ServerRejection> for Failure {
    fn from(rejected: ServerRejection) -> Self {
        Self::Serving(anyhow!(rejected.advice()))
    }
}

impl Api {
    pub(in crate::cli) fn new(typed: &ArgMatches, env: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let server = typed.get_one::<String>("server").or_else(|| env.get(SERVER_VARIABLE));
        let server = server.map_or(DEFAULT_SERVER, String::as_str);
        let base = Url::parse(server).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let base = base.ok_or_else(|| {
            Failure::NotUnderstood(format!("{server} is not the URL of a server; write a URL such as {DEFAULT_SERVER}"))
        })?;
        install_tls_provider();
        let client = reqwest::Client::builder()
            .user_agent(concat!("longshore-cli/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT);
        let client = match (base.scheme(), typed.get_one::<PathBuf>("server-ca-file")) {
            ("https", Some(path)) => client.tls_certs_only(authorities(path)?),
            ("https", None) => client,
            // The system's certificates are loaded only if they are needed.
            _ => client.tls_certs_only([]),
        };
        let client = client.build().context("could not set up the HTTP client").map_err(Failure::Serving)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("could not start the async runtime").map_err(Failure::Serving)?;
        Ok(Self { base, area: "webhooks", credential: credential(typed, env)?, client, runtime })
    }

    /// Returns the client for another part of the API.
    #[must_use]
    pub(in crate::cli) fn within(self, area: &'static str) -> Self {
        Self { area, ..self }
    }

    pub(in crate::cli) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, Failure> {
        self.get_with(path, &[])
    }

    pub(in crate::cli) fn get_with<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Answer<T>, Failure> {
        Ok(self.try_get(path, query)??)
    }

    /// Like [`Self::get_with`], for callers that handle a rejection.
    pub(super) fn try_get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Result<Answer<T>, ServerRejection>, Failure> {
        self.send(Method::GET, path, query, None)
    }

    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<Answer<T>, Failure> {
        Ok(self.try_post(path, body)??)
    }

    /// Like [`Self::post`], for callers that handle a rejection.
    pub(super) fn try_post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Result<Answer<T>, ServerRejection>, Failure> {
        self.send(Method::POST, path, &[], Some(text(body)))
    }

    /// Sends a POST request without a body.
    pub(in crate::cli) fn post_empty<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, Failure> {
        Ok(self.send(Method::POST, path, &[], None)??)
    }

    pub(super) fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<Answer<T>, Failure> {
        Ok(self.send(Method::PATCH, path, &[], Some(text(body)))??)
    }

    pub(in crate::cli) fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, Failure> {
        Ok(self.send(Method::DELETE, path, &[], None)??)
    }

    fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<String>,
    ) -> Result<Result<Answer<T>, ServerRejection>, Failure> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("an http URL has a path")
            .pop_if_empty()
            .extend(["api", "v1", self.area])
            .extend(path.split('/').filter(|segment| !segment.is_empty()));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.client.request(method, url);
        if let Some(credential) = &self.credential {
            request = request.bearer_auth(credential);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
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
        let (status, answer) = self.runtime.block_on(exchange).map_err(|error| unreached(&server, error))?;
        let foreign =
            |_| Failure::Serving(anyhow!("{server} returned {status} without JSON; is it a Longshore server?"));
        let answer = if answer.is_empty() { b"null" } else { &answer[..] };
        let raw: Value = serde_json::from_slice(answer).map_err(foreign)?;
        if status.is_success() {
            let unknown = |why| Failure::Serving(anyhow!("{server} returned an unexpected response: {why}"));
            return Ok(Ok(Answer { read: T::deserialize(&raw).map_err(unknown)?, raw }));
        }
        let problem = Problem::deserialize(&raw).unwrap_or_default();
        let detail = if problem.detail.is_empty() { "no reason given" } else { &*problem.detail };
        Ok(Err(ServerRejection {
            status: status.as_u16(),
            code: problem.code().to_owned(),
            detail: detail.to_owned(),
            had_credential: self.credential.is_some(),
        }))
    }
}

fn text(body: &impl Serialize) -> String {
    serde_json::to_string(body).expect("names and values are always JSON")
}

/// Returns the key that was given, or else the token. Flags take precedence over variables.
fn credential(typed: &ArgMatches, env: &BTreeMap<String, String>) -> Result<Option<String>, Failure> {
    for flag in ["key-file", "token-file"] {
        if let Some(path) = typed.get_one::<PathBuf>(flag) {
            let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()));
            return Ok(Some(text.map_err(Failure::Serving)?.trim().to_owned()));
        }
    }
    let named = [KEY_VARIABLE, TOKEN_VARIABLE].into_iter().find_map(|name| env.get(name));
    Ok(named.filter(|text| !text.is_empty()).cloned())
}

fn authorities(path: &PathBuf) -> Result<Vec<Certificate>, Failure> {
    let wrong = |why: String| Failure::NotUnderstood(format!("--server-ca-file {}: {why}", path.display()));
    let pem = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("the file contains no PEM certificate".to_owned())) } else { Ok(found) }
}

/// Returns the error for a request without a response.
fn unreached(server: &str, error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let causes = std::iter::successors(error.source(), |&cause| cause.source()).map(ToString::to_string);
    Failure::Serving(match causes.filter_map(|cause| distrust(&cause)).next() {
        Some(why) => anyhow!("the certificate of {server} is not trusted: {why}"),
        None => anyhow::Error::new(error).context(format!("could not reach {server}")),
    })
}

/// Returns what is wrong with a certificate, based on the error text of the TLS library.
fn distrust(cause: &str) -> Option<&'static str> {
    if cause.contains("CaUsedAsEndEntity") {
        return Some(
            "it is a CA certificate, which a server must not present; make a self-signed server certificate with \
             `openssl req -x509 … -addext basicConstraints=critical,CA:FALSE`, and pass it with --server-ca-file",
        );
    }
    if cause.contains("UnknownIssuer") {
        return Some(
            "its issuer is unknown on this machine; pass the certificate of the issuer, or the certificate itself if \
             it is self-signed, with --server-ca-file",
        );
    }
    if cause.contains("NotValidForName") {
        return Some("it is for another name; use a name from the certificate in --server");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_flags_and_not_json() {
        let advice = |code: &str, had_credential| {
            let detail = "as the API words it".to_owned();
            ServerRejection { status: 409, code: code.to_owned(), detail, had_credential }.advice()
        };
        for (code, had_credential, word) in [
            ("has-succeeded", true, "--force"),
            ("needs-force", true, "--force"),
            ("unauthorized", false, "--key-file"),
            ("unauthorized", true, "check --key-file"),
            ("admin-key-needed", true, "--key-file"),
            ("takes-no-range", false, "--from"),
            ("name-taken", false, "(409): as the API words it"),
        ] {
            let advice = advice(code, had_credential);
            assert!(advice.contains(word) && !advice.contains('{'), "{advice}");
        }
    }
}
