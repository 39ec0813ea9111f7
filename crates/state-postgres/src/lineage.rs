//! Detection of a former primary.
//!
//! After a failover the former primary may start again with its old data. Two servers that both accept
//! commits would defeat every epoch. A server has an identifier, which its replicas share, and a timeline,
//! which grows with each promotion. A server with a lower timeline than one seen before is therefore
//! rejected.

use std::sync::Mutex;

use crate::fault::Fault;
use crate::lock::lock;

/// The latest server, and its timeline.
#[derive(Debug, Default)]
pub(crate) struct Lineage(Mutex<Option<(i64, u32)>>);

impl Lineage {
    /// Records the server of a new connection.
    pub(crate) fn accept(&self, system: i64, timeline: u32) -> Result<(), Fault> {
        let mut seen = lock(&self.0);
        if let Some((known, highest)) = *seen {
            if known != system {
                return Err(Fault::Unusable(
                    "the address leads to a different database server; restart this server if that is intended"
                        .to_owned(),
                ));
            }
            if timeline < highest {
                return Err(Fault::Unusable(format!(
                    "the database server is on timeline {timeline}, but one on timeline {highest} has replaced it; \
                     stop the former one"
                )));
            }
        }
        *seen = Some((system, timeline));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promotion_is_followed_and_never_undone() {
        let lineage = Lineage::default();
        for (system, timeline, is_accepted) in
            [(7, 1, true), (7, 1, true), (7, 3, true), (7, 2, false), (8, 9, false), (7, 3, true), (7, 4, true)]
        {
            assert_eq!(lineage.accept(system, timeline).is_ok(), is_accepted, "{system} {timeline}");
        }
    }
}
