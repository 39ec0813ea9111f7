//! However an upload is split, interrupted and repeated, it ends with the right bytes, or is clearly
//! rejected.

use crate::ietf::{
    INCONSISTENT_LENGTH, MISMATCHING_OFFSET, NUMBERS, PARTIAL, create, download, end_in, kind, location, offset,
    version,
};
use crate::support::app::TestApp;
use crate::support::client::Client;
use crate::support::seeded::Seeded;
use crate::tus::wait_for_status;

/// The course of one client through one upload.
struct Walk<'a> {
    app: &'a TestApp,
    /// Printed on failure, so that the run can be repeated.
    seed: u64,
    dice: Seeded,
    number: &'static str,
    file: Vec<u8>,
    upload: String,
}

impl Walk<'_> {
    async fn begin(app: &TestApp, seed: u64) -> Walk<'_> {
        let mut dice = Seeded::new(seed);
        let size = [0, 1, 5_000, 70_000, 200_000][dice.below(5)];
        let file = dice.bytes(size);
        let number = NUMBERS[dice.below(NUMBERS.len())];
        let length = size.to_string();
        let mut headers = vec![version(number), end_in(number, false)];
        // In some versions an upload with a declared length of 0 completes at once.
        if dice.below(2) == 0 && size > 0 {
            headers.push(("Upload-Length", &length));
        }
        let first = dice.below(size / 2 + 1);
        let created = create(&mut app.client().await, &headers, &file[..first]).await;
        assert_eq!(created.status, 201, "seed {seed}: {created:?}");
        let upload = location(&created);
        Walk { app, seed, dice, number, file, upload }
    }

    /// Sends one request of a random kind, which may be cut, repeat earlier bytes, or leave a gap.
    async fn step(&mut self) {
        let mut client = self.app.client().await;
        let (at, complete) = offset(&mut client, &self.upload).await;
        assert!(!complete, "seed {}: it ends only when the client declares the end", self.seed);
        let left = self.file.len() - at;
        let count = self.dice.below(left + 1);
        let said_at = match self.dice.below(6) {
            0 => self.dice.below(self.file.len() + 10),
            _ => at,
        };
        let ends = said_at == at && count == left && self.dice.below(2) == 0;
        let place = said_at.to_string();
        let mut headers = vec![version(self.number), PARTIAL, ("Upload-Offset", &place), end_in(self.number, ends)];
        let body = self.file[at..at + count].to_vec();
        let length = count.to_string();
        let chunked = self.dice.below(2) == 0;
        headers.push(if chunked { ("Transfer-Encoding", "chunked") } else { ("Content-Length", &length) });
        client.send_head("PATCH", &self.upload, &headers).await;
        let sent = if self.dice.below(2) == 0 { self.dice.below(count + 1) } else { count };
        for piece in body[..sent].chunks(self.dice.below(20_000) + 1) {
            if chunked {
                client.send_chunk(piece).await;
            } else {
                client.send(piece).await;
            }
        }
        let whole = if chunked { self.dice.below(3) > 0 && sent == count } else { sent == count };
        if !whole {
            return if self.dice.below(2) == 0 { client.rst() } else { client.fin().await };
        }
        if chunked {
            client.send_chunk(b"").await;
        }
        let answer = client.answer("PATCH").await;
        let right = match answer.status {
            201 => ends,
            204 => said_at == at && !ends,
            // An earlier request may reach the server only now: then the offset has moved since it was
            // reported.
            409 => kind(&answer) == MISMATCHING_OFFSET && answer.header("upload-offset") != Some(&place),
            400 => said_at != at && kind(&answer) == INCONSISTENT_LENGTH,
            _ => false,
        };
        assert!(right, "seed {}: at {at}, said {said_at}, ends {ends}: {answer:?}", self.seed);
    }

    async fn finish(&mut self) {
        let mut client = self.app.client().await;
        wait_for_status(&mut client, &self.upload, |status| status["bytes_per_second"].is_null()).await;
        loop {
            let (at, complete) = offset(&mut client, &self.upload).await;
            if complete {
                break;
            }
            let answer = self.append_rest(&mut client, at).await;
            // As above; a client that requests the offset again succeeds.
            let moved = answer.status == 409 && answer.header("upload-offset") != Some(&at.to_string());
            assert!(answer.status == 201 || moved, "seed {}: {answer:?}", self.seed);
        }
        assert!(download(&mut client, &self.upload).await == self.file, "seed {}: not the file's bytes", self.seed);
    }

    async fn append_rest(&self, client: &mut Client, at: usize) -> crate::support::client::Answer {
        let place = at.to_string();
        let headers = [version(self.number), PARTIAL, ("Upload-Offset", place.as_str()), end_in(self.number, true)];
        client.request("PATCH", &self.upload, &headers, &self.file[at..]).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_split_and_any_break_gives_the_right_bytes_or_a_clear_refusal() {
    let app = TestApp::start().await;
    for seed in 0..40 {
        let mut walk = Walk::begin(&app, seed).await;
        for _ in 0..6 {
            let stage = app.client().await.status(&walk.upload).await["stage"].clone();
            if stage == "completed" {
                break;
            }
            walk.step().await;
        }
        walk.finish().await;
    }
}
