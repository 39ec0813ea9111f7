//! A form while it arrives: the text fields before its file, and its file as a stream that ends only where
//! the form ends.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use bytes::Bytes;
use futures::Stream;

use crate::ranged::creation::BadCreation;
use crate::ranged::multipart::{BadForm, FormItem, FormPart, FormReader, MAX_HEAD_BYTES};
use crate::uploads::UploadContext;
use domain::metadata::MAX_PAIRS;
use edge::body;

/// A form that is read up to its file.
pub(super) struct OpenForm {
    /// Fields before the file.
    pub(super) texts: Vec<(String, Vec<u8>)>,
    pub(super) file: FormPart,
    pub(super) bytes: FileBytes,
    /// Facts about the form after its file; filled while `bytes` is read.
    pub(super) remainder: Rc<RefCell<FormRemainder>>,
}

#[derive(Debug, Default)]
pub(super) struct FormRemainder {
    /// Names of fields after the file, which arrive too late to be used.
    pub(super) ignored: Vec<String>,
    pub(super) error: Option<FormError>,
}

/// The reason why a form is not accepted.
#[derive(Debug)]
pub(super) enum FormError {
    Bad(BadForm),
    NoFile,
    SeveralFiles,
    TooLarge(BadCreation),
    /// The body stopped arriving before the form ended.
    Cut,
}

impl From<BadForm> for FormError {
    fn from(bad: BadForm) -> Self {
        Self::Bad(bad)
    }
}

/// The bytes of the file in a form.
pub(super) struct FileBytes {
    payload: Payload,
    reader: FormReader,
    allowance: Allowance,
    at: FormState,
    remainder: Rc<RefCell<FormRemainder>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FormState {
    File,
    BehindFile,
    End,
}

/// The number of bytes that a form may have besides its file.
#[derive(Debug)]
struct Allowance {
    left_bytes: usize,
    of_bytes: usize,
}

impl Allowance {
    fn take(&mut self, bytes: usize) -> Result<(), FormError> {
        let left = self.left_bytes.checked_sub(bytes);
        self.left_bytes = left.ok_or(FormError::TooLarge(BadCreation::TooLarge(self.of_bytes)))?;
        Ok(())
    }
}

/// Returns the maximum size of a form with a file of `file_bytes`: with as many fields as metadata may have,
/// their heads and their texts.
pub(super) fn most_bytes(file_bytes: u64, max_metadata_bytes: usize) -> u64 {
    let fields_around = (MAX_PAIRS + 1).saturating_mul(MAX_HEAD_BYTES).saturating_add(max_metadata_bytes);
    file_bytes.saturating_add(u64::try_from(fields_around).unwrap_or(u64::MAX))
}

/// Reads a form up to its file.
pub(super) async fn open(
    content_type: &str,
    mut payload: Payload,
    shared: &UploadContext,
) -> Result<OpenForm, FormError> {
    let mut reader = FormReader::new(content_type)?;
    let mut allowance =
        Allowance { left_bytes: shared.settings.max_metadata_bytes, of_bytes: shared.settings.max_metadata_bytes };
    let mut texts: Vec<(String, Vec<u8>)> = Vec::new();
    let file = loop {
        match reader.next()? {
            Some(FormItem::Part(part)) if is_file(&part) => break part,
            Some(FormItem::Part(part)) => {
                allowance.take(part.name.len())?;
                texts.push((part.name, Vec::new()));
            }
            Some(FormItem::Data(data)) => {
                allowance.take(data.len())?;
                if let Some((_, text)) = texts.last_mut() {
                    text.extend_from_slice(&data);
                }
            }
            Some(FormItem::PartEnd) => {}
            Some(FormItem::End) => return Err(FormError::NoFile),
            None => {
                let next = body::next_piece(&mut payload, shared.settings.idle_timeout)
                    .await
                    .map_err(|body::BodyCut| FormError::Cut)?;
                reader.push(next.ok_or(BadForm::BrokenOff)?);
            }
        }
    };
    let remainder = Rc::<RefCell<FormRemainder>>::default();
    let bytes = FileBytes { payload, reader, allowance, at: FormState::File, remainder: Rc::clone(&remainder) };
    Ok(OpenForm { texts, file, bytes, remainder })
}

/// Returns whether a part is a file. An empty file field is sent as a file without a name.
fn is_file(part: &FormPart) -> bool {
    part.file_name.as_ref().is_some_and(|name| !name.is_empty())
}

impl FileBytes {
    /// Returns the next bytes of the file from those already read; `None` if more must be read, or the form
    /// has ended.
    fn next_bytes(&mut self) -> Result<Option<Bytes>, FormError> {
        while self.at != FormState::End
            && let Some(found) = self.reader.next()?
        {
            match found {
                FormItem::Data(data) if self.at == FormState::File => return Ok(Some(data)),
                FormItem::Data(data) => self.allowance.take(data.len())?,
                FormItem::PartEnd => self.at = FormState::BehindFile,
                FormItem::Part(part) if is_file(&part) => return Err(FormError::SeveralFiles),
                FormItem::Part(part) => {
                    self.allowance.take(part.name.len())?;
                    self.remainder.borrow_mut().ignored.push(part.name);
                }
                FormItem::End => self.at = FormState::End,
            }
        }
        Ok(None)
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, FormError>> {
        loop {
            if let Some(bytes) = self.next_bytes()? {
                return Poll::Ready(Ok(Some(bytes)));
            }
            let polled = Pin::new(&mut self.payload).poll_next(cx);
            if self.at == FormState::End {
                // The body was polled once more for its end, so that the connection can be reused.
                return Poll::Ready(Ok(None));
            }
            match ready!(polled) {
                Some(Ok(bytes)) => self.reader.push(bytes),
                Some(Err(_)) => return Poll::Ready(Err(FormError::Cut)),
                None => return Poll::Ready(Err(BadForm::BrokenOff.into())),
            }
        }
    }
}

impl Stream for FileBytes {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = ready!(self.poll_bytes(cx));
        Poll::Ready(polled.transpose().map(|polled| {
            polled.map_err(|error| {
                self.remainder.borrow_mut().error = Some(error);
                PayloadError::Incomplete(None)
            })
        }))
    }
}
