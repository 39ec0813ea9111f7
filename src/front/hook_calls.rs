//! The log of hook calls: requests to the application and its verdicts.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::http::header;

use crate::front::cursors::PageCursors;
use crate::front::{WebhookApi, position, problems, status};
use api::hook::HookCallList;
use domain::id::HookCallId;
use domain::query::HookCallQuery;
use edge::principal::principal;
use edge::problem::Problem;
use edge::query;
use edge::query::Query;
use edge::table::RoutedRequest;

/// `GET /api/v1/webhooks/hooks`, newest first.
pub(super) async fn list(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    let request = &call.request;
    let principal = principal(request);
    let cursors = PageCursors::in_hook_calls(&shared.cursors, &principal);
    let mut wanted = call_query(request.query_string(), shared.max_page, &cursors)?;
    let position = position::known(request)?;
    let memory = shared.answers.reserve_page(request, &mut wanted.limit, shared.max_metadata_bytes).await?;
    let found = shared.engine.queries(&principal, position).hook_calls(&wanted).await;
    let found = found.map_err(|error| problems::problem(error, request))?;
    let full = found.len() == usize::try_from(wanted.limit).unwrap_or(usize::MAX);
    let (calls, last) = status::page(found.iter().map(api::hook::HookCallRecord::from), full);
    let next = last.and_then(|last| found.get(last)).map(|call| cursors.cursor(call.id.as_bytes()));
    let mut answer = HttpResponse::Ok();
    answer.insert_header((header::CACHE_CONTROL, "no-cache"));
    Ok(memory.with(answer.json(HookCallList { calls, next })))
}

fn call_query(text: &str, max_page: u32, cursors: &PageCursors<'_>) -> Result<HookCallQuery, Problem> {
    let mut wanted = HookCallQuery { limit: 100.min(max_page), ..HookCallQuery::default() };
    for (name, value) in Query::parse(text)?.pairs() {
        match name {
            "upload" => wanted.upload = Some(query::upload_id(name, value)?),
            "cursor" => wanted.before = Some(HookCallId::from_bytes(cursors.open(value)?)),
            "limit" => wanted.limit = query::limit(value, max_page)?,
            _ => return Err(query::unknown(name, "upload, cursor, limit")),
        }
    }
    Ok(wanted)
}
