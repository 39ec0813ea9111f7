//! The fields about an upload in responses to offset queries, with the same meaning in every dialect.
//!
//! Clients ignore the fields of other dialects, so every client receives all of them.

use std::time::SystemTime;

use actix_web::HttpResponseBuilder;
use actix_web::http::header;
use actix_web::http::header::HeaderName;

use domain::stage::Stage;
use domain::time::Timestamp;
use domain::upload::{Role, Upload};
use edge::problem::Problem;

pub(crate) const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
pub(crate) const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
pub(crate) const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
const UPLOAD_DEFER_LENGTH: HeaderName = HeaderName::from_static("upload-defer-length");
const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const UPLOAD_CONCAT: HeaderName = HeaderName::from_static("upload-concat");

pub(crate) fn insert(response: &mut HttpResponseBuilder, upload: &Upload) {
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    let record = upload.record();
    match &record.role {
        Role::Single => {}
        Role::Partial => {
            response.insert_header((UPLOAD_CONCAT, "partial"));
        }
        Role::Final { as_sent, .. } => {
            response.insert_header((UPLOAD_CONCAT, as_sent.as_str()));
        }
    }
    // tus 1.0, Concatenation: a final upload has an offset only once it is complete.
    if !upload.is_final() || upload.is_settled() {
        response.insert_header((UPLOAD_OFFSET, upload.offset().get()));
    }
    match record.length {
        Some(length) => response.insert_header((UPLOAD_LENGTH, length.get())),
        None => response.insert_header((UPLOAD_DEFER_LENGTH, "1")),
    };
    if let Some(metadata) = &record.metadata_as_sent {
        response.insert_header((UPLOAD_METADATA, metadata.as_str()));
    }
    insert_expiry(response, upload);
}

/// Rejects the download of an upload that is not complete, and reports its offset.
pub(crate) fn not_complete(upload: &Upload) -> Problem {
    let mut problem = Problem::not_complete(upload).with(UPLOAD_OFFSET, upload.offset().to_string());
    if let Some(length) = upload.length() {
        problem = problem.with(UPLOAD_LENGTH, length.to_string());
    }
    match expiry(upload) {
        Some(at) => problem.with(UPLOAD_EXPIRES, at),
        None => problem,
    }
}

pub(crate) fn insert_expiry(response: &mut HttpResponseBuilder, upload: &Upload) {
    if let Some(at) = expiry(upload) {
        response.insert_header((UPLOAD_EXPIRES, at));
    }
}

/// Returns the expiry of an unfinished upload (tus 1.0, Expiration).
pub(crate) fn expiry(upload: &Upload) -> Option<String> {
    let record = upload.record();
    record.expires_at.filter(|_| record.stage != Stage::Completed).map(imf_fixdate)
}

pub(crate) fn imf_fixdate(at: Timestamp) -> String {
    let since_1970 = at.since(Timestamp::from_unix_ms(0));
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + since_1970)
}
