//! What backends report of an upload: stages of their own, beside the way.

use crate::event::{Details, EventKind};
use crate::report::{Announcement, MAX_STAGES, NewReport, ReportRefused};
use crate::stage::{Ended, Stage};
use crate::time::Timestamp;
use crate::upload::{Reported, Upload};

impl Upload {
    /// Takes note of what a backend says of a stage of its own. Saying it again changes nothing.
    pub fn report(&mut self, new: NewReport, now: Timestamp) -> Result<Reported, ReportRefused> {
        self.check_reportable(now)?;
        let place = self.record.reports.iter().position(|report| report.name == new.name());
        let before = place.and_then(|place| self.record.reports.get(place));
        if before.is_none() && self.record.reports.len() >= MAX_STAGES {
            return Err(ReportRefused::TooMany);
        }
        let announcement = new.announcement_after(before, now);
        let told_at = before.filter(|_| announcement == Announcement::RecordOnly).map_or(now, |before| before.told_at);
        if announcement == Announcement::Nothing {
            return Ok(Reported::Unchanged);
        }
        let report = new.into_report(now, told_at);
        match place {
            Some(place) => self.record.reports[place] = report.clone(),
            None => self.record.reports.push(report.clone()),
        }
        self.record.updated_at = now;
        if announcement == Announcement::Event {
            self.tell_with(EventKind::Processing, Details { report: Some(report), ..Details::default() }, now);
        }
        Ok(Reported::Changed)
    }

    /// Whether backends may report stages of their own now.
    pub fn check_reportable(&self, now: Timestamp) -> Result<(), ReportRefused> {
        match self.record.stage {
            Stage::Created | Stage::Receiving | Stage::Stalled => Err(ReportRefused::TooEarly(self.record.stage)),
            Stage::Ended(how) => Err(ReportRefused::Ended(how)),
            Stage::Received | Stage::Verified | Stage::Stored | Stage::Completed if self.is_expired(now) => {
                Err(ReportRefused::Ended(Ended::Expired))
            }
            Stage::Received | Stage::Verified | Stage::Stored | Stage::Completed => Ok(()),
        }
    }
}
