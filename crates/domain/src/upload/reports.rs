//! Processing stages that backends report for an upload; they do not change the stage of the upload.

use crate::event::{Details, EventKind};
use crate::report::{MAX_STAGES, NewReport, ReportEffect, ReportRejected};
use crate::stage::{Ended, Stage};
use crate::time::Timestamp;
use crate::upload::{ReportOutcome, Upload};

impl Upload {
    /// Records a backend's report about a processing stage. Repeating a report changes nothing.
    pub fn report(&mut self, new: NewReport, now: Timestamp) -> Result<ReportOutcome, ReportRejected> {
        self.check_reportable(now)?;
        let place = self.record.reports.iter().position(|report| report.name == new.name());
        let before = place.and_then(|place| self.record.reports.get(place));
        if before.is_none() && self.record.reports.len() >= MAX_STAGES {
            return Err(ReportRejected::TooMany);
        }
        let effect = new.effect_after(before, now);
        let published_at =
            before.filter(|_| effect == ReportEffect::RecordOnly).map_or(now, |before| before.published_at);
        if effect == ReportEffect::Nothing {
            return Ok(ReportOutcome::Unchanged);
        }
        let report = new.into_report(now, published_at);
        match place {
            Some(place) => self.record.reports[place] = report.clone(),
            None => self.record.reports.push(report.clone()),
        }
        self.record.updated_at = now;
        if effect == ReportEffect::Event {
            self.publish_with(EventKind::Processing, Details { report: Some(report), ..Details::default() }, now);
        }
        Ok(ReportOutcome::Changed)
    }

    /// Checks that backends may report processing stages now.
    pub fn check_reportable(&self, now: Timestamp) -> Result<(), ReportRejected> {
        match self.record.stage {
            Stage::Created | Stage::Receiving | Stage::Stalled => Err(ReportRejected::TooEarly(self.record.stage)),
            Stage::Ended(how) => Err(ReportRejected::Ended(how)),
            Stage::Received | Stage::Verified | Stage::Stored | Stage::Completed if self.is_expired(now) => {
                Err(ReportRejected::Ended(Ended::Expired))
            }
            Stage::Received | Stage::Verified | Stage::Stored | Stage::Completed => Ok(()),
        }
    }
}
