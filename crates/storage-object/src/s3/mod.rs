//! S3 and the stores that speak its protocol.
//!
//! The library signs, renews credentials, reads, lists and deletes. The requests about multipart uploads are
//! ours: with explicit part numbers, a checksum for each part, and separate deadlines.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{ClientOptions, HttpClient, HttpConnector};
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig};

mod body;
mod xml;

use body::Pieces;
use xml::{Copied, Created, ListedPart, ListedUpload, PartsPage, UploadsPage};

use crate::failure::{Failure, FailureKind};
use crate::parts::{Multipart, Part};
use crate::patience::deadline;
use crate::probe::UnfinishedRule;
use crate::settings::{PartChecksum, S3Settings};
use crate::token::MOST_UPLOAD_ID_BYTES;

/// The time for which a signature is valid: for a request that begins late, and no longer.
const SIGNED_FOR: Duration = Duration::from_secs(900);

/// Idle connections that are kept.
const MOST_IDLE: usize = 64;

const CRC32C: HeaderName = HeaderName::from_static("x-amz-checksum-crc32c");
const CHECKSUM_ALGORITHM: HeaderName = HeaderName::from_static("x-amz-checksum-algorithm");
const COPY_SOURCE: HeaderName = HeaderName::from_static("x-amz-copy-source");
const COPY_SOURCE_RANGE: HeaderName = HeaderName::from_static("x-amz-copy-source-range");

/// Characters of a key that stand for themselves in the source of a copy.
const KEY: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A bucket.
#[derive(Debug)]
pub(crate) struct S3 {
    client: reqwest::Client,
    library: AmazonS3,
    bucket: String,
    checksum: PartChecksum,
    /// Set once it is known whether the store compares checksums.
    compares: OnceLock<bool>,
}

/// Gives the library the client that all requests use.
#[derive(Debug)]
struct OurClient(reqwest::Client);

impl HttpConnector for OurClient {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

impl S3 {
    pub(crate) fn new(settings: &S3Settings) -> Result<Self, Failure> {
        outbound::tls::install_tls_provider();
        let built = outbound::client::builder(MOST_IDLE).build();
        let client = built.map_err(|error| Failure::new(FailureKind::Refused, error.to_string()))?;
        let mut builder = match &settings.keys {
            Some(keys) => AmazonS3Builder::new()
                .with_access_key_id(&keys.access_key_id)
                .with_secret_access_key(keys.secret.as_str()),
            None => AmazonS3Builder::from_env(),
        };
        builder = builder
            .with_http_connector(OurClient(client.clone()))
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_virtual_hosted_style_request(!settings.path_style)
            .with_unsigned_payload(true);
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        let library = builder.build().map_err(|error| Failure::new(FailureKind::Refused, error.to_string()))?;
        Ok(Self {
            client,
            library,
            bucket: settings.bucket.clone(),
            checksum: settings.checksum,
            compares: OnceLock::new(),
        })
    }

    /// Reports whether parts of new multipart uploads are sent with a checksum.
    pub(crate) fn sends_checksums(&self) -> bool {
        match self.checksum {
            PartChecksum::Crc32c => true,
            PartChecksum::Off => false,
            PartChecksum::Auto => self.compares.get().copied().unwrap_or(false),
        }
    }

    /// Finds out whether the store rejects bytes with a wrong checksum, by sending some (scale-out O14, O15).
    pub(crate) async fn try_checksum(&self, object: &Path) -> Result<bool, Failure> {
        let content = Bytes::from_static(b"longshore");
        let wrong = !crc32c::crc32c(&content);
        let mut headers = HeaderMap::new();
        headers.insert(CRC32C, value(&xml::crc32c_text(wrong))?);
        let request = Request { method: Method::PUT, object, query: Vec::new(), headers };
        let (status, _, body) = self.send(request, &[content], None).await?;
        let compares = match status {
            200 => false,
            // 501: a store that does not know the header.
            400 | 501 => status == 400,
            _ => return Err(Failure::of_body(status, &body)),
        };
        Ok(*self.compares.get_or_init(|| compares))
    }

    /// Finds out whether the store refuses to replace an object that exists, when the request says so.
    pub(crate) async fn try_condition(&self, existing: &Path) -> Result<bool, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
        let request = Request { method: Method::PUT, object: existing, query: Vec::new(), headers };
        let (status, _, body) = self.send(request, &[Bytes::from_static(b"longshore")], None).await?;
        match status {
            200 | 501 => Ok(false),
            409 | 412 => Ok(true),
            _ => Err(Failure::of_body(status, &body)),
        }
    }

    /// Reads the rule of the bucket about unfinished multipart uploads.
    pub(crate) async fn unfinished_rule(&self) -> Result<UnfinishedRule, Failure> {
        let bucket = Path::default();
        let query = vec![("lifecycle", String::new())];
        let request = Request { method: Method::GET, object: &bucket, query, headers: HeaderMap::new() };
        let (status, _, body) = self.send(request, &[], None).await?;
        match status {
            200 => Ok(xml::unfinished_rule(&body)),
            404 => Ok(UnfinishedRule::None),
            400..=499 | 501 => Ok(UnfinishedRule::Unknown),
            _ => Err(Failure::of_body(status, &body)),
        }
    }

    // Whole objects.

    pub(crate) async fn put(&self, object: &Path, pieces: &[Bytes]) -> Result<(), Failure> {
        let size_bytes = size_of(pieces);
        let payload = PutPayload::from_iter(pieces.iter().cloned());
        within(deadline(size_bytes), async { Ok(self.library.put(object, payload).await.map(drop)?) }).await
    }

    /// Returns the size of an object in bytes, or `None` if there is none.
    pub(crate) async fn size(&self, object: &Path) -> Result<Option<u64>, Failure> {
        within(deadline(0), async {
            match self.library.head(object).await {
                Ok(meta) => Ok(Some(meta.size)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// Reads a whole small object.
    pub(crate) async fn get(&self, object: &Path, size_bytes: u64) -> Result<Bytes, Failure> {
        within(deadline(size_bytes), async { Ok(self.library.get(object).await?.bytes().await?) }).await
    }

    /// Begins to read a range that is not empty.
    pub(crate) async fn stream(
        &self,
        object: &Path,
        range: std::ops::Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, Failure>>, Failure> {
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let found = within(deadline(0), async { Ok(self.library.get_opts(object, options).await?) }).await?;
        if found.range != range {
            let (size, end) = (found.meta.size, range.end);
            return Err(Failure::new(FailureKind::TooShort, format!("the object has {size} bytes, not {end}")));
        }
        Ok(found.into_stream().map(|chunk| chunk.map_err(Failure::from)).boxed())
    }

    pub(crate) async fn copy(&self, from: &Path, to: &Path, size_bytes: u64) -> Result<(), Failure> {
        within(deadline(size_bytes), async { Ok(self.library.copy(from, to).await?) }).await
    }

    /// Deletes objects. Those that do not exist are no error.
    pub(crate) async fn delete(&self, objects: Vec<Path>) -> Result<(), Failure> {
        let all = futures::stream::iter(objects).map(Ok).boxed();
        let mut deleted = self.library.delete_stream(all);
        while let Some(each) = within(deadline(0), async { Ok(deleted.next().await) }).await? {
            match each {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Lists the objects in a folder, in the order of their names.
    pub(crate) fn list(&self, folder: &Path) -> BoxStream<'static, Result<ObjectMeta, Failure>> {
        self.library.list(Some(folder)).map(|each| each.map_err(Failure::from)).boxed()
    }

    pub(crate) async fn names_in(&self, folder: &Path) -> Result<Vec<Path>, Failure> {
        self.list(folder).map_ok(|object| object.location).try_collect().await
    }

    pub(crate) async fn sizes_in(&self, folder: &Path) -> Result<Vec<u64>, Failure> {
        self.list(folder).map_ok(|object| object.size).try_collect().await
    }

    // Multipart uploads.

    pub(crate) async fn create(&self, object: &Path, has_checksums: bool) -> Result<Multipart, Failure> {
        let mut headers = HeaderMap::new();
        if has_checksums {
            headers.insert(CHECKSUM_ALGORITHM, HeaderValue::from_static("CRC32C"));
        }
        let request = Request { method: Method::POST, object, query: vec![("uploads", String::new())], headers };
        let answer: Created = self.ask(request, &[]).await?;
        if answer.upload_id.is_empty() || answer.upload_id.len() > MOST_UPLOAD_ID_BYTES {
            let wrong = format!("an upload id has {} bytes, not 1 to {MOST_UPLOAD_ID_BYTES}", answer.upload_id.len());
            return Err(Failure::new(FailureKind::Refused, wrong));
        }
        Ok(Multipart { id: answer.upload_id, has_checksums })
    }

    /// Stores a part, and lets the store compare its checksum (scale-out O14). Repeating it is harmless.
    pub(crate) async fn put_part(
        &self,
        object: &Path,
        upload: &Multipart,
        number: usize,
        pieces: &[Bytes],
    ) -> Result<Part, Failure> {
        let mut headers = HeaderMap::new();
        let computed = || pieces.iter().fold(0, |crc32c, piece| crc32c::crc32c_append(crc32c, piece));
        let crc32c = upload.has_checksums.then(computed);
        if let Some(crc32c) = crc32c {
            headers.insert(CRC32C, value(&xml::crc32c_text(crc32c))?);
        }
        let query = part_query(&upload.id, number);
        let (status, headers, body) =
            self.send(Request { method: Method::PUT, object, query, headers }, pieces, None).await?;
        let etag = headers.get(header::ETAG).and_then(|etag| etag.to_str().ok());
        match etag {
            Some(etag) if status == 200 => Ok(Part { length_bytes: size_of(pieces), etag: unquoted(etag), crc32c }),
            _ => Err(Failure::of_body(status, &body)),
        }
    }

    /// Copies a range of an object into a part.
    pub(crate) async fn copy_part(
        &self,
        object: &Path,
        id: &str,
        number: usize,
        from: (&Path, std::ops::Range<u64>),
    ) -> Result<Part, Failure> {
        let (source, range) = from;
        let source = format!("{}/{}", self.bucket, source.as_ref());
        let mut headers = HeaderMap::new();
        headers.insert(COPY_SOURCE, value(&percent_encoding::utf8_percent_encode(&source, KEY).to_string())?);
        headers.insert(COPY_SOURCE_RANGE, value(&format!("bytes={}-{}", range.start, range.end - 1))?);
        let query = part_query(id, number);
        let size_bytes = range.end - range.start;
        let request = Request { method: Method::PUT, object, query, headers };
        let (status, _, body) = self.send(request, &[], Some(deadline(size_bytes))).await?;
        if status != 200 || xml::is_failure(&body, "CopyPartResult") {
            return Err(Failure::of_body(status, &body));
        }
        let copied: Copied = xml::parse(status, &body)?;
        Ok(Part { length_bytes: size_bytes, etag: unquoted(&copied.etag), crc32c: None })
    }

    /// Requests that the parts become the object. The answer does not tell whether they did (scale-out O10).
    pub(crate) async fn complete(
        &self,
        object: &Path,
        id: &str,
        parts: &[Part],
        timeout: Duration,
    ) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        let request = Request { method: Method::POST, object, query: vec![("uploadId", id.to_owned())], headers };
        let list = Bytes::from(xml::completion(parts));
        let (status, _, body) = self.send(request, &[list], Some(timeout)).await?;
        if status == 200 && !xml::is_failure(&body, "CompleteMultipartUploadResult") {
            return Ok(());
        }
        Err(Failure::of_body(status, &body))
    }

    /// Aborts a multipart upload. One that does not exist is no error.
    pub(crate) async fn abort(&self, object: &Path, id: &str) -> Result<(), Failure> {
        let query = vec![("uploadId", id.to_owned())];
        let request = Request { method: Method::DELETE, object, query, headers: HeaderMap::new() };
        let (status, _, body) = self.send(request, &[], None).await?;
        match Failure::of_body(status, &body) {
            _ if (200..300).contains(&status) => Ok(()),
            failure if matches!(failure.kind, FailureKind::NoSuchUpload | FailureKind::NotFound) => Ok(()),
            failure => Err(failure),
        }
    }

    /// Lists the parts of a multipart upload, or only the first. `None` if there is no such upload.
    pub(crate) async fn parts(
        &self,
        object: &Path,
        id: &str,
        only_first: bool,
    ) -> Result<Option<Vec<ListedPart>>, Failure> {
        let (mut parts, mut marker) = (Vec::new(), None);
        loop {
            let mut query = vec![("uploadId", id.to_owned())];
            query.extend(only_first.then(|| ("max-parts", "1".to_owned())));
            query.extend(marker.map(|marker| ("part-number-marker", marker)));
            let request = Request { method: Method::GET, object, query, headers: HeaderMap::new() };
            let page: PartsPage = match self.ask(request, &[]).await {
                Ok(page) => page,
                Err(failure) if matches!(failure.kind, FailureKind::NoSuchUpload | FailureKind::NotFound) => {
                    return Ok(None);
                }
                Err(failure) => return Err(failure),
            };
            parts.extend(page.parts);
            marker = page.next_part_number_marker.filter(|_| page.is_truncated && !only_first);
            if marker.is_none() {
                return Ok(Some(parts));
            }
        }
    }

    /// Lists the unfinished multipart uploads whose keys begin with a text.
    pub(crate) async fn uploads(&self, beginning: &str) -> Result<Vec<Unfinished>, Failure> {
        let (mut uploads, mut markers) = (Vec::new(), None);
        loop {
            let mut query = vec![("uploads", String::new()), ("prefix", beginning.to_owned())];
            if let Some((key, id)) = markers {
                query.extend([("key-marker", key), ("upload-id-marker", id)]);
            }
            let bucket = Path::default();
            let request = Request { method: Method::GET, object: &bucket, query, headers: HeaderMap::new() };
            let page: UploadsPage = self.ask(request, &[]).await?;
            uploads.extend(page.uploads.into_iter().filter_map(Unfinished::of));
            markers = page.next_key_marker.zip(page.next_upload_id_marker).filter(|_| page.is_truncated);
            if markers.is_none() {
                return Ok(uploads);
            }
        }
    }

    /// Returns the identifiers of the unfinished multipart uploads of one object.
    pub(crate) async fn uploads_of(&self, object: &Path) -> Result<Vec<String>, Failure> {
        let found = self.uploads(object.as_ref()).await?;
        Ok(found.into_iter().filter(|upload| upload.object == *object).map(|upload| upload.id).collect())
    }

    /// Sends a request whose answer is XML.
    async fn ask<T: for<'de> serde::Deserialize<'de>>(
        &self,
        request: Request<'_>,
        pieces: &[Bytes],
    ) -> Result<T, Failure> {
        let (status, _, body) = self.send(request, pieces, None).await?;
        if status == 200 { xml::parse(status, &body) } else { Err(Failure::of_body(status, &body)) }
    }

    async fn send(
        &self,
        request: Request<'_>,
        pieces: &[Bytes],
        timeout: Option<Duration>,
    ) -> Result<(u16, HeaderMap, Bytes), Failure> {
        let Request { method, object, query, headers } = request;
        let mut options = SignedUrlOptions::new().with_query(query);
        options.signed_headers = headers.clone();
        let signed = self.library.signed_url_opts(method.clone(), object, SIGNED_FOR, &options);
        let url = within(deadline(0), async { Ok(signed.await?) }).await?;
        let answer = self
            .client
            .request(method, url)
            .headers(headers)
            .body(reqwest::Body::wrap(Pieces::new(pieces)))
            .timeout(timeout.unwrap_or_else(|| deadline(size_of(pieces))))
            .send()
            .await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Ok((status, headers, answer.bytes().await?))
    }
}

/// An unfinished multipart upload.
#[derive(Debug)]
pub(crate) struct Unfinished {
    pub(crate) object: Path,
    pub(crate) id: String,
}

impl Unfinished {
    fn of(listed: ListedUpload) -> Option<Self> {
        Some(Self { object: Path::parse(listed.key).ok()?, id: listed.upload_id })
    }
}

struct Request<'a> {
    method: Method,
    object: &'a Path,
    query: Vec<(&'static str, String)>,
    headers: HeaderMap,
}

fn part_query(id: &str, number: usize) -> Vec<(&'static str, String)> {
    vec![("partNumber", number.to_string()), ("uploadId", id.to_owned())]
}

fn value(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_str(text).map_err(|error| Failure::new(FailureKind::Refused, error.to_string()))
}

fn unquoted(etag: &str) -> Arc<str> {
    etag.trim_matches('"').into()
}

fn size_of(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

async fn within<T>(time: Duration, request: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = |_| Failure::new(FailureKind::Transient, format!("the object store did not answer within {time:?}"));
    tokio::time::timeout(time, request).await.map_err(late)?
}
