//! Errors of the engine that have the same meaning in every dialect, as problems.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::{StatusCode, header};

use domain::rejection::Rejection;
use edge::problem::{Problem, request_id};
use engine::command::{EngineError, Unavailable};

/// Returns the problem for an error that has the same meaning in every dialect. Returns the rejection if it
/// is one, because each dialect has its own response to it.
pub fn common(error: EngineError, request: &HttpRequest) -> Result<Problem, Rejection> {
    let soon = Duration::from_secs(1);
    Ok(match error {
        EngineError::Rejected(rejection) => return Err(rejection),
        EngineError::Unavailable(why) => {
            let code = match why {
                Unavailable::ShuttingDown => "shutting-down",
                Unavailable::Draining => "draining",
                Unavailable::WrongClock => "wrong-clock",
                Unavailable::Busy | Unavailable::TooManyReaders | Unavailable::Full => "busy",
                Unavailable::Superseded => "superseded",
                Unavailable::Held => "held",
                Unavailable::Fenced => "no-contact",
                Unavailable::Settling => "settling",
                Unavailable::IncompleteBody => "incomplete-body",
                Unavailable::Undecided => "application-unavailable",
                Unavailable::DatabaseGone => "database-gone",
                Unavailable::DatabaseUnreachable => "database-unreachable",
            };
            // An application that could not be reached is seldom back within a second.
            let after = if why == Unavailable::Undecided { 5 * soon } else { soon };
            Problem::try_again(code, why.to_string(), after)
        }
        EngineError::NoSpace => {
            let detail = "there is not enough disk space for this data at the moment; bytes that were stored before \
                          are kept";
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, "no-space", detail).with(header::RETRY_AFTER, "30")
        }
        EngineError::Failed { .. } => {
            let id = request_id(request);
            let error = &error as &dyn std::error::Error;
            tracing::error!(request = %id, error, "could not serve a request");
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the server could not process the request; the log has the cause under this request id",
            )
            .with(header::RETRY_AFTER, "5")
        }
    })
}

/// Returns the error of an append or a query whose body stopped before its end.
pub(crate) fn broken_off() -> EngineError {
    EngineError::Unavailable(Unavailable::IncompleteBody)
}
