//! Receives reports of backends about their own stages.

use std::sync::Arc;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse};

use crate::front::{UploadApi, problems};
use api::upload::{NewStageReport as Said, StageReport};
use domain::report::{NewReport, ReportRejected};
use edge::principal::principal;
use edge::problem::Problem;
use edge::table::RoutedRequest;
use edge::{body, json};
use engine::report::ReportError;

/// Maximum size of a report in bytes: enough for the longest message with every character escaped.
const MAX_BODY_BYTES: usize = 8 * 1024;

/// `POST /api/v1/uploads/{id}/stages`.
pub(super) async fn report(call: RoutedRequest, shared: Arc<UploadApi>) -> Result<HttpResponse, Problem> {
    let id = problems::parse_id(&call.parameter(0))?;
    let RoutedRequest { request, payload, .. } = call;
    let request = &request;
    if let Some(refusal) = json::is_not(request) {
        return Err(refusal);
    }
    let body = body::small(request, payload, MAX_BODY_BYTES, shared.idle_timeout).await;
    let body = body.map_err(|cut| problems::cut(cut, request))?.ok_or_else(too_large)?;
    let new = read(&body)?;
    let name = new.name().to_owned();
    let (upload, _) =
        shared.engine.report(&principal(request), id, new).await.map_err(|error| problem(error, request))?;
    let report = upload.record().reports.iter().find(|report| report.name == name);
    Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(report.map(StageReport::from)))
}

fn read(body: &[u8]) -> Result<NewReport, Problem> {
    let form = r#"write JSON such as {"name": "transcoding", "percent": 40, "message": "720p"}"#;
    let Said { name, percent, message } = serde_json::from_slice(body)
        .map_err(|why| Problem::bad_request("bad-report", format!("the body is not a valid report: {why}; {form}")))?;
    NewReport::new(name, percent, message).map_err(|why| Problem::bad_request("bad-report", why.to_string()))
}

fn too_large() -> Problem {
    let detail = format!("a report may have at most {MAX_BODY_BYTES} bytes; shorten its message");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "report-too-large", detail)
}

fn problem(error: ReportError, request: &HttpRequest) -> Problem {
    let refused = match error {
        ReportError::Engine(error) => return problems::problem(error, request),
        ReportError::Rejected(refused) => refused,
    };
    let code = match refused {
        ReportRejected::Ended(_) => "upload-ended",
        ReportRejected::TooEarly(_) => "not-received",
        ReportRejected::TooMany => "too-many-stages",
    };
    Problem::new(StatusCode::CONFLICT, code, refused.to_string())
}
