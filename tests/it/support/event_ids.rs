//! The ids of events, decrypted with the server's key.

use domain::id::UploadId;
use domain::principal::TenantId;
use keyring::{CursorScope, Cursors, Listing, ServerKeys};

use crate::support::app::TestApp;
use crate::support::sse::Message;

/// The key for the ids of a server, which a test has and no client does.
pub struct EventIds(Cursors);

impl EventIds {
    pub fn of(app: &TestApp) -> Self {
        let keys = std::fs::read_to_string(app.data_dir().join("longshore.key")).unwrap();
        Self(Cursors::new(&ServerKeys::parse(&keys).unwrap()))
    }

    /// Returns the id of the event of an upload with this sequence.
    pub fn of_one(&self, path: &str, sequence: u64) -> String {
        self.0.seal(own(Listing::EventsOf(upload_of(path))), &sequence.to_be_bytes())
    }

    /// Returns the id of the event at this position in the log of all events.
    pub fn of_all(&self, position: u64) -> String {
        self.0.seal(own(Listing::Events), &position.to_be_bytes())
    }

    /// Returns the sequence in the id of a message of the stream of one upload.
    pub fn sequence(&self, path: &str, message: &Message) -> u64 {
        self.open(Listing::EventsOf(upload_of(path)), message)
    }

    /// Returns the position in the id of a message of the stream of all uploads.
    pub fn position(&self, message: &Message) -> u64 {
        self.open(Listing::Events, message)
    }

    fn open(&self, stream: Listing, message: &Message) -> u64 {
        let id = message.id.as_ref().expect("this message has an id");
        let place = self.0.open(own(stream), id).expect("it was sealed for this stream");
        u64::from_be_bytes(place.try_into().unwrap())
    }
}

fn own(listing: Listing) -> CursorScope {
    CursorScope { tenant: TenantId::DEFAULT, listing }
}

fn upload_of(path: &str) -> UploadId {
    path.split('/').find_map(|part| part.parse().ok()).expect("the path names an upload")
}
