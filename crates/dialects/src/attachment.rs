//! The content type and the disposition of downloads: never a type that a browser runs or renders as a page
//! of this server.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use domain::media_type;

/// The type of data that should only be saved.
const OCTETS: &str = "application/octet-stream";

/// Prefixes of the names of script types, in every version.
const SCRIPTS: [&str; 5] = ["javascript", "ecmascript", "jscript", "livescript", "wasm"];

/// Words in the names of types that browsers parse as a document or apply to one.
const DOCUMENTS: [&str; 9] = ["html", "xhtml", "xml", "xsl", "xslt", "svg", "css", "flash", "mhtml"];

/// Other types that browsers act on.
const FEEDS: [&str; 2] = ["text/event-stream", "text/cache-manifest"];

/// Returns the type that a download is sent with: the client's own, unless it is active content.
///
/// A sandbox protects against pages, and `nosniff` against wrong types. A script with a correct type could
/// still be used by any page that names it as its source.
pub(crate) fn content_type(of_client: Option<&str>) -> Cow<'static, str> {
    let Some(named) = of_client else { return Cow::Borrowed(OCTETS) };
    let essence = media_type::essence(named);
    let is_container = essence.starts_with("multipart/") || essence.starts_with("message/");
    let is_active = |word: &str| DOCUMENTS.contains(&word) || SCRIPTS.iter().any(|script| word.starts_with(script));
    if is_container || FEEDS.contains(&essence.as_str()) || essence.split(['/', '.', '-', '+']).any(is_active) {
        return Cow::Borrowed(OCTETS);
    }
    Cow::Owned(named.to_owned())
}

/// Returns a `Content-Disposition` with the client's file name, in a form that cannot break out of the field
/// (RFC 6266 with RFC 8187).
pub(crate) fn disposition(file_name: Option<&str>) -> String {
    /// RFC 8187, attr-char: all other characters are escaped.
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'!')
        .remove(b'#')
        .remove(b'$')
        .remove(b'&')
        .remove(b'+')
        .remove(b'-')
        .remove(b'.')
        .remove(b'^')
        .remove(b'_')
        .remove(b'`')
        .remove(b'|')
        .remove(b'~');
    let Some(name) = file_name else { return "attachment".to_owned() };
    // No file system of a browser allows it, and parsers of the field disagree about what follows it.
    let name = name.replace('"', "_");
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() && !matches!(c, '\\' | '%') || c == ' ' { c } else { '_' })
        .collect();
    if plain == name {
        return format!("attachment; filename=\"{plain}\"");
    }
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{}", utf8_percent_encode(&name, ESCAPED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_browsers_run_is_only_handed_out_as_bytes() {
        for active in [
            "text/javascript",
            "application/javascript",
            "application/x-javascript",
            "Text/JavaScript; charset=utf-8",
            "text/javascript1.5",
            "text/ecmascript",
            "application/x-ecmascript",
            "text/jscript",
            "text/livescript",
            "application/wasm",
            "text/html",
            "application/xhtml+xml",
            "text/xml",
            "application/xml",
            "application/atom+xml",
            "text/xsl",
            "image/svg+xml",
            "IMAGE/SVG+XML",
            "text/css",
            "application/x-shockwave-flash",
            "text/event-stream",
            "text/cache-manifest",
            "multipart/x-mixed-replace; boundary=a",
            "multipart/related",
            "message/rfc822",
        ] {
            assert_eq!(content_type(Some(active)), OCTETS, "{active}");
        }
        for kept in [
            "video/mp4",
            "audio/mpeg",
            "image/png",
            "text/plain; charset=utf-8",
            "application/pdf",
            "application/json",
            "application/zip",
            "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        ] {
            assert_eq!(content_type(Some(kept)), kept);
        }
        assert_eq!(content_type(None), OCTETS);
    }
}
