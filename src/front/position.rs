//! The position of a client's writes, which a read must include.
//!
//! Every response to a write names a position. A client that reads at another node may name it there: the
//! read then shows the write, however far a replica of the database lags behind.

use actix_web::HttpRequest;

use domain::position::CommitPosition;
use edge::POSITION;
use edge::problem::Problem;

/// Returns the position that a request names, if it names one.
pub(super) fn known(request: &HttpRequest) -> Result<Option<CommitPosition>, Problem> {
    let mut named = request.headers().get_all(POSITION);
    let Some(first) = named.next() else { return Ok(None) };
    let position = first.to_str().ok().filter(|_| named.next().is_none()).and_then(|text| text.trim().parse().ok());
    let detail = "Longshore-Position must be exactly one value, as this header of an earlier response had it";
    position.map(Some).ok_or_else(|| Problem::bad_request("bad-position", detail))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_request_names_one_position_or_none() {
        let request = |values: &[&'static str]| {
            let header = |request: TestRequest, value: &&'static str| request.append_header((POSITION, *value));
            values.iter().fold(TestRequest::get(), header).to_http_request()
        };
        assert_eq!(known(&request(&[])).ok(), Some(None));
        let position = CommitPosition { timeline: 1, offset: 0x1f };
        assert_eq!(known(&request(&["p1-1f"])).ok(), Some(Some(position)));
        for wrong in [&["0/1F"][..], &[""], &["p1-1f, p1-20"], &["p1-1f", "p1-20"]] {
            assert!(known(&request(wrong)).is_err(), "{wrong:?}");
        }
    }
}
