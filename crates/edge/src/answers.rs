//! Memory for answers, with a ceiling.
//!
//! A client that asks and does not read makes the server hold its answer. So every answer that lies in memory
//! as a whole, and is not small, counts against a budget that all connections share, and goes out in pieces,
//! so that no other copy of it is made. Who finds the budget used up waits for a while, and is then asked to
//! come back. Nobody holds a part of it for long: a client that takes nothing of such an answer is closed
//! after as long a wait.
//!
//! Answers to uploads are small, and never wait here.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use bytes::Bytes;
use pool::{Pool, Reservation};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::Problem;

/// Answers up to this size count as part of their connection.
const SMALL_BYTES: usize = 16 << 10;

/// What is handed to a connection at a time.
pub const PIECE_BYTES: usize = 16 << 10;

/// What an item of a list takes beside what its client has said about it.
const ITEM_BYTES: usize = 2 << 10;

/// A page while it is rendered.
const PAGE_BYTES: usize = 2 << 20;

/// What is read for a page. With [`PAGE_BYTES`] it is less than downloads leave to others.
const ITEMS_BYTES: usize = 10 << 20;

/// Memory for answers. Clones share it.
#[derive(Debug, Clone)]
pub struct AnswerMemory {
    pool: Pool,
    patience: Duration,
}

/// Memory for an answer in the making, and then for what was made.
#[derive(Debug)]
pub struct AnswerReservation {
    memory: Reservation,
    _slot: Option<OwnedSemaphorePermit>,
}

/// In the requests of a connection that brings many at once: how many of them may have answers here.
/// Otherwise one client that opens a hundred streams and reads none would have all there is.
#[derive(Debug, Clone)]
pub struct AnswerSlots(Arc<Semaphore>);

impl Default for AnswerSlots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(2)))
    }
}

/// Marks an answer whose client may take nothing for as long as it likes to watch: a download.
#[derive(Debug, Clone, Copy)]
pub struct IsDownload;

impl AnswerMemory {
    pub fn new(pool: Pool, patience: Duration) -> Self {
        Self { pool, patience }
    }

    /// Memory for this many bytes of the answer to `request`, within bounded time.
    pub async fn reserve(&self, request: &HttpRequest, bytes: usize) -> Result<AnswerReservation, Problem> {
        let slots = request.extensions().get::<AnswerSlots>().cloned();
        self.reserve_with(slots, bytes).await
    }

    /// The same for an answer that goes on for as long as its connection.
    pub async fn reserve_with(&self, slots: Option<AnswerSlots>, bytes: usize) -> Result<AnswerReservation, Problem> {
        let slot = slots.as_ref().map(|AnswerSlots(slots)| Arc::clone(slots).try_acquire_owned().ok());
        // Without waiting no timer is needed.
        if slot.as_ref().is_none_or(Option::is_some)
            && let Some(memory) = self.pool.try_reserve(bytes)
        {
            return Ok(AnswerReservation { memory, _slot: slot.flatten() });
        }
        let waiting = async {
            let slot = match (slot.flatten(), slots) {
                (None, Some(AnswerSlots(slots))) => slots.acquire_owned().await.ok(),
                (slot, _) => slot,
            };
            AnswerReservation { memory: self.pool.reserve(bytes).await, _slot: slot }
        };
        tokio::time::timeout(self.patience, waiting).await.map_err(|_| {
            let detail = "too many responses are waiting to be read by their clients; retry in a moment";
            Problem::try_again("too-many-answers", detail, Duration::from_secs(5))
        })
    }

    /// Memory for making a page about uploads with metadata of at most `metadata_bytes` each. It may have
    /// fewer items than were wanted.
    pub async fn reserve_page(
        &self,
        request: &HttpRequest,
        items: &mut u32,
        metadata_bytes: usize,
    ) -> Result<AnswerReservation, Problem> {
        let item = metadata_bytes.saturating_add(ITEM_BYTES);
        let most = u32::try_from(ITEMS_BYTES / item).unwrap_or(u32::MAX).max(1);
        *items = most.min(*items);
        let items = usize::try_from(*items).unwrap_or(usize::MAX);
        self.reserve(request, items.saturating_mul(item).saturating_add(PAGE_BYTES)).await
    }

    /// Counts an answer that is there as a whole. One that cannot be counted is replaced by the request to
    /// come back.
    pub async fn hold(&self, request: &HttpRequest, answer: HttpResponse<BoxBody>) -> HttpResponse<BoxBody> {
        let is_small = match answer.body().size() {
            BodySize::None | BodySize::Stream => true,
            BodySize::Sized(bytes) => bytes <= SMALL_BYTES as u64,
        };
        if is_small {
            return answer;
        }
        let (mut answer, body) = answer.into_parts();
        let bytes = match body.try_into_bytes() {
            Ok(bytes) => bytes,
            // A stream of known length, which holds what it counts by itself.
            Err(body) => return answer.set_body(body),
        };
        let made = answer.extensions_mut().remove::<AnswerReservation>();
        let reservation = match made {
            Some(mut reservation) => {
                reservation.shrink_to(bytes.len());
                reservation
            }
            None => match self.reserve(request, bytes.len()).await {
                Ok(reservation) => reservation,
                Err(problem) => return problem.respond(request),
            },
        };
        answer.set_body(BoxBody::new(ReservedBody { bytes, _reservation: reservation }))
    }
}

impl AnswerReservation {
    pub fn shrink_to(&mut self, bytes: usize) {
        self.memory.shrink_to(bytes);
    }

    /// Goes with what was made in it.
    pub fn with(self, mut answer: HttpResponse) -> HttpResponse {
        answer.extensions_mut().insert(self);
        answer
    }
}

/// An answer that lies in memory until its client has taken it.
struct ReservedBody {
    bytes: Bytes,
    _reservation: AnswerReservation,
}

impl MessageBody for ReservedBody {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.bytes.len() as u64)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let count = self.bytes.len().min(PIECE_BYTES);
        Poll::Ready((count > 0).then(|| Ok(self.bytes.split_to(count))))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::StatusCode;
    use actix_web::test::TestRequest;
    use futures::future::poll_fn;

    use super::*;

    const MIB: usize = 1 << 20;

    fn answers(bytes: usize) -> AnswerMemory {
        AnswerMemory::new(Pool::new(bytes as u64), Duration::from_secs(30))
    }

    async fn hold(answers: &AnswerMemory, answer: HttpResponse) -> HttpResponse {
        answers.hold(&TestRequest::get().to_http_request(), answer).await
    }

    fn of(bytes: usize) -> HttpResponse {
        HttpResponse::Ok().body(vec![7; bytes])
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_to_be_read_is_counted_until_it_is_gone() {
        let answers = answers(4 * MIB);
        let free = answers.pool.free_bytes();
        let held = hold(&answers, of(MIB + 1)).await;
        assert_eq!(held.body().size(), BodySize::Sized(MIB as u64 + 1));
        assert_eq!(free - answers.pool.free_bytes(), MIB + 4096);
        let mut body = Box::pin(held.into_body());
        let mut taken = 0;
        while let Some(piece) = poll_fn(|cx| body.as_mut().poll_next(cx)).await {
            let piece = piece.unwrap();
            assert!(piece.len() <= PIECE_BYTES && piece.iter().all(|byte| *byte == 7));
            taken += piece.len();
        }
        assert_eq!(taken, MIB + 1);
        drop(body);
        assert_eq!(answers.pool.free_bytes(), free);
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_memory_waits_and_is_then_asked_to_come_back() {
        let answers = answers(4 * MIB);
        let first = hold(&answers, of(3 * MIB)).await;
        let began = tokio::time::Instant::now();
        let refused = hold(&answers, of(2 * MIB)).await;
        assert_eq!((refused.status(), began.elapsed()), (StatusCode::SERVICE_UNAVAILABLE, answers.patience));
        assert!(refused.headers().contains_key("retry-after"));
        let small = hold(&answers, of(SMALL_BYTES)).await;
        assert_eq!(small.status(), StatusCode::OK, "it waits for nothing");
        let second = async {
            tokio::task::yield_now().await;
            drop(first);
        };
        let (second, ()) = tokio::join!(hold(&answers, of(2 * MIB)), second);
        assert_eq!(second.status(), StatusCode::OK);
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_has_only_a_few_turns() {
        let answers = answers(16 * MIB);
        let slots = AnswerSlots::default();
        let of_connection = || {
            let request = TestRequest::get().to_http_request();
            request.extensions_mut().insert(slots.clone());
            request
        };
        let first = answers.reserve(&of_connection(), MIB).await.unwrap();
        let _second = answers.reserve(&of_connection(), MIB).await.unwrap();
        assert!(answers.reserve(&of_connection(), MIB).await.is_err(), "it has waited in vain");
        assert!(answers.reserve(&TestRequest::get().to_http_request(), MIB).await.is_ok(), "others have theirs");
        drop(first);
        assert!(answers.reserve(&of_connection(), MIB).await.is_ok());
    }

    #[tokio::test]
    async fn room_for_the_making_becomes_room_for_what_was_made() {
        let answers = answers(16 * MIB);
        let free = answers.pool.free_bytes();
        let mut items = 100;
        let request = TestRequest::get().to_http_request();
        let reservation = answers.reserve_page(&request, &mut items, 8 << 10).await.unwrap();
        assert_eq!((items, free - answers.pool.free_bytes()), (100, 100 * 10 * 1024 + 2 * MIB));
        let held = hold(&answers, reservation.with(of(20_000))).await;
        assert_eq!(free - answers.pool.free_bytes(), 20 * 1024);
        drop(held);
        assert_eq!(answers.pool.free_bytes(), free);
        let mut items = 1_000;
        let reservation = answers.reserve_page(&request, &mut items, 64 << 10).await.unwrap();
        assert!((100..=160).contains(&items), "{items} with much metadata are enough");
        assert!(free - answers.pool.free_bytes() <= 12 * MIB);
        // What turns out small needs none.
        drop(hold(&answers, reservation.with(of(10))).await);
        assert_eq!(answers.pool.free_bytes(), free);
    }
}
