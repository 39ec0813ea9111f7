//! Making one blob out of others, mostly by copies inside the store (scale-out O22).

use std::io;
use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;

use crate::failure::Failure;
use crate::open_part::Extras;
use crate::parts::{MAX_PART_BYTES, MIN_PART_BYTES, Multipart, Part, Tail, part_bytes_for};
use crate::patience::Patience;
use crate::store::Inner;
use crate::token::Stored;
use storage::{BlobKey, BlobPart, Resume};

/// The usual size of a copied part. A larger blob has larger ones.
const COPY_BYTES: u64 = 128 << 20;

/// Copies and sizes that are requested at once.
const AT_ONCE: usize = 8;

/// A range of one of the objects that are joined.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    /// Its place among the objects.
    of: usize,
    range: Range<u64>,
}

/// The use of the bytes of the objects, in order.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    parts: Vec<Vec<Source>>,
    /// The bytes behind the last part.
    tail: Vec<Source>,
}

impl Plan {
    /// Plans parts of at least 5 MiB. A part of one source is copied by the store; one of several is read and
    /// sent.
    fn new(sizes: &[u64]) -> Self {
        let copy_bytes = part_bytes_for(COPY_BYTES, sizes.iter().sum()).min(MAX_PART_BYTES);
        let mut plan = Self { parts: Vec::new(), tail: Vec::new() };
        let mut gathered_bytes = 0;
        for (of, size) in sizes.iter().copied().enumerate() {
            let mut at = 0;
            while at < size {
                let left = size - at;
                let take = match gathered_bytes {
                    0 if left >= MIN_PART_BYTES => left.min(copy_bytes),
                    _ => left.min(MIN_PART_BYTES - gathered_bytes),
                };
                plan.tail.push(Source { of, range: at..at + take });
                gathered_bytes += take;
                at += take;
                if gathered_bytes >= MIN_PART_BYTES {
                    plan.parts.push(std::mem::take(&mut plan.tail));
                    gathered_bytes = 0;
                }
            }
        }
        plan
    }
}

impl Inner {
    /// Joins blobs into an open one. What it has made is left to its caller after an error.
    pub(crate) async fn join(&self, parts: &[BlobPart], into: &BlobKey, patience: &Patience) -> io::Result<Resume> {
        let parts: Vec<&BlobPart> = parts.iter().filter(|part| part.size_bytes > 0).collect();
        let mut checks = Vec::new();
        for part in &parts {
            checks.push(self.check_whole(part));
        }
        stream::iter(checks).buffered(AT_ONCE).try_collect::<()>().await?;
        let objects: Vec<Path> = parts.iter().map(|part| self.names.object(&part.key)).collect();
        let sizes: Vec<u64> = parts.iter().map(|part| part.size_bytes).collect();
        self.carry_out(&Plan::new(&sizes), &objects, into, patience).await.map_err(Failure::into_io)
    }

    async fn check_whole(&self, part: &BlobPart) -> io::Result<()> {
        match self.size_of_object(&part.key).await? {
            Some(size) if size >= part.size_bytes => Ok(()),
            Some(size) => {
                let short = format!("part {} has {size} bytes, not {}", part.key, part.size_bytes);
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, short))
            }
            None => Err(self.explain_absence(&part.key).await),
        }
    }

    async fn carry_out(
        &self,
        plan: &Plan,
        objects: &[Path],
        into: &BlobKey,
        patience: &Patience,
    ) -> Result<Resume, Failure> {
        let extras = Extras::new(None);
        let mut stored = Stored::default();
        if !plan.parts.is_empty() {
            let upload = self.begin_upload(into, false, patience).await?;
            let mut made = Vec::new();
            for (sources, number) in plan.parts.iter().zip(1..) {
                made.push(self.make_part(sources, objects, (into, &upload, number), patience));
            }
            let parts: Vec<Part> = stream::iter(made).buffered(AT_ONCE).try_collect().await?;
            (stored.upload, stored.parts) = (Some(upload), parts);
        }
        if !plan.tail.is_empty() {
            let pieces = self.read_sources(&plan.tail, objects, patience).await?;
            let tail = Tail {
                name: extras.name(),
                length_bytes: plan.tail.iter().map(|source| source.range.end - source.range.start).sum(),
            };
            self.put_extra(into, tail.name, &pieces, patience).await?;
            stored.tails.push(tail);
        }
        stored.part_bytes = part_bytes_for(self.settings.part_bytes, stored.end());
        self.token(into, &stored, &extras, patience).await
    }

    async fn make_part(
        &self,
        sources: &[Source],
        objects: &[Path],
        (into, upload, number): (&BlobKey, &Multipart, usize),
        patience: &Patience,
    ) -> Result<Part, Failure> {
        if let [Source { of, range }] = sources {
            let object = self.names.object(into);
            let from = &objects[*of];
            return patience.retry(|| self.s3.copy_part(&object, &upload.id, number, (from, range.clone()))).await;
        }
        let pieces = self.read_sources(sources, objects, patience).await?;
        self.put_part(into, (upload, number), &pieces, patience).await
    }

    async fn read_sources(
        &self,
        sources: &[Source],
        objects: &[Path],
        patience: &Patience,
    ) -> Result<Vec<Bytes>, Failure> {
        let mut pieces = Vec::new();
        for Source { of, range } in sources {
            let read = async || self.s3.stream(&objects[*of], range.clone()).await?.try_collect::<Vec<Bytes>>().await;
            pieces.extend(patience.retry(read).await?);
        }
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn length(sources: &[Source]) -> u64 {
        sources.iter().map(|source| source.range.end - source.range.start).sum()
    }

    /// scale-out O22: odd sizes.
    #[test]
    fn a_plan_has_every_byte_once_and_no_part_is_too_small() {
        let odd = |count: u64| (0..count).map(|number| number * number * 7_919 % (9 * MIB) + 1).collect::<Vec<_>>();
        let cases = [
            vec![],
            vec![1],
            vec![MIB; 12],
            odd(2),
            odd(3),
            odd(500),
            vec![3 * MIB, 40 * MIB, 1, 5 * MIB],
            vec![1 << 40, 3],
        ];
        for sizes in cases {
            let plan = Plan::new(&sizes);
            let all: Vec<&Source> = plan.parts.iter().flatten().chain(&plan.tail).collect();
            let (mut of, mut at) = (0, 0);
            for source in all {
                while at == sizes[of] {
                    (of, at) = (of + 1, 0);
                }
                assert_eq!((source.of, source.range.start), (of, at), "of {sizes:?}");
                at = source.range.end;
            }
            assert_eq!(
                plan.parts.iter().map(|part| length(part)).sum::<u64>() + length(&plan.tail),
                sizes.iter().sum::<u64>()
            );
            assert!(plan.parts.iter().all(|part| (MIN_PART_BYTES..=MAX_PART_BYTES).contains(&length(part))));
            assert!(length(&plan.tail) < MIN_PART_BYTES && plan.parts.len() <= 9_999);
        }
    }

    #[test]
    fn what_is_large_enough_is_copied() {
        let plan = Plan::new(&[3 * MIB, 40 * MIB, 300 * MIB]);
        let source = |of, range: Range<u64>| Source { of, range };
        assert_eq!(plan.parts[0], [source(0, 0..3 * MIB), source(1, 0..2 * MIB)], "read and sent");
        assert_eq!(plan.parts[1], [source(1, 2 * MIB..40 * MIB)]);
        assert_eq!(plan.parts[2], [source(2, 0..128 * MIB)]);
        assert_eq!((plan.parts.len(), length(&plan.tail)), (5, 0));
    }
}
