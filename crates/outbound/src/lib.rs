//! Outbound requests: the allowed addresses, the HTTP client settings, and the signatures of messages.
//!
//! Promises: no request goes to an address that the rules block, even if a name resolves to one; the client
//! never retries a request on its own initiative; keys do not appear in debug output. Knows nothing of
//! deliveries and hooks, whose senders use it.

pub mod address;
pub mod client;
pub mod ed25519;
pub mod failure;
pub mod keys;
mod lock;
pub mod resolver;
pub mod sign;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tls;
