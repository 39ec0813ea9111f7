//! The membership of a node in a cluster, and the calls between nodes.
//!
//! [`membership`] registers the node and renews its heartbeat. While the heartbeat is not confirmed, a fence
//! stops the engine. [`living_nodes`] has the nodes that count as alive. [`link`] carries the calls of one
//! engine to another. [`drain`] hands over the uploads of a node that is about to stop, and [`clock_guard`]
//! those of a node whose clock is wrong. [`directory`] lists and drains nodes for operators. [`admission`]
//! rejects nodes of other clusters, and [`reachability`] reports wrong addresses.

pub mod admission;
pub mod clock_guard;
pub mod directory;
pub mod drain;
pub mod link;
pub mod living_nodes;
pub mod membership;
pub mod reachability;

pub use clock_guard::ClockGuard;
pub use directory::{DrainError, NodeDirectory};
pub use drain::{Drain, DrainSettings};
pub use link::{LinkSettings, PeerIdentity, PeerLink, PeerListener};
pub use living_nodes::LivingNodes;
pub use membership::{Member, MembershipSettings};
