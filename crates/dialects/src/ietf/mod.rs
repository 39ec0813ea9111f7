//! Resumable Uploads for HTTP: the versions of the IETF draft, and the RFC that it becomes.
//!
//! An upload completes when its client declares it complete, not when its length is reached. A client learns
//! the URL of its upload from an interim response before it has sent the body, if the version and the
//! connection allow one.

use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::http::header::HeaderMap;
use actix_web::{HttpRequest, HttpResponse};
use futures::FutureExt;
use futures::future::{LocalBoxFuture, ready};

use crate::caller::caller;
use crate::dialect::{DialectRequest, Marked, RequestTarget};
use crate::metadata::PARTIAL_UPLOAD;
use crate::uploads::UploadContext;
use crate::{dialect, digests, download, pump};
use domain::checksum::{Algorithm, Digest};
use domain::dialect::Dialect;
use domain::id::UploadId;
use domain::rejection::Rejection;
use domain::stage::Stage;
use domain::upload::{Role, Upload};
use domain::write_rules::{Completion, WriteOrder, WriteRules};
use edge::body;
use edge::body::{HeaderFields, Interim};
use edge::principal::principal;
use edge::problem::Problem;
use engine::command::{Append, Cancel, CompletesUpload, Create, EngineError};

mod disposition;
mod draft;
mod reply;
mod wire;

use draft::DraftVersion;
use wire::{Creation, WireError};

/// Bytes are written at the offset, and the client declares which of them complete the upload.
const FILLING: WriteRules = WriteRules { order: WriteOrder::InOrder, completion: Completion::WhenSaid };

const RESOURCE_METHODS: &str = "OPTIONS, HEAD, GET, PATCH, DELETE";

/// The name under which uploads are recorded.
const NAME: Dialect = Dialect::named("ietf");

/// Returns the description of this dialect for the front.
pub(crate) fn dialect() -> dialect::DialectHandler {
    dialect::DialectHandler {
        records: &[NAME],
        methods: &["POST", "PUT", "HEAD", "GET", "PATCH", "DELETE"],
        patch_type: Some(PARTIAL_UPLOAD),
        request_fields: [&wire::REQUEST_FIELDS[..], &digests::REQUEST_FIELDS].concat(),
        answer_fields: [&wire::ANSWER_FIELDS[..], &digests::ANSWER_FIELDS].concat(),
        marker: None,
        busy_head: None,
        recognise: wire::recognise,
        effective_method: |_, _| None,
        add_options,
        answer,
        whole_file: None,
        routes: &[],
    }
}

fn answer(dialect_request: DialectRequest, shared: Arc<UploadContext>) -> LocalBoxFuture<'static, HttpResponse> {
    match dialect_request.target {
        RequestTarget::Collection => create(dialect_request, shared),
        RequestTarget::Upload(id) => Box::pin(async move {
            let exchange = IetfRequest::new(&dialect_request.request, dialect_request.marked, &shared);
            let answer = exchange.resource(id, dialect_request.payload).await;
            exchange.versioned(answer)
        }),
        RequestTarget::Name(_) | RequestTarget::Own(_) => {
            let exchange = IetfRequest::new(&dialect_request.request, dialect_request.marked, &shared);
            let rejection = exchange.rejected(Rejection::NotFound.into());
            ready(exchange.versioned(Err(rejection))).boxed_local()
        }
    }
}

/// Answers a creation, or stores a whole file if the request turns out to have no valid mark.
fn create(dialect_request: DialectRequest, shared: Arc<UploadContext>) -> LocalBoxFuture<'static, HttpResponse> {
    let request = dialect_request.request.clone();
    let exchange = IetfRequest::new(&request, dialect_request.marked, &shared);
    let count = body::announced_size(&request).known();
    let understood = wire::creation(&exchange.draft, &exchange.fields(), count, shared.settings.max_metadata_bytes);
    let rejection = match (understood, request.method().as_str()) {
        (Ok(Some(creation)), "POST" | "PUT" | "PATCH") => {
            return Box::pin(async move {
                let exchange = IetfRequest::new(&request, dialect_request.marked, &shared);
                let answer = exchange.create(creation, count, dialect_request.payload).await;
                exchange.versioned(answer)
            });
        }
        // Draft, 4.1.2: without a valid `Upload-Complete` it is an ordinary request.
        (Ok(None), "POST" | "PUT") => return (dialect_request.whole_file)(dialect_request, Arc::clone(&shared)),
        (Ok(None), "PATCH") => exchange.completeness_missing(),
        (Ok(_), _) => Problem::method_not_allowed("OPTIONS, POST, PUT, PATCH"),
        (Err(error), _) => exchange.creation_rejected(&error),
    };
    ready(exchange.versioned(Err(rejection))).boxed_local()
}

/// Adds the fields that clients of this dialect look for to the response to OPTIONS.
fn add_options(headers: &mut HeaderMap, shared: &UploadContext) {
    let settings = shared.engine.settings();
    let draft = DraftVersion::of(&Vec::new(), &[]);
    let limit = wire::limit(
        &draft,
        settings.max_upload_bytes,
        Some(settings.lifetimes.unfinished_expiry.min(settings.lifetimes.unfinished_age)),
    );
    reply::add_options(headers, &limit);
}

/// A request, with the behavior of its version.
struct IetfRequest<'a> {
    request: &'a HttpRequest,
    shared: &'a UploadContext,
    marked: Marked,
    draft: DraftVersion,
}

impl<'a> IetfRequest<'a> {
    fn new(request: &'a HttpRequest, marked: Marked, shared: &'a UploadContext) -> Self {
        let fields = HeaderFields(request.headers());
        Self {
            request,
            shared,
            marked,
            draft: DraftVersion::of(&fields, &shared.settings.protocols.ietf_interop_versions),
        }
    }

    fn fields(&self) -> HeaderFields<'_> {
        HeaderFields(self.request.headers())
    }

    async fn resource(&self, id: UploadId, payload: Payload) -> Result<HttpResponse, Problem> {
        match self.request.method().as_str() {
            "HEAD" => self.head(id).await,
            "GET" => self.get(id).await,
            "PATCH" => self.append(id, payload).await,
            "DELETE" => self.cancel(id).await,
            _ => Err(Problem::method_not_allowed(RESOURCE_METHODS)),
        }
    }

    async fn create(&self, creation: Creation, count: Option<u64>, payload: Payload) -> Result<HttpResponse, Problem> {
        let engine = &self.shared.engine;
        let reject = |error| reply::rejected(error, &self.draft, &self.limit(None), self.request);
        let max_bytes = engine.settings().max_upload_bytes;
        if count.is_some_and(|count| count > max_bytes) {
            return Err(reject(Rejection::OverLimit(max_bytes).into()));
        }
        let empty = creation.length.is_some_and(|length| length.get() == 0);
        let command = Create {
            principal: principal(self.request),
            dialect: NAME,
            write_rules: FILLING,
            role: Role::Single,
            // An upload of length 0 would be complete immediately, although its client may not have declared
            // it complete.
            length: creation.length.filter(|_| !empty),
            metadata: creation.metadata,
            metadata_as_sent: None,
            wanted_digests: creation.wanted_digests,
            promised_digests: creation.promised_digests,
            caller: caller(self.request, self.shared),
        };
        let upload = engine.create(command).await.map_err(reject)?;
        let location = self.shared.location(self.request, upload.id());
        let only_created =
            count == Some(0) && !empty && creation.ends == CompletesUpload::Later && creation.checksum.is_none();
        if only_created {
            return Ok(self.created(&upload, &[]));
        }
        if let Some(interim) = self.interim() {
            interim.send_104(&reply::begun(&self.draft, &location, &self.limit(Some(&upload))));
        }
        let command = Append {
            dialect: NAME,
            length: creation.length,
            ends: creation.ends,
            checksum: creation.checksum.clone(),
            overflow: self.draft.overflow,
            caller: caller(self.request, self.shared),
            ..Append::at(principal(self.request), upload.id(), upload.offset(), count)
        };
        match self.pump(command, payload).await {
            Ok(upload) => Ok(self.created(&upload, &[])),
            Err(error) => {
                let (problem, alive) = self.append_rejected(error, upload.id(), creation.checksum.as_ref()).await;
                // A client that has received no interim response can resume with this.
                Err(if alive { problem.with(header::LOCATION, location) } else { problem })
            }
        }
    }

    async fn append(&self, id: UploadId, payload: Payload) -> Result<HttpResponse, Problem> {
        let count = body::announced_size(self.request).known();
        let appending = wire::append(&self.draft, &self.fields(), count)
            .map_err(|error| reply::mark_resumable(reply::wire_problem(&error, &self.draft), &self.draft))?;
        let command = Append {
            dialect: NAME,
            length: appending.length,
            ends: appending.ends,
            checksum: appending.checksum.clone(),
            overflow: self.draft.overflow,
            caller: caller(self.request, self.shared),
            ..Append::at(principal(self.request), id, appending.at, count)
        };
        match self.pump(command, payload).await {
            Ok(upload) if upload.is_settled() => Ok(self.created(&upload, &digests::wanted(&self.fields()))),
            Ok(upload) => Ok(reply::appended(&self.draft, &upload, &self.limit(Some(&upload)))),
            Err(error) => Err(self.append_rejected(error, id, appending.checksum.as_ref()).await.0),
        }
    }

    async fn pump(&self, command: Append, payload: Payload) -> Result<Upload, EngineError> {
        let feed = self.shared.engine.append(command).await?;
        let interim = self.interim();
        let report = |offset_bytes| {
            if let Some(interim) = &interim {
                interim.send_104(&reply::progress(&self.draft, offset_bytes));
            }
        };
        let report: Option<&dyn Fn(u64)> = if interim.is_some() { Some(&report) } else { None };
        pump::pump_with_progress(self.request, payload, feed, self.shared.settings.idle_timeout, report).await
    }

    /// Answers HEAD. Clients of the final RFC do not mark it, so an unmarked HEAD reports the offset while
    /// the upload is not complete. After that, its response also has all fields of GET.
    async fn head(&self, id: UploadId) -> Result<HttpResponse, Problem> {
        self.check_query()?;
        let upload = self.inspect(id).await?;
        if upload.stage() == Stage::Completed && self.marked == Marked::No {
            return self.get(id).await;
        }
        Ok(self.offset(&upload))
    }

    async fn inspect(&self, id: UploadId) -> Result<Upload, Problem> {
        let found =
            self.shared.engine.inspect(&principal(self.request), id).await.map_err(|error| self.rejected(error))?;
        match found.gone {
            Some(why) => Err(self.rejected(why.into())),
            None => Ok(found.upload),
        }
    }

    fn offset(&self, upload: &Upload) -> HttpResponse {
        reply::offset(&self.draft, upload, &self.limit(Some(upload)))
    }

    async fn get(&self, id: UploadId) -> Result<HttpResponse, Problem> {
        let Some(found) =
            self.shared.engine.download(&principal(self.request), id).await.map_err(|error| self.rejected(error))?
        else {
            // Draft, 4.3.2: GET reports the offset as HEAD does.
            return Ok(self.offset(&self.inspect(id).await?));
        };
        let upload = found.upload.clone();
        let mut response =
            download::serve(self.request, found, &self.shared.metrics).await.map_err(|error| self.rejected(error))?;
        reply::add_offset(response.headers_mut(), &self.draft, &upload, &self.limit(Some(&upload)));
        Ok(response)
    }

    async fn cancel(&self, id: UploadId) -> Result<HttpResponse, Problem> {
        self.check_query()?;
        let command = Cancel { principal: principal(self.request), id, caller: caller(self.request, self.shared) };
        self.shared.engine.cancel(command).await.map_err(|error| self.rejected(error))?;
        Ok(reply::cancelled())
    }

    fn created(&self, upload: &Upload, wanted: &[Algorithm]) -> HttpResponse {
        let location = self.shared.location(self.request, upload.id());
        reply::created(&self.draft, upload, &location, &self.limit(Some(upload)), wanted)
    }

    fn check_query(&self) -> Result<(), Problem> {
        wire::check_query(&self.draft, &self.fields()).map_err(|bad| reply::wire_problem(&bad.into(), &self.draft))
    }

    fn completeness_missing(&self) -> Problem {
        let bad = wire::completeness_missing(&self.draft);
        reply::wire_problem(&bad.into(), &self.draft)
    }

    fn creation_rejected(&self, error: &WireError) -> Problem {
        let problem = reply::wire_problem(error, &self.draft);
        match error {
            WireError::InconsistentLength { .. } => problem,
            // There is no upload that could be resumed.
            WireError::Field(_) | WireError::Digests(_) | WireError::MediaType | WireError::TooLarge { .. } => {
                reply::mark_final(problem, &self.draft)
            }
        }
    }

    fn rejected(&self, error: EngineError) -> Problem {
        reply::rejected(error, &self.draft, &self.limit(None), self.request)
    }

    /// Returns the problem for rejected bytes, and whether the upload can be resumed.
    async fn append_rejected(&self, error: EngineError, id: UploadId, checksum: Option<&Digest>) -> (Problem, bool) {
        let upload = self
            .shared
            .engine
            .status(&principal(self.request), id)
            .await
            .ok()
            .filter(|found| !found.expired)
            .map(|found| found.upload);
        let limit = self.limit(upload.as_ref());
        let alive = upload.as_ref().is_some_and(|upload| upload.stage().takes_bytes());
        (reply::append_rejected(error, &self.draft, &limit, upload.as_ref(), checksum, self.request), alive)
    }

    /// Returns the handle for interim responses, if the version has them.
    fn interim(&self) -> Option<Interim> {
        self.draft.interop.and_then(|_| Interim::of(self.request))
    }

    fn limit(&self, upload: Option<&Upload>) -> String {
        let engine = &self.shared.engine;
        let left = upload.and_then(|upload| engine.time_left(upload));
        let max_bytes = engine.settings().max_upload_bytes;
        wire::limit(&self.draft, upload.map_or(max_bytes, |upload| upload.most_bytes(max_bytes)), left)
    }

    fn versioned(&self, answer: Result<HttpResponse, Problem>) -> HttpResponse {
        let mut answer = answer.unwrap_or_else(|problem| problem.respond(self.request));
        reply::add_version(answer.headers_mut(), &self.draft);
        answer
    }
}
