//! The content of a run: steps of clients, faults below, and the settings of the engine. A script is a value,
//! so it can be generated, written by hand, repeated, shrunk, and printed.

use domain::dialect::Dialect;
use domain::write_rules::{Completion, WriteOrder, WriteRules};

use crate::faults::Planned;
use crate::peers::Line;

/// An upload of the script, printed as a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub u8);

/// A request of the script, printed with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestName(pub u8);

/// A node of the script. A node that was killed or stopped is followed by another one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeNumber(pub u8);

#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    /// The seed of contents, identifiers and the duration of calls.
    pub seed: u64,
    pub tuning: Tuning,
    pub steps: Vec<Step>,
    pub faults: Vec<Planned>,
}

/// The settings of the engine, and of the stores below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    pub keep_open_ms: u64,
    pub checkpoint_every_ms: u64,
    pub checkpoint_bytes: u64,
    pub max_parallel: usize,
    pub max_ranges: u32,
    pub max_replaced_bytes: u64,
    pub progress: bool,
    /// The retention of the files of completed uploads; `None` means forever.
    pub keeps_files_ms: Option<u64>,
    /// Set when calls take time.
    pub slow: bool,
    /// The number of nodes that share the stores.
    pub nodes: u8,
    /// Set when the storage is like an object store: in order, and no node continues in the blob of another.
    pub seals: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            keep_open_ms: 0,
            checkpoint_every_ms: 1_000,
            checkpoint_bytes: 1 << 20,
            max_parallel: 8,
            max_ranges: 64,
            max_replaced_bytes: 1 << 20,
            progress: false,
            keeps_files_ms: None,
            slow: false,
            nodes: 1,
            seals: false,
        }
    }
}

/// The next step of a client. A step that is not possible at its point of the run does nothing, so that a
/// script remains valid when steps are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Create {
        upload: Name,
        plan: Plan,
    },
    /// A request begins; its bytes follow in later steps.
    Begin {
        request: RequestName,
        upload: Name,
        body: Body,
    },
    Send {
        request: RequestName,
        bytes: u64,
    },
    /// The body of a request ends as announced.
    End {
        request: RequestName,
    },
    /// The client falls silent, and its connection times out.
    Fall {
        request: RequestName,
    },
    /// The handler of the request is dropped, as when the peer resets the connection.
    Vanish {
        request: RequestName,
    },
    Inspect {
        upload: Name,
    },
    Cancel {
        upload: Name,
    },
    /// An operator deletes the upload.
    Delete {
        upload: Name,
    },
    Concatenate {
        upload: Name,
        parts: [Option<Name>; 3],
    },
    Wait {
        ms: u64,
    },
    /// The node of the next requests is killed, and started again.
    Kill,
    /// The node of the next requests is stopped gracefully, and started again.
    Stop,
    /// The next requests go to this node. This and the steps below need several nodes.
    Switch {
        node: NodeNumber,
    },
    /// A line of a node is cut or restored.
    Cut {
        node: NodeNumber,
        wire: Wire,
        line: Line,
    },
    /// The process of a node is stopped, and later continues as if no time had passed.
    Freeze {
        node: NodeNumber,
    },
    Thaw {
        node: NodeNumber,
    },
    /// The state forgets that a node is alive, and the node has not noticed it yet.
    Forget {
        node: NodeNumber,
    },
}

/// A connection of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// From other nodes.
    Peers,
    /// To the state.
    State,
    /// To the state, for heartbeats only.
    Heartbeat,
}

/// The knowledge of the client that creates an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub dialect: Dialect,
    pub partial: bool,
    /// Its planned length.
    pub size: u64,
    /// Set when the creation declares the length.
    pub says_size: bool,
    pub promise: Promise,
}

/// A digest of the whole that was declared with the creation, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    None,
    Right,
    Wrong,
}

/// The body of a request, and the declarations in its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body {
    pub at: At,
    /// The number of bytes it will have.
    pub size: u64,
    /// Set when its head declares the size.
    pub says_size: bool,
    /// The length of the whole upload, if its head declares one.
    pub length: Option<u64>,
    /// Set when its head says that the upload ends with it.
    pub last: bool,
    pub content: Content,
    pub checksum: Checksum,
    /// Set when bytes beyond the length fail the upload.
    pub fatal: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The offset that the client expects.
    Offset,
    Place(u64),
}

/// The bytes that a request sends: those of the file, or others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    File,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    None,
    Right,
    Wrong,
}

impl Plan {
    /// Returns the write rules of the upload's dialect.
    pub fn write_rules(self) -> WriteRules {
        match self.dialect.name() {
            "ietf" | "google" => WriteRules { order: WriteOrder::InOrder, completion: Completion::WhenSaid },
            "ranged" => WriteRules { order: WriteOrder::Any, completion: Completion::WhenFull },
            _ => WriteRules { order: WriteOrder::InOrder, completion: Completion::WhenFull },
        }
    }

    pub const fn of(dialect: Dialect, size: u64) -> Self {
        Self { dialect, partial: false, size, says_size: true, promise: Promise::None }
    }

    /// The same, but its length is declared later.
    pub const fn later(self) -> Self {
        Self { says_size: false, ..self }
    }
}

impl Body {
    /// Bytes of the file from `start` to `end`, as announced.
    pub const fn range(start: u64, end: u64) -> Self {
        Self {
            at: At::Place(start),
            size: end - start,
            says_size: true,
            length: None,
            last: false,
            content: Content::File,
            checksum: Checksum::None,
            fatal: false,
        }
    }

    /// This many bytes of the file at the offset.
    pub const fn next(size: u64) -> Self {
        Self { at: At::Offset, ..Self::range(0, size) }
    }

    pub const fn chunked(self) -> Self {
        Self { says_size: false, ..self }
    }

    pub const fn of(self, length: u64) -> Self {
        Self { length: Some(length), ..self }
    }

    pub const fn checked(self) -> Self {
        Self { checksum: Checksum::Right, ..self }
    }

    pub const fn other(self) -> Self {
        Self { content: Content::Other, ..self }
    }

    pub const fn last(self) -> Self {
        Self { last: true, ..self }
    }
}
