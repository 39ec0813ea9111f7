//! Random walks over a local blob, compared with a model of the bytes it must and may contain.

use std::ops::Range;
use std::sync::Arc;

use proptest::prelude::*;
use storage::conformance::{EPOCH, laid_out, read};
use storage::local::{LocalStore, LocalStoreResources, LocalStoreSettings};
use storage::{BlobKey, BlobStore, BlobWriter, ErrorKind, Resume};
use tempfile::TempDir;

#[derive(Debug, Clone)]
enum Step {
    /// The offset in percent of the end, and the size.
    Write {
        percent: u64,
        size: u64,
    },
    Append {
        size: u64,
    },
    Checkpoint,
    /// Requested and dropped.
    DropCheckpoint,
    Close,
    Drop,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop_oneof![0..10_000_u64, 60_000..200_000_u64].prop_map(|size| Step::Append { size }),
        2 => (0..150_u64, prop_oneof![0..10_000_u64, 60_000..200_000_u64]).prop_map(|(percent, size)| Step::Write { percent, size }),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::DropCheckpoint),
        1 => Just(Step::Close),
        1 => Just(Step::Drop),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..25)
}

/// The knowledge about one byte after the blob was opened again.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Byte {
    /// Durable, and not written since.
    Is(u8),
    /// Written, or skipped, without a checkpoint: it may be any value that was ever written there.
    Any,
}

#[derive(Debug, Default, Clone)]
struct Model {
    /// The bytes that the token covers.
    durable: Vec<Byte>,
    /// The bytes including all writes.
    written: Vec<Byte>,
    token: Option<Resume>,
}

impl Model {
    fn write(&mut self, at: usize, chunk: &[u8]) {
        if chunk.is_empty() {
            return;
        }
        let end = at + chunk.len();
        if self.written.len() < end {
            self.written.resize(end, Byte::Is(0));
        }
        for (place, byte) in (at..).zip(chunk) {
            self.written[place] = Byte::Is(*byte);
            if let Some(durable) = self.durable.get_mut(place) {
                *durable = Byte::Any;
            }
        }
    }

    fn checkpoint(&mut self, token: Resume) {
        self.durable.clone_from(&self.written);
        self.token = Some(token);
    }

    fn reopen(&mut self) {
        self.written.clone_from(&self.durable);
    }
}

struct Walk {
    root: TempDir,
    settings: LocalStoreSettings,
    guard: Arc<()>,
    store: Option<Arc<dyn BlobStore>>,
    writer: Option<Box<dyn BlobWriter>>,
    model: Model,
    writes: u8,
}

impl Walk {
    async fn store(&mut self) -> Arc<dyn BlobStore> {
        if self.store.is_none() {
            // A writer that was dropped may have left a write that still keeps the folder.
            while Arc::strong_count(&self.guard) > 1 {
                tokio::task::yield_now().await;
            }
            let resources =
                LocalStoreResources { guard: Some(Arc::<()>::clone(&self.guard)), ..LocalStoreResources::default() };
            self.store = Some(Arc::new(
                LocalStore::open(self.root.path().to_owned(), self.settings.clone(), resources).unwrap(),
            ));
        }
        self.store.clone().unwrap()
    }

    async fn writer(&mut self) -> &mut Box<dyn BlobWriter> {
        if self.writer.is_none() {
            let writer = self.store().await.open(&key(), EPOCH, self.model.token.as_ref(), None).await.unwrap();
            self.model.reopen();
            self.writer = Some(writer);
            self.compare().await;
        }
        self.writer.as_mut().unwrap()
    }

    async fn step(&mut self, step: &Step) {
        match *step {
            Step::Append { size } => self.write(self.model.written.len(), size).await,
            Step::Write { percent, size } => self.write(self.model.written.len() * at(percent) / 100, size).await,
            Step::Checkpoint => {
                self.writer().await;
                let end = self.model.written.len() as u64;
                let token = self.writer.as_mut().unwrap().checkpoint(end).await.unwrap().await.unwrap();
                self.model.checkpoint(token);
                self.compare().await;
            }
            Step::DropCheckpoint => {
                self.writer().await;
                let end = self.model.written.len() as u64;
                drop(self.writer.as_mut().unwrap().checkpoint(end).await.unwrap());
            }
            Step::Drop => self.writer = None,
            Step::Close => self.close().await,
            Step::Restart => {
                self.close().await;
                self.store = None;
            }
        }
    }

    async fn write(&mut self, offset: usize, size: u64) {
        // After a reopening the end may be lower: the range behind it is a hole, which a writer may leave.
        self.writer().await;
        self.writes = self.writes.wrapping_add(1);
        let chunk = laid_out(offset as u64, &vec![self.writes; at(size)]);
        self.model.write(offset, &chunk);
        self.writer().await.write(offset as u64, chunk).await.unwrap();
    }

    async fn close(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.close().await;
        }
    }

    /// Reads and compares the durable bytes.
    async fn compare(&mut self) {
        let end = self.model.durable.len() as u64;
        let found = read(&self.store().await, &key(), 0..end).await;
        for (place, (found, known)) in found.iter().zip(&self.model.durable).enumerate() {
            assert!(*known == Byte::Any || *known == Byte::Is(*found), "byte {place} is {found}, not {known:?}");
        }
    }

    async fn finish(mut self) {
        self.writer().await;
        self.close().await;
        let end = self.model.durable.len() as u64;
        let token = self.model.token.take();
        self.store().await.finish(&key(), EPOCH, token.as_ref(), end).await.unwrap();
        self.compare().await;
        let store = self.store().await;
        let beyond: Range<u64> = 0..end + 1;
        let error = store.read(&key(), beyond).await.err().expect("nothing lies behind the end");
        assert_eq!(error.kind, ErrorKind::Incomplete);
    }
}

fn key() -> BlobKey {
    BlobKey::new("2026/11/21/random").unwrap()
}

fn at(place: u64) -> usize {
    usize::try_from(place).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_durable_is_there_and_the_rest_is_not(steps in steps(), direct: bool) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let settings = LocalStoreSettings { direct_io: direct, ..LocalStoreSettings::default() };
        let root = TempDir::new().unwrap();
        let mut walk = Walk { root, settings, guard: Arc::default(), store: None, writer: None, model: Model::default(), writes: 0 };
        runtime.block_on(async {
            for step in &steps {
                walk.step(step).await;
            }
            walk.finish().await;
        });
    }
}
