//! A form on its way in: the texts before its file, and its file as a stream that ends only where the form
//! does.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use bytes::Bytes;
use futures::Stream;

use crate::ranged::creation::BadCreation;
use crate::ranged::multipart::{BadForm, Found, MAX_HEAD_BYTES, Part, Reader};
use crate::uploads::Uploads;
use domain::metadata::MAX_PAIRS;
use edge::body;

/// A form up to its file.
pub(super) struct Opened {
    /// Fields that came before the file.
    pub(super) texts: Vec<(String, Vec<u8>)>,
    pub(super) file: Part,
    pub(super) bytes: FileBytes,
    /// What is learned of the form while `bytes` are read.
    pub(super) learned: Rc<RefCell<Learned>>,
}

#[derive(Debug, Default)]
pub(super) struct Learned {
    /// Names of fields that came after the file, too late to be taken.
    pub(super) ignored: Vec<String>,
    pub(super) fault: Option<Fault>,
}

/// What is wrong with a form.
#[derive(Debug)]
pub(super) enum Fault {
    Bad(BadForm),
    NoFile,
    SeveralFiles,
    TooLarge(BadCreation),
    /// Nothing: its bytes ceased to come.
    Cut,
}

impl From<BadForm> for Fault {
    fn from(bad: BadForm) -> Self {
        Self::Bad(bad)
    }
}

/// The bytes of the file in a form.
pub(super) struct FileBytes {
    payload: Payload,
    reader: Reader,
    allowance: Allowance,
    at: At,
    learned: Rc<RefCell<Learned>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    File,
    BehindFile,
    End,
}

/// What a form may hold besides its file.
#[derive(Debug)]
struct Allowance {
    left_bytes: usize,
    of_bytes: usize,
}

impl Allowance {
    fn take(&mut self, bytes: usize) -> Result<(), Fault> {
        let left = self.left_bytes.checked_sub(bytes);
        self.left_bytes = left.ok_or(Fault::TooLarge(BadCreation::TooLarge(self.of_bytes)))?;
        Ok(())
    }
}

/// Returns the most bytes that a form with a file of `file_bytes` may have: with as many fields as metadata
/// may, their heads and their texts.
pub(super) fn most_bytes(file_bytes: u64, max_metadata_bytes: usize) -> u64 {
    let around = (MAX_PAIRS + 1).saturating_mul(MAX_HEAD_BYTES).saturating_add(max_metadata_bytes);
    file_bytes.saturating_add(u64::try_from(around).unwrap_or(u64::MAX))
}

/// Reads a form up to its file.
pub(super) async fn open(content_type: &str, mut payload: Payload, shared: &Uploads) -> Result<Opened, Fault> {
    let mut reader = Reader::new(content_type)?;
    let mut allowance =
        Allowance { left_bytes: shared.terms.max_metadata_bytes, of_bytes: shared.terms.max_metadata_bytes };
    let mut texts: Vec<(String, Vec<u8>)> = Vec::new();
    let file = loop {
        match reader.next()? {
            Some(Found::Part(part)) if is_file(&part) => break part,
            Some(Found::Part(part)) => {
                allowance.take(part.name.len())?;
                texts.push((part.name, Vec::new()));
            }
            Some(Found::Data(data)) => {
                allowance.take(data.len())?;
                if let Some((_, text)) = texts.last_mut() {
                    text.extend_from_slice(&data);
                }
            }
            Some(Found::PartEnd) => {}
            Some(Found::End) => return Err(Fault::NoFile),
            None => {
                let next = body::next_piece(&mut payload, shared.terms.idle_timeout)
                    .await
                    .map_err(|body::BodyCut| Fault::Cut)?;
                reader.push(next.ok_or(BadForm::BrokenOff)?);
            }
        }
    };
    let learned = Rc::<RefCell<Learned>>::default();
    let bytes = FileBytes { payload, reader, allowance, at: At::File, learned: Rc::clone(&learned) };
    Ok(Opened { texts, file, bytes, learned })
}

/// A field for files that was left empty comes as a file without a name.
fn is_file(part: &Part) -> bool {
    part.file_name.as_ref().is_some_and(|name| !name.is_empty())
}

impl FileBytes {
    /// What comes next of the file in what was read; nothing when more must be read, or all of it was.
    fn next_bytes(&mut self) -> Result<Option<Bytes>, Fault> {
        while self.at != At::End
            && let Some(found) = self.reader.next()?
        {
            match found {
                Found::Data(data) if self.at == At::File => return Ok(Some(data)),
                Found::Data(data) => self.allowance.take(data.len())?,
                Found::PartEnd => self.at = At::BehindFile,
                Found::Part(part) if is_file(&part) => return Err(Fault::SeveralFiles),
                Found::Part(part) => {
                    self.allowance.take(part.name.len())?;
                    self.learned.borrow_mut().ignored.push(part.name);
                }
                Found::End => self.at = At::End,
            }
        }
        Ok(None)
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        loop {
            if let Some(bytes) = self.next_bytes()? {
                return Poll::Ready(Ok(Some(bytes)));
            }
            let polled = Pin::new(&mut self.payload).poll_next(cx);
            if self.at == At::End {
                // One look whether the body has ended too, so that the connection can be used again.
                return Poll::Ready(Ok(None));
            }
            match ready!(polled) {
                Some(Ok(bytes)) => self.reader.push(bytes),
                Some(Err(_)) => return Poll::Ready(Err(Fault::Cut)),
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
            polled.map_err(|fault| {
                self.learned.borrow_mut().fault = Some(fault);
                PayloadError::Incomplete(None)
            })
        }))
    }
}
