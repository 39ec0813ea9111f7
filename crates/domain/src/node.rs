//! The nodes that share one state, and the fencing between them.
//!
//! A node is one run of the program. Two runs are two nodes, even if they have the same name or follow each
//! other on one machine: a later run takes over the uploads that an earlier one left, and nothing is taken
//! from a run that is alive.

use std::fmt;

use crate::id::InstanceId;

/// The longest name of a node, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// The record of one run of the program, which other nodes read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub instance: InstanceId,
    /// The operator's name for the machine or process.
    pub name: NodeName,
    pub role: NodeRole,
    /// The version of the program.
    pub version: String,
    /// Base URL at which other nodes reach this one. `None` for a node that works alone.
    pub peer_url: Option<String>,
    /// True while the node hands over its work because it is about to stop.
    pub is_draining: bool,
}

impl Node {
    /// Describes a node of the role `all` that other nodes cannot reach.
    pub fn alone(instance: InstanceId, name: NodeName, version: &str) -> Self {
        Self { instance, name, role: NodeRole::All, version: version.to_owned(), peer_url: None, is_draining: false }
    }
}

/// The requests that a node serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NodeRole {
    #[default]
    All,
    /// Uploads, and API requests that change state.
    Upload,
    /// Status, lists, events and downloads. Such a node holds no lease and writes no upload.
    Read,
}

impl NodeRole {
    pub const ALL: [Self; 3] = [Self::All, Self::Upload, Self::Read];

    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Upload => "upload",
            Self::Read => "read",
        }
    }

    /// Returns the role of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// A node name for display. Nothing depends on it, and two nodes may share a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeName(String);

impl NodeName {
    /// Accepts visible ASCII without spaces, as in host names, up to 255 bytes.
    pub fn new(name: &str) -> Option<Self> {
        let fits = (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(name.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of takeovers of an upload by nodes. Commits and storage calls carry the epoch they work in;
/// those of an earlier epoch change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(u64);

impl Epoch {
    /// No node has held the upload yet.
    pub const NONE: Self = Self(0);

    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// The recorded right to write an upload: its holder and its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// `None` if no node has held the upload yet, or the last holder has released it.
    pub holder: Option<InstanceId>,
    pub epoch: Epoch,
    /// The epoch since which every takeover was clean. No earlier holder can still be writing to a blob that
    /// was begun in this epoch, so the holder may continue in it.
    pub generation: Epoch,
}

/// The state in which the previous holder has left an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// It has closed the blob: it released the lease, or its node left the cluster.
    Clean,
    /// It may still be writing.
    Unclean,
}

impl Lease {
    /// The lease of an upload that no node has held.
    pub const NONE: Self = Self { holder: None, epoch: Epoch::NONE, generation: Epoch::NONE.next() };

    pub fn is_of(&self, instance: InstanceId) -> bool {
        self.holder == Some(instance)
    }

    /// Returns the lease after `instance` has taken over the upload.
    #[must_use]
    pub const fn taken_by(self, instance: InstanceId, handover: Handover) -> Self {
        let epoch = self.epoch.next();
        let generation = match handover {
            Handover::Clean => self.generation,
            Handover::Unclean => epoch,
        };
        Self { holder: Some(instance), epoch, generation }
    }

    /// Returns the lease after its holder has released it. The epoch stays: the next holder raises it.
    #[must_use]
    pub const fn released(self) -> Self {
        Self { holder: None, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    #[test]
    fn a_name_is_visible_and_short() {
        for good in ["a", "upload-1.example.org", &"x".repeat(255)] {
            assert_eq!(NodeName::new(good).map(|name| name.to_string()), Some(good.to_owned()));
        }
        for bad in ["", "two words", "tab\t", "ä", &"x".repeat(256)] {
            assert_eq!(NodeName::new(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_role_is_known_by_its_name() {
        for role in NodeRole::ALL {
            assert_eq!(NodeRole::by_name(role.name()), Some(role));
        }
        assert_eq!(NodeRole::by_name("write"), None);
    }

    #[test]
    fn every_change_of_hands_raises_the_epoch() {
        let [one, two] = [1, 2].map(|byte| InstanceId::new(Timestamp::from_unix_ms(1), [byte; 10]));
        let first = Lease::NONE.taken_by(one, Handover::Clean);
        assert!(first.is_of(one) && !first.is_of(two) && !Lease::NONE.is_of(one));
        for handover in [Handover::Clean, Handover::Unclean] {
            let second = first.taken_by(two, handover);
            assert!(second.is_of(two) && second.epoch > first.epoch && first.epoch > Epoch::NONE);
        }
    }

    #[test]
    fn only_an_unclean_takeover_begins_a_generation() {
        let [one, two] = [1, 2].map(|byte| InstanceId::new(Timestamp::from_unix_ms(1), [byte; 10]));
        let first = Lease::NONE.taken_by(one, Handover::Clean);
        assert_eq!(first.generation, first.epoch, "the first generation is that of the first epoch");
        let handed_over = first.released().taken_by(two, Handover::Clean);
        assert_eq!((handed_over.epoch, handed_over.generation), (Epoch::new(2), Epoch::new(1)));
        let seized = handed_over.taken_by(one, Handover::Unclean);
        assert_eq!((seized.epoch, seized.generation), (Epoch::new(3), Epoch::new(3)));
        let handed_on = seized.released().taken_by(two, Handover::Clean);
        assert_eq!((handed_on.epoch, handed_on.generation), (Epoch::new(4), Epoch::new(3)));
    }
}
