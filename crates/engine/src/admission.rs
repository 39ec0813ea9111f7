//! Checks requests with bytes by their declarations, before any byte is read.

use crate::Inner;
use crate::command::{Append, CompletesUpload, WritePosition};
use domain::ranges::ReceivedRanges;
use domain::rejection::Rejection;
use domain::size::{Length, Offset};
use domain::upload::Upload;
use domain::write_rules::WriteOrder;

/// A request that has passed all checks.
pub(super) struct Admitted {
    /// The upload with the declarations of the request.
    pub(super) upload: Upload,
    /// The offset of the first byte that the upload does not have.
    pub(super) start: u64,
    /// Number of bytes at the beginning of the request that the upload already has.
    pub(super) known_bytes: u64,
    /// The announced number of bytes from `start` on, if the request announces it.
    pub(super) count: Option<u64>,
}

impl Inner {
    /// Admits a request to an upload whose received bytes, committed or not, are in `there`. The last byte
    /// accepted from a request, whether it counts or not, ends at `taken`.
    pub(super) fn admit(
        &self,
        mut upload: Upload,
        command: &Append,
        there: &ReceivedRanges,
        taken: Offset,
    ) -> Result<Admitted, Rejection> {
        command.check_reach(&upload)?;
        let (now, max_bytes) = (self.now(), self.settings.max_upload_bytes);
        let (ours, theirs) = (upload.offset(), command.position.offset());
        let (goes_anywhere, passes_over) = match (upload.write_order(), command.position) {
            (WriteOrder::Any, WritePosition::Anywhere(_)) => (true, false),
            (WriteOrder::InOrder | WriteOrder::Any, WritePosition::At(_)) => (false, false),
            (WriteOrder::InOrder | WriteOrder::Any, WritePosition::From(_))
            | (WriteOrder::InOrder, WritePosition::Anywhere(_)) => (false, theirs <= ours),
        };
        let at = if passes_over { ours } else { theirs };
        let known_bytes = at.get() - theirs.get();
        let count = command.count.map(|count| count.saturating_sub(known_bytes));
        let check = |upload: &Upload, count| match goes_anywhere {
            true => upload.check_range(at, count, max_bytes, now),
            false => upload.check_append(at, count, max_bytes, now),
        };
        check(&upload, Some(0))?;
        self.declare(&mut upload, command, taken)?;
        check(&upload, count)?;
        if upload.write_order() == WriteOrder::Any {
            self.check_shape(at.get(), count, &upload, there)?;
        }
        Ok(Admitted { upload, start: at.get(), known_bytes, count })
    }

    /// Applies the declarations of a request about the whole upload, of which bytes up to `taken` have
    /// arrived, committed or not.
    pub(super) fn declare(&self, upload: &mut Upload, command: &Append, taken: Offset) -> Result<(), Rejection> {
        if upload.dialect() != command.dialect && !self.settings.cross_dialects {
            return Err(Rejection::OtherDialect(upload.dialect()));
        }
        if let Some(length) = command.length {
            upload.declare_length(length, self.settings.max_upload_bytes, taken)?;
        }
        if let (CompletesUpload::Here, Some(count)) = (command.ends, command.count) {
            self.check_end(upload, command.position.offset().plus(count), taken)?;
        }
        upload.declare_digests(&command.promised_digests);
        Ok(())
    }

    /// Checks that an upload may end at `end`, and declares this length if none is known. Bytes up to `taken`
    /// have arrived.
    pub(super) fn check_end(&self, upload: &mut Upload, end: Option<Offset>, taken: Offset) -> Result<(), Rejection> {
        let max_bytes = self.settings.max_upload_bytes;
        let end = end.ok_or(Rejection::OverLimit(max_bytes))?;
        match upload.length() {
            Some(length) if length.get() == end.get() => Ok(()),
            Some(length) => Err(Rejection::EndsElsewhere { length, end }),
            None => {
                let length = Length::new(end.get()).ok_or(Rejection::OverLimit(max_bytes))?;
                upload.declare_length(length, max_bytes, taken)
            }
        }
    }

    /// Checks that the upload can be stored and resumed with bytes from `start` on: aligned, and not in too
    /// many ranges.
    fn check_shape(
        &self,
        start: u64,
        count: Option<u64>,
        upload: &Upload,
        there: &ReceivedRanges,
    ) -> Result<(), Rejection> {
        let ranges = self.settings.ranges;
        let alignment = ranges.alignment_bytes;
        let end = count.map(|count| start.saturating_add(count));
        let last = upload.length().map(Length::get);
        let fits =
            |position: u64| position.is_multiple_of(alignment) || Some(position) == last || there.touches(position);
        if !fits(start) || end.is_some_and(|end| !fits(end)) {
            return Err(Rejection::Misaligned { alignment });
        }
        let count = there.count_with(start, end.unwrap_or(start).max(start + 1));
        if count > there.pairs().len() && count > usize::try_from(ranges.max_ranges).unwrap_or(usize::MAX) {
            return Err(Rejection::TooManyRanges(ranges.max_ranges));
        }
        Ok(())
    }
}
