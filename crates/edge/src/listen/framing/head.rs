//! The head of one HTTP/1.1 request: finds its end, and determines the framing of the body.
//!
//! Reads strictly. A head that two parsers could interpret differently is rejected, because a proxy in front
//! may be one of them (RFC 9112, 6.3 and 11.2). An accepted head has the same meaning for every parser.

use actix_web::http::{Method, StatusCode, Uri};

use crate::problem::Problem;

/// The largest head.
pub(super) const MAX_HEAD_BYTES: usize = 128 * 1024;

/// The largest number of fields; the HTTP layer has the same limit.
const MAX_FIELDS: usize = 96;

/// The framing of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyFraming {
    None,
    Sized(u64),
    Chunked,
}

/// The reason for which a head is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHead {
    #[error("this is not an HTTP/1.1 or HTTP/1.0 request")]
    NotHttp,
    #[error("every line of the head must end with CR LF")]
    BareLineFeed,
    #[error("the request line or a header field is malformed")]
    Malformed,
    #[error("the target of the request is not a valid URI")]
    Target,
    #[error("an HTTP/1.1 request must have exactly one Host field")]
    Host,
    #[error("Content-Length must be one field with one decimal number")]
    Length,
    #[error("Transfer-Encoding must be one field with the value chunked, in HTTP/1.1 and without Content-Length")]
    TransferEncoding,
    #[error("the head has more than 128 KiB or more than 96 fields")]
    TooLarge,
    #[error("this server is not a proxy")]
    Connect,
}

impl BadHead {
    /// Returns an identifier for logs and metrics.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::NotHttp => "not-http",
            Self::BareLineFeed => "bare-line-feed",
            Self::Malformed => "malformed-head",
            Self::Target => "bad-target",
            Self::Host => "bad-host",
            Self::Length => "bad-length",
            Self::TransferEncoding => "bad-transfer-encoding",
            Self::TooLarge => "head-too-large",
            Self::Connect => "connect",
        }
    }

    pub(super) fn problem(self) -> Problem {
        let (status, code) = match self {
            Self::TooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "header-too-large"),
            Self::Connect => (StatusCode::NOT_IMPLEMENTED, "not-a-proxy"),
            Self::NotHttp
            | Self::BareLineFeed
            | Self::Malformed
            | Self::Target
            | Self::Host
            | Self::Length
            | Self::TransferEncoding => (StatusCode::BAD_REQUEST, "unreadable-request"),
        };
        Problem::new(status, code, self.to_string())
    }
}

/// Finds the end of a head in bytes that grow at their end.
#[derive(Debug, Default)]
pub(super) struct HeadScanner {
    /// The number of bytes scanned so far.
    seen: usize,
    line_start: usize,
    /// True once a request line has begun. Empty lines before it are ignored (RFC 9112, 2.2).
    begun: bool,
}

impl HeadScanner {
    /// Returns the length of the head at the beginning of `bytes`, once it is complete.
    pub(super) fn find_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, BadHead> {
        while let Some(found) = memchr::memchr(b'\n', &bytes[self.seen..]) {
            let feed = self.seen + found;
            let line = bytes[self.line_start..feed].strip_suffix(b"\r").ok_or(BadHead::BareLineFeed)?;
            let is_empty = line.is_empty();
            self.check_beginning(bytes)?;
            self.seen = feed + 1;
            self.line_start = feed + 1;
            if is_empty && self.begun {
                return if feed < MAX_HEAD_BYTES { Ok(Some(feed + 1)) } else { Err(BadHead::TooLarge) };
            }
            self.begun |= !is_empty;
        }
        self.check_beginning(bytes)?;
        self.seen = bytes.len();
        if bytes.len() < MAX_HEAD_BYTES { Ok(None) } else { Err(BadHead::TooLarge) }
    }

    /// Rejects another protocol, such as TLS, immediately: its peer would wait for a response, too.
    fn check_beginning(&self, bytes: &[u8]) -> Result<(), BadHead> {
        let first = bytes.get(self.line_start).filter(|_| !self.begun);
        let may_begin = |first: &u8| first.is_ascii_graphic() || matches!(first, b'\r' | b'\n');
        if first.is_none_or(may_begin) { Ok(()) } else { Err(BadHead::NotHttp) }
    }
}

/// A head that every parser interprets the same way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FramedHead {
    pub(super) body: BodyFraming,
    /// True if the HTTP layer would reject the head because it has no length. RFC 9112, 6.3: a request
    /// without framing has no body.
    pub(super) lacks_length: bool,
}

/// Reads a complete head, and disables requests to upgrade the protocol in it. RFC 9110, 7.8 allows a server
/// to ignore them, and the HTTP layer would interpret the following bytes as another protocol.
pub(super) fn read(bytes: &mut [u8]) -> Result<FramedHead, BadHead> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead::TooLarge),
        Err(httparse::Error::Version) => return Err(BadHead::NotHttp),
        Ok(_) | Err(_) => return Err(BadHead::Malformed),
    }
    let (Some(method), Some(path), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(BadHead::Malformed);
    };
    if method == Method::CONNECT.as_str() {
        return Err(BadHead::Connect);
    }
    let read = read_fields(request.headers, bytes, minor)?;
    let lacks_length = minor == 0 && method == Method::POST.as_str() && !read.has_length;
    let target = Uri::try_from(path).map_err(|_| BadHead::Target)?;
    // RFC 9110, 9.3.7: OPTIONS for the server as a whole, which is routed as `/`.
    let for_all = path == "*" && method == Method::OPTIONS.as_str();
    if !for_all && !target.path().starts_with('/') {
        return Err(BadHead::Target);
    }
    let root_at = for_all.then(|| path.as_ptr().addr() - bytes.as_ptr().addr());
    if let Some(at) = root_at {
        bytes[at] = b'/';
    }
    for at in read.wishes {
        // One changed letter turns it into an unknown field or option.
        bytes[at] = b'x';
    }
    Ok(FramedHead { body: read.body, lacks_length })
}

/// Returns whether a rejected head has the method HEAD, on which the response depends.
pub(super) fn asks_for_head_only(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(b"HEAD ")
}

struct Fields {
    body: BodyFraming,
    has_length: bool,
    /// The positions of the names and options that request another protocol.
    wishes: Vec<usize>,
}

fn read_fields(fields: &[httparse::Header<'_>], bytes: &[u8], minor: u8) -> Result<Fields, BadHead> {
    let (mut hosts, mut length, mut chunked) = (0, None, false);
    let mut wishes = Vec::new();
    let place = |part: &[u8]| part.as_ptr().addr() - bytes.as_ptr().addr();
    for field in fields {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("host") {
            hosts += 1;
        } else if is("content-length") {
            if length.is_some() {
                return Err(BadHead::Length);
            }
            length = Some(decimal(field.value).ok_or(BadHead::Length)?);
        } else if is("transfer-encoding") {
            if chunked || minor == 0 || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(BadHead::TransferEncoding);
            }
            chunked = true;
        } else if is("upgrade") {
            wishes.push(place(field.name.as_bytes()));
        } else if is("connection") {
            let options = field.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            wishes.extend(options.filter(|option| option.eq_ignore_ascii_case(b"upgrade")).map(place));
        }
    }
    if hosts > 1 || (hosts == 0 && minor == 1) {
        return Err(BadHead::Host);
    }
    let body = match (chunked, length) {
        (true, Some(_)) => return Err(BadHead::TransferEncoding),
        (true, None) => BodyFraming::Chunked,
        (false, None | Some(0)) => BodyFraming::None,
        (false, Some(length)) => BodyFraming::Sized(length),
    };
    Ok(Fields { body, has_length: length.is_some(), wishes })
}

/// Parses a length of digits only (RFC 9110, 8.6).
fn decimal(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Result<(FramedHead, String), BadHead> {
        let mut bytes = text.as_bytes().to_vec();
        let end = HeadScanner::default().find_end(&bytes)?.expect("the head is whole");
        assert_eq!(end, bytes.len());
        let head = read(&mut bytes)?;
        Ok((head, String::from_utf8(bytes).unwrap()))
    }

    fn body(fields: &str) -> Result<BodyFraming, BadHead> {
        whole(&format!("PATCH /files/x HTTP/1.1\r\nHost: x\r\n{fields}\r\n")).map(|(head, _)| head.body)
    }

    #[test]
    fn bodies_are_framed_in_one_way_or_not_at_all() {
        use BadHead::*;
        for (fields, expected) in [
            ("", Ok(BodyFraming::None)),
            ("Content-Length: 0\r\n", Ok(BodyFraming::None)),
            ("content-length:\t 12 \r\n", Ok(BodyFraming::Sized(12))),
            ("Transfer-Encoding: Chunked\r\n", Ok(BodyFraming::Chunked)),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(TransferEncoding)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", Err(TransferEncoding)),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Err(Length)),
            ("Content-Length: 0\r\nContent-Length: 5\r\n", Err(Length)),
            ("Content-Length: 5, 5\r\n", Err(Length)),
            ("Content-Length: +5\r\n", Err(Length)),
            ("Content-Length: -5\r\n", Err(Length)),
            ("Content-Length: 0x5\r\n", Err(Length)),
            ("Content-Length: \r\n", Err(Length)),
            ("Content-Length: 18446744073709551616\r\n", Err(Length)),
            ("Transfer-Encoding: xchunked\r\n", Err(TransferEncoding)),
            ("Transfer-Encoding: gzip, chunked\r\n", Err(TransferEncoding)),
            ("Transfer-Encoding: identity\r\n", Err(TransferEncoding)),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(TransferEncoding)),
            ("Host: y\r\n", Err(Host)),
            ("X: a\r\n b\r\n", Err(Malformed)),
            ("X : a\r\n", Err(Malformed)),
            (": a\r\n", Err(Malformed)),
            ("X: a\0b\r\n", Err(Malformed)),
            ("X: a\rb\r\n", Err(Malformed)),
            ("X: a\nY: b\r\n", Err(BareLineFeed)),
        ] {
            assert_eq!(body(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn other_requests_are_judged_by_their_first_line() {
        use BadHead::*;
        for (text, expected) in [
            ("GET / HTTP/1.1\r\n\r\n", Host),
            ("CONNECT x:1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n", Connect),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncoding),
            ("PRI * HTTP/2.0\r\n\r\n", NotHttp),
            ("GET * HTTP/1.1\r\nHost: x\r\n\r\n", Target),
            ("GET files HTTP/1.1\r\nHost: x\r\n\r\n", Target),
            ("GET /\r\n\r\n", Malformed),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n\r\n", NotHttp),
            ("\u{16}\u{3}\u{1}\r\n\r\n", NotHttp),
            ("GET / HTTP/1.1\nHost: x\n\n", BareLineFeed),
        ] {
            assert_eq!(whole(text).unwrap_err(), expected, "{text:?}");
        }
        for (text, lacks_length) in [
            ("POST / HTTP/1.0\r\n\r\n", true),
            ("POST / HTTP/1.0\r\nContent-Length: 0\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nHost: x\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
        ] {
            assert_eq!(whole(text).unwrap().0, FramedHead { body: BodyFraming::None, lacks_length }, "{text:?}");
        }
        let many = (0..97).map(|at| format!("X-{at}: y\r\n")).collect::<String>();
        assert_eq!(body(&many), Err(TooLarge));
    }

    #[test]
    fn wishes_for_another_protocol_are_taken_out_and_nothing_else() {
        let head = |connection: &str, upgrade: &str| {
            format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: {connection}\r\n{upgrade}: websocket\r\n\r\n")
        };
        for (connection, without) in
            [("Upgrade", "xpgrade"), ("keep-alive, UPGRADE", "keep-alive, xPGRADE"), ("close,upgrade", "close,xpgrade")]
        {
            let (_, passed) = whole(&head(connection, "Upgrade")).unwrap();
            assert_eq!(passed, head(without, "xpgrade"));
        }
    }

    #[test]
    fn a_question_to_the_whole_server_goes_to_its_root() {
        let (_, passed) = whole("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert_eq!(passed, "OPTIONS / HTTP/1.1\r\nHost: x\r\n\r\n");
    }

    #[test]
    fn the_end_is_found_however_the_bytes_come() {
        let text = b"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\nrest";
        let mut scan = HeadScanner::default();
        for end in 0..text.len() - 4 {
            assert_eq!(scan.find_end(&text[..end]), Ok(None), "{end}");
        }
        assert_eq!(scan.find_end(text), Ok(Some(text.len() - 4)));
        let mut scan = HeadScanner::default();
        assert_eq!(scan.find_end(&vec![b'a'; MAX_HEAD_BYTES - 1]), Ok(None));
        assert_eq!(scan.find_end(&vec![b'a'; MAX_HEAD_BYTES]), Err(BadHead::TooLarge));
    }
}
