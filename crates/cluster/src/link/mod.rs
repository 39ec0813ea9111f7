//! The link between nodes: carries the calls of one engine to another over HTTP and TLS.
//!
//! Owns the protocol (`wire`), the certificates of both sides (`identity`, `pinned_keys`), the calling
//! side (`calls`) and the answering side (`listener`, `answers`). Promises that both sides of a
//! connection hold the same server key and belong to the same cluster, and that nothing a peer sends is read
//! without a limit. A call that fails in any way is one without an answer: the engine then relies on the
//! leases in the state.

mod answers;
mod calls;
mod identity;
mod listener;
mod pinned_keys;
mod settings;
#[cfg(test)]
mod tests;
mod wire;

pub use calls::PeerLink;
pub use identity::{IdentityError, PeerIdentity};
pub use listener::PeerListener;
pub use settings::LinkSettings;
