//! The way out: which addresses may be called, with which client, and how messages are signed.
//!
//! What is promised: no request goes to an address that the rules refuse, not even when a name resolves to
//! one; nothing is sent again by itself; keys do not print themselves. It knows nothing of deliveries and
//! hooks: those who send them use it.

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
