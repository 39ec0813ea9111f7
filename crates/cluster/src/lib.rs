//! The membership of a node in a cluster: its registration, its heartbeat and its view of the other nodes.
//!
//! [`membership`] registers the node and renews its heartbeat. While the heartbeat is not confirmed, a fence
//! stops the engine. [`living_nodes`] has the nodes that count as alive.

pub mod living_nodes;
pub mod membership;

pub use living_nodes::LivingNodes;
pub use membership::{Member, MembershipSettings};
