//! Work that one of several nodes does for all of them.

crate::named! {
    /// A kind of background work. One node has the duty to do it. If two do it at once, nothing breaks: each
    /// change checks versions or locks rows, and the work is only done twice.
    pub enum Duty {
        /// Completing or undoing interrupted uploads.
        SweepUnsettled = "sweep-unsettled",
        SweepUnsealed = "sweep-unsealed",
        SweepExpired = "sweep-expired",
        SweepSilent = "sweep-silent",
        /// Shortening lifetimes that a fast clock has written.
        SweepOverlong = "sweep-overlong",
        SweepChangedAfter = "sweep-changed-after",
        SweepRemovable = "sweep-removable",
        SweepOutdated = "sweep-outdated",
        /// Comparing stored files and records.
        Inventory = "inventory",
        /// Making deliveries due that wait by a clock that was ahead.
        RestartWaits = "restart-waits",
        Replays = "replays",
        Backlogs = "backlogs",
        ExpireDeliveries = "expire-deliveries",
        LimitBacklogs = "limit-backlogs",
        Prune = "prune",
    }
}
