//! Where backends report stages of their own.

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};

use crate::edge::principal::principal;
use crate::edge::problem::Problem;
use crate::edge::{Shared, body, json};
use crate::front::status;
use api::upload::{NewReport as Said, Report};
use domain::report::{NewReport, ReportRefused};
use engine::report::ReportError;

/// Enough for the longest message with every character escaped.
const MAX_BODY_BYTES: usize = 8 * 1024;

const ALLOW: &str = "POST, OPTIONS";

/// `POST /api/v1/uploads/{id}/stages`. Who may was judged before.
pub(super) async fn report(
    request: HttpRequest,
    id: web::Path<String>,
    payload: web::Payload,
    shared: web::Data<Shared>,
) -> HttpResponse {
    match request.method().as_str() {
        "POST" => answer(&request, &id, payload, &shared).await.unwrap_or_else(|problem| problem.respond(&request)),
        "OPTIONS" => HttpResponse::NoContent().insert_header((header::ALLOW, ALLOW)).finish(),
        _ => Problem::method_not_allowed(ALLOW).respond(&request),
    }
}

async fn answer(
    request: &HttpRequest,
    id: &str,
    payload: web::Payload,
    shared: &Shared,
) -> Result<HttpResponse, Problem> {
    let id = status::parse_id(id)?;
    if let Some(refusal) = json::is_not(request) {
        return Err(refusal);
    }
    let body = body::small(request, payload, MAX_BODY_BYTES, shared.idle_timeout).await;
    let body = body.map_err(|error| status::problem(error, request))?.ok_or_else(too_large)?;
    let new = read(&body)?;
    let name = new.name().to_owned();
    let (upload, _) =
        shared.engine.report(&principal(request), id, new).await.map_err(|error| problem(error, request))?;
    let report = upload.record().reports.iter().find(|report| report.name == name);
    Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(report.map(Report::from)))
}

fn read(body: &[u8]) -> Result<NewReport, Problem> {
    let form = r#"write JSON such as {"name": "transcoding", "percent": 40, "message": "720p"}"#;
    let Said { name, percent, message } = serde_json::from_slice(body)
        .map_err(|why| Problem::bad_request("bad-report", format!("the body is not a report: {why}; {form}")))?;
    NewReport::new(name, percent, message).map_err(|why| Problem::bad_request("bad-report", why.to_string()))
}

fn too_large() -> Problem {
    let detail = format!("a report has at most {MAX_BODY_BYTES} bytes; shorten its message");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "report-too-large", detail)
}

fn problem(error: ReportError, request: &HttpRequest) -> Problem {
    let refused = match error {
        ReportError::Engine(error) => return status::problem(error, request),
        ReportError::Refused(refused) => refused,
    };
    let code = match refused {
        ReportRefused::Ended(_) => "upload-ended",
        ReportRefused::TooEarly(_) => "not-received",
        ReportRefused::TooMany => "too-many-stages",
    };
    Problem::new(StatusCode::CONFLICT, code, refused.to_string())
}
