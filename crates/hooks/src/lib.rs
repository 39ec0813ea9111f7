//! Blocking hooks: sends signed requests to the application, within a bounded time, and interprets the
//! responses.
//!
//! Hooks are not events: they are sent directly and never through the outbox, with a separate connection pool
//! and separate circuit breakers. A response that neither accepts nor rejects clearly is no verdict. This
//! crate stores nothing; its callers store the records of calls.

mod answer;
mod breaker;
mod metrics;
mod request;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use domain::endpoint::Origin;
use domain::hook::{CallOutcome, Hook, HookCall, HookRequest, HookResult, UploadOverrides, Verdict};
use domain::id::HookCallId;
use outbound::address::{EgressRules, RejectedUrl};
use outbound::resolver::{Lookup, system_lookup};
use outbound::sign::SharedSecret;

pub use metrics::HookMetrics;

use answer::Interpretation;
use breaker::Breaker;
use transport::{HookResponse, HookTransport, TransportError};

/// Maximum size of the stored part of a response body, in bytes.
const KEPT_BYTES: usize = 4 << 10;

/// Settings of hooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookSettings {
    /// URL of each hook, `http` or `https`. A hook without a URL is not called.
    pub urls: Vec<(Hook, Url)>,
    pub secret: SharedSecret,
    /// Timeout of a whole call, including the wait for a free slot.
    pub timeout: Duration,
    /// Maximum number of concurrent calls.
    pub max_in_flight: usize,
    /// Number of consecutive failures of a hook after which its breaker opens.
    pub breaker_failures: u32,
    /// Time for which an open breaker blocks calls.
    pub breaker_pause: Duration,
    /// Hooks that count as accepted if no call is made, or if the application does not respond or responds
    /// with a server error.
    pub fail_open: Vec<Hook>,
    /// Statuses that reject, whatever the body of the response is.
    pub reject_statuses: Vec<u16>,
}

/// Reason why hooks cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum InvalidHookSettings {
    #[error("hooks.{hook} cannot be used: {why}")]
    Url { hook: &'static str, why: RejectedUrl },
    #[error("could not set up the HTTP client for hooks")]
    Client(#[from] reqwest::Error),
}

/// Client for the hooks of the application, over HTTP.
#[derive(Debug)]
pub struct HttpHookClient {
    targets: Vec<HookTarget>,
    slots: Semaphore,
    transport: HookTransport,
    settings: HookSettings,
    metrics: HookMetrics,
}

/// A configured hook with its URL and breaker.
#[derive(Debug)]
struct HookTarget {
    hook: Hook,
    url: Url,
    breaker: Breaker,
}

domain::named! {
    /// Reason why no call was made.
    enum NotCalled {
        BreakerOpen = "breaker_open",
        /// No slot became free in time.
        Overloaded = "overloaded",
    }
}

/// Reports whether the application did not respond, or responded only with a server error.
fn has_no_response(call: &HookCall) -> bool {
    match call.outcome {
        CallOutcome::Timeout | CallOutcome::Unreachable => true,
        CallOutcome::BadStatus => call.status.is_some_and(|status| status >= 500),
        CallOutcome::Accepted | CallOutcome::Rejected | CallOutcome::BadAnswer => false,
    }
}

impl HttpHookClient {
    /// Creates a client. It calls only addresses that `rules` allow for endpoints of the configuration.
    pub fn new(settings: HookSettings, rules: Arc<EgressRules>) -> Result<Self, InvalidHookSettings> {
        Self::new_with(settings, rules, system_lookup())
    }

    fn new_with(settings: HookSettings, rules: Arc<EgressRules>, lookup: Lookup) -> Result<Self, InvalidHookSettings> {
        for (hook, url) in &settings.urls {
            let checked = rules.check_url(url.as_str(), Origin::Config);
            checked.map_err(|why| InvalidHookSettings::Url { hook: hook.name(), why })?;
        }
        let target = |(hook, url): &(Hook, Url)| HookTarget {
            hook: *hook,
            url: url.clone(),
            breaker: Breaker::new(settings.breaker_failures, settings.breaker_pause),
        };
        let https = settings.urls.iter().any(|(_, url)| url.scheme() == "https");
        Ok(Self {
            targets: settings.urls.iter().map(target).collect(),
            slots: Semaphore::new(settings.max_in_flight),
            transport: HookTransport::new(settings.max_in_flight, https, rules, lookup)?,
            metrics: HookMetrics::default(),
            settings,
        })
    }

    pub fn metrics(&self) -> &HookMetrics {
        &self.metrics
    }

    pub fn wants(&self, hook: Hook) -> bool {
        self.target(hook).is_some()
    }

    fn target(&self, hook: Hook) -> Option<&HookTarget> {
        self.targets.iter().find(|target| target.hook == hook)
    }

    /// Calls the hook of one request. Returns within the timeout.
    pub async fn call(&self, request: HookRequest) -> HookResult {
        let Some(target) = self.target(request.hook) else { return HookResult::accepted_without_call() };
        let (verdict, call) = match self.try_call(target, &request).await {
            Ok((interpretation, call)) => {
                self.metrics.count_call(call.hook, call.outcome, call.took);
                (interpretation, Some(call))
            }
            Err(shed) => {
                self.metrics.count_shed(request.hook, shed.name());
                tracing::debug!(hook = request.hook.name(), upload = %request.upload.id(), reason = shed.name(), "a hook was not called");
                (None, None)
            }
        };
        // An application that responded with anything else is not silent, so `fail_open` does not apply.
        let is_silent = call.as_ref().is_none_or(has_no_response);
        let open = verdict.is_none() && is_silent && self.settings.fail_open.contains(&request.hook);
        if open {
            tracing::warn!(hook = request.hook.name(), upload = %request.upload.id(), "continued without a verdict, as hooks.fail_open allows");
        }
        HookResult { verdict: verdict.or(open.then(|| Verdict::Accepted(UploadOverrides::default()))), call }
    }

    async fn try_call(
        &self,
        target: &HookTarget,
        request: &HookRequest,
    ) -> Result<(Option<Verdict>, HookCall), NotCalled> {
        let deadline = Instant::now() + self.settings.timeout;
        if target.breaker.is_open(Instant::now()) {
            return Err(NotCalled::BreakerOpen);
        }
        let slot = timeout_at(deadline, self.slots.acquire()).await;
        let _slot = slot.map_err(|_| NotCalled::Overloaded)?.expect("it is never closed");
        let began = Instant::now();
        let permit = target.breaker.admit(began).ok_or(NotCalled::BreakerOpen)?;
        let message = request::signed(request, &self.settings.secret);
        let response = self.transport.send(&target.url, message, deadline).await;
        let (interpretation, call) = self.interpret(request, response, began.elapsed());
        permit.complete(!has_no_response(&call), Instant::now());
        self.metrics.note_breaker(target.hook, target.breaker.is_open(Instant::now()));
        if !call.outcome.is_verdict() {
            tracing::warn!(hook = target.hook.name(), upload = %call.upload, outcome = call.outcome.name(), status = call.status, why = call.message, "a hook gave no verdict");
        }
        Ok((interpretation, call))
    }

    fn interpret(
        &self,
        request: &HookRequest,
        response: Result<HookResponse, TransportError>,
        took: Duration,
    ) -> (Option<Verdict>, HookCall) {
        let mut call = HookCall {
            id: HookCallId::new(request.requested_at, rand::random()),
            hook: request.hook,
            tenant: request.upload.tenant(),
            upload: request.upload.id(),
            decision: request.decision.clone(),
            started_at: request.requested_at,
            took,
            outcome: CallOutcome::Accepted,
            status: None,
            message: None,
            response_body: Vec::new(),
        };
        let response = match response {
            Ok(response) => response,
            Err(TransportError::Timeout) => {
                call.outcome = CallOutcome::Timeout;
                call.message = Some(format!("no complete answer within {:?}", self.settings.timeout));
                return (None, call);
            }
            Err(TransportError::Unreachable(why)) => {
                (call.outcome, call.message) = (CallOutcome::Unreachable, Some(why));
                return (None, call);
            }
        };
        call.status = Some(response.status);
        call.response_body = response.body[..response.body.len().min(KEPT_BYTES)].to_vec();
        match answer::interpret(request.hook, &response, &self.settings.reject_statuses, request.requested_at) {
            Interpretation::Verdict(verdict) => {
                if let Verdict::Rejected(failure) = &verdict {
                    (call.outcome, call.message) = (CallOutcome::Rejected, Some(failure.message.clone()));
                }
                (Some(verdict), call)
            }
            Interpretation::BadStatus => {
                call.outcome = CallOutcome::BadStatus;
                call.message = Some(format!("status {} neither accepts nor rejects", response.status));
                (None, call)
            }
            Interpretation::BadAnswer(why) => {
                (call.outcome, call.message) = (CallOutcome::BadAnswer, Some(why));
                (None, call)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::{IpAddr, SocketAddr};

    use domain::dialect::Dialect;
    use domain::metadata::Metadata;
    use domain::principal::TenantId;
    use domain::size::Length;
    use domain::upload::{NewUpload, Role, Upload, UploadTerms};
    use domain::write_rules::{Completion, WriteOrder, WriteRules};
    use outbound::testing::{Receiver, SECRET, Script, wall_clock};

    fn settings(url: &str) -> HookSettings {
        HookSettings {
            urls: vec![(Hook::PreCreate, url.parse().unwrap())],
            secret: SECRET.parse().unwrap(),
            timeout: Duration::from_secs(10),
            max_in_flight: 8,
            breaker_failures: 100,
            breaker_pause: Duration::from_secs(1),
            fail_open: Vec::new(),
            reject_statuses: Vec::new(),
        }
    }

    fn request() -> HookRequest {
        let now = wall_clock();
        let new = NewUpload {
            id: domain::id::UploadId::new(now, [7; 10]),
            tenant: TenantId::DEFAULT,
            dialect: Dialect::named("tus"),
            write_rules: WriteRules { order: WriteOrder::InOrder, completion: Completion::WhenFull },
            role: Role::Single,
            length: Length::new(11),
            metadata: Metadata::default(),
            metadata_as_sent: None,
            terms: UploadTerms::default(),
            wanted_digests: vec![],
            promised_digests: vec![],
            expires_at: now,
        };
        HookRequest::new(Hook::PreCreate, &Upload::create(new, now), None, now, [3; 10])
    }

    /// Returns a lookup that resolves every name to `addresses`.
    fn leads_to(addresses: &[&str]) -> Lookup {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Arc::new(move |_| {
            let addresses = addresses.clone();
            Box::pin(async move { Ok(addresses) })
        })
    }

    /// Returns the outcome of a call to `url` from a server that listens at `own`.
    async fn outcome(url: &str, own: &[SocketAddr], lookup: Lookup) -> (CallOutcome, Option<String>) {
        let rules = Arc::new(EgressRules::default());
        let hooks = HttpHookClient::new_with(settings(url), Arc::clone(&rules), lookup).unwrap();
        rules.set_own(own.to_vec());
        let call = hooks.call(request()).await.call.unwrap();
        (call.outcome, call.message)
    }

    #[test]
    fn a_hook_cannot_be_where_clouds_keep_secrets() {
        for address in ["169.254.169.254", "0xa9fea9fe", "[::ffff:169.254.169.254]", "[fd00:ec2::254]"] {
            let refused =
                HttpHookClient::new(settings(&format!("http://{address}/hooks")), Arc::default()).unwrap_err();
            assert!(refused.to_string().starts_with("hooks.pre_create cannot be used: its address is"), "{refused}");
        }
    }

    /// The request is repeated regardless of how long the connection took to fail.
    #[tokio::test]
    async fn a_question_on_a_dead_idle_connection_is_asked_once_more() {
        let late = Script::ResetLate(Duration::from_millis(1_200));
        let receiver = Receiver::start([Script::Status(200), late, Script::Status(200)]).await;
        let hooks = HttpHookClient::new(settings(&receiver.url()), Arc::default()).unwrap();
        for _ in 0..2 {
            let call = hooks.call(request()).await.call.unwrap();
            assert_eq!(call.outcome, CallOutcome::Accepted, "{:?}", call.message);
        }
        let connections: Vec<_> = receiver.received().iter().map(|request| request.connection).collect();
        assert_eq!(connections, [0, 0, 1]);
    }

    #[tokio::test]
    async fn a_name_leads_no_hook_where_it_cannot_be() {
        let receiver = Receiver::start([Script::Status(200)]).await;
        let by_name = format!("http://hooks.test:{}/hooks", receiver.address.port());
        let blocked = (CallOutcome::Unreachable, true);
        for addresses in [["169.254.169.254"], ["fd00:ec2::254"]] {
            let (outcome, why) = outcome(&by_name, &[], leads_to(&addresses)).await;
            assert_eq!((outcome, why.unwrap().contains("metadata service")), blocked, "{addresses:?}");
        }
        // Both URLs lead to this server.
        for url in [by_name.clone(), receiver.url()] {
            let (outcome, why) = outcome(&url, &[receiver.address], leads_to(&["127.0.0.1"])).await;
            assert_eq!((outcome, why.unwrap().contains("this server")), blocked, "{url}");
        }
        assert!(receiver.received().is_empty());
        // Private addresses are called, even if the name also has a blocked address.
        let mixed = leads_to(&["169.254.169.254", "127.0.0.1"]);
        assert_eq!(outcome(&by_name, &[], mixed).await.0, CallOutcome::Accepted);
        assert_eq!(receiver.received().len(), 1);
    }
}
