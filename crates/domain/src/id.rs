//! Identifiers. All are UUIDv7: sortable by time of creation, with 74 random bits.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use uuid::Uuid;

use crate::time::Timestamp;

macro_rules! uuid_v7_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Makes an identifier from the time and ten random bytes.
            pub fn new(now: Timestamp, random: [u8; 10]) -> Self {
                let unix_ms = u64::try_from(now.unix_ms()).unwrap_or(0);
                Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid())
            }

            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// Reports whether the identifier has the version and variant that this server generates: UUID
            /// version 7.
            pub fn is_v7(&self) -> bool {
                self.0.get_version_num() == 7 && self.0.get_variant() == uuid::Variant::RFC4122
            }

            /// Returns the time in the identifier, in whole milliseconds.
            pub fn made_at(&self) -> Timestamp {
                let bytes = self.0.as_bytes();
                let unix_ms = bytes[..6].iter().fold(0_i64, |ms, byte| (ms << 8) | i64::from(*byte));
                Timestamp::from_unix_ms(unix_ms)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            /// Accepts exactly the lower-case hyphenated form that [`fmt::Display`] prints.
            fn from_str(text: &str) -> Result<Self, NotAnId> {
                let parsed = Self(Uuid::try_parse(text).map_err(|_| NotAnId)?);
                if parsed.to_string() == text { Ok(parsed) } else { Err(NotAnId) }
            }
        }
    };
}

/// The permitted distance between the time in an upload's identifier and the upload's creation. The
/// application may have chosen the identifier a little earlier, with another clock. Lists by time of creation
/// extend their range by this much.
pub const ID_SLACK: Duration = Duration::from_mins(10);

/// Returns the random part of an event's id with the event's sequence at its beginning. Ids of events that
/// one commit made in one millisecond then sort in the order of the events (RFC 9562, 6.2).
pub fn in_order(sequence: u64, mut random: [u8; 10]) -> [u8; 10] {
    let [.., high, low] = sequence.to_be_bytes();
    random[..2].copy_from_slice(&[high & 0x0f, low]);
    random
}

uuid_v7_id! {
    /// The identifier of an upload in URLs, in stored file names and in the state store.
    UploadId
}

uuid_v7_id! {
    /// The identifier of an event. With the prefix `evt_` it is the `webhook-id` of all deliveries of the
    /// event.
    EventId
}

uuid_v7_id! {
    /// The identifier of a delivery: one event to be sent to one endpoint.
    DeliveryId
}

uuid_v7_id! {
    /// The identifier of a job that sends deliveries again.
    ReplayId
}

uuid_v7_id! {
    /// The identifier of one call of a hook.
    HookCallId
}

uuid_v7_id! {
    /// The identifier of one run of the program. Each start generates a new one.
    InstanceId
}

uuid_v7_id! {
    /// The identifier of one commit of an upload. A caller that lost the reply to a commit recognizes the
    /// commit by it.
    CommitId
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid id")]
pub struct NotAnId;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_prints_and_parses_and_knows_its_time() {
        let now = Timestamp::from_unix_ms(1_763_764_245_123);
        let id = UploadId::new(now, [7; 10]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.made_at(), now);
        assert!(id.is_v7());
        assert!(!"9b2e1c54-8f0a-4d53-9c6f-0f6a5d3f2b11".parse::<UploadId>().unwrap().is_v7());
    }

    #[test]
    fn ids_sort_by_time() {
        let earlier = UploadId::new(Timestamp::from_unix_ms(1_000), [255; 10]);
        let later = UploadId::new(Timestamp::from_unix_ms(1_001), [0; 10]);
        assert!(earlier < later);
        assert!(earlier.to_string() < later.to_string());
    }

    #[test]
    fn only_the_canonical_form_is_an_id() {
        let id = UploadId::new(Timestamp::from_unix_ms(0), [0xab; 10]).to_string();
        let shouted = id.to_uppercase();
        let joined = id.replace('-', "");
        let braced = format!("{{{id}}}");
        for text in ["", "..", "%2e%2e", "a\0b", &shouted, &joined, &braced] {
            assert_eq!(text.parse::<UploadId>(), Err(NotAnId), "{text:?}");
        }
    }
}
