//! Memory for responses, with an upper bound.
//!
//! A client that sends a request and does not read makes the server hold the response. Each response that is
//! completely in memory, and is not small, therefore counts against a budget that all connections share. It
//! is sent in pieces, so that no second copy is made. A request that finds the budget used up waits for a
//! limited time, and is then shed. No client holds a part of the budget for long: a connection whose client
//! reads nothing of such a response for the same time is closed.
//!
//! Responses to upload requests are small and never wait here.

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

/// Responses up to this size are accounted to their connection.
const SMALL_BYTES: usize = 16 << 10;

/// The largest piece that is passed to a connection at a time.
pub const PIECE_BYTES: usize = 16 << 10;

/// The memory for one item of a list, besides its client metadata.
const ITEM_BYTES: usize = 2 << 10;

/// The memory for a page while it is rendered.
const PAGE_BYTES: usize = 2 << 20;

/// The memory for the records that are read for a page. Together with [`PAGE_BYTES`] it is less than what
/// downloads leave free.
const ITEMS_BYTES: usize = 10 << 20;

/// The memory for responses. Clones share it.
#[derive(Debug, Clone)]
pub struct AnswerMemory {
    pool: Pool,
    patience: Duration,
}

/// The memory for a response while it is built, and then for the finished response.
#[derive(Debug)]
pub struct AnswerReservation {
    memory: Reservation,
    _slot: Option<OwnedSemaphorePermit>,
}

/// Limits how many requests of one HTTP/2 connection hold response memory at a time; kept in the extensions
/// of these requests. Without it, a client that opens a hundred streams and reads none could take the whole
/// budget.
#[derive(Debug, Clone)]
pub struct AnswerSlots(Arc<Semaphore>);

impl Default for AnswerSlots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(2)))
    }
}

/// Marks the response to a download, whose client may stop reading for longer, such as while it plays a
/// video.
#[derive(Debug, Clone, Copy)]
pub struct IsDownload;

impl AnswerMemory {
    pub fn new(pool: Pool, patience: Duration) -> Self {
        Self { pool, patience }
    }

    /// Reserves memory for `bytes` bytes of the response to `request`, and waits a limited time for it.
    pub async fn reserve(&self, request: &HttpRequest, bytes: usize) -> Result<AnswerReservation, Problem> {
        let slots = request.extensions().get::<AnswerSlots>().cloned();
        self.reserve_with(slots, bytes).await
    }

    /// Reserves like [`Self::reserve`], for a response that lasts as long as its connection.
    pub async fn reserve_with(&self, slots: Option<AnswerSlots>, bytes: usize) -> Result<AnswerReservation, Problem> {
        let slot = slots.as_ref().map(|AnswerSlots(slots)| Arc::clone(slots).try_acquire_owned().ok());
        // The fast path needs no timer.
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

    /// Reserves memory for a page about uploads with metadata of at most `metadata_bytes` each. Lowers
    /// `items` to the number that fits.
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

    /// Accounts for a response that is completely in memory. If no memory becomes free in time, returns a
    /// problem that asks the client to retry.
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
            // A stream of known length, which accounts for its own memory.
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

    /// Attaches the reservation to the response that was built with it.
    pub fn with(self, mut answer: HttpResponse) -> HttpResponse {
        answer.extensions_mut().insert(self);
        answer
    }
}

/// A response that stays in memory until its client has read it.
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
        // A response that turns out to be small releases its reservation.
        drop(hold(&answers, reservation.with(of(10))).await);
        assert_eq!(answers.pool.free_bytes(), free);
    }
}
