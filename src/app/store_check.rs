//! Tries the configured object store, and reports what it can do.

use std::fmt::Write;

use storage_object::{PartChecksum, StoreFeatures, UnfinishedRule};

use crate::app::stores::object_store;
use crate::config::Config;

/// Tries the store, and returns a report for people.
///
/// # Errors
///
/// No bucket is configured, or the store refuses what uploads need.
pub async fn check(config: &Config) -> anyhow::Result<String> {
    let (store, s3) = object_store(config)?;
    let features = store.probe().await?;
    let place = s3.endpoint.clone().unwrap_or_else(|| format!("AWS, {}", s3.region));
    let mut text = String::new();
    let _ = writeln!(text, "bucket       {} at {place}", s3.bucket);
    for (name, finding) in findings(&features, s3.checksum, config) {
        let _ = writeln!(text, "{name:<12} {finding}");
    }
    Ok(text)
}

fn findings(features: &StoreFeatures, checksum: PartChecksum, config: &Config) -> Vec<(&'static str, String)> {
    let age_days = config.engine.lifetimes.unfinished_age.as_secs().div_ceil(86_400);
    let checksums = match (features.compares_checksums, checksum) {
        (_, PartChecksum::Off) => "off by s3.checksum: only the connection protects parts",
        (true, _) => "a part whose CRC-32C is wrong is rejected",
        (false, PartChecksum::Auto) => "not compared: only the connection protects parts",
        (false, PartChecksum::Crc32c) => "sent, and not compared; s3.checksum = \"auto\" would not send them",
    };
    let joining = match features.copies_parts {
        true => "inside the store",
        false => "NOT POSSIBLE: concatenation, and uploads that another node takes over, would fail",
    };
    let small = match features.takes_small_parts {
        true => "accepted; not used",
        false => "refused, as by AWS",
    };
    let conditions = match features.keeps_conditions {
        true => "kept; not relied on",
        false => "ignored; not relied on",
    };
    let unfinished = match features.unfinished {
        UnfinishedRule::Unknown => {
            "unknown: the store does not tell, or the key may not read the lifecycle of the bucket".to_owned()
        }
        UnfinishedRule::None => {
            format!("kept permanently: add a lifecycle rule that aborts them after more than {age_days} days")
        }
        UnfinishedRule::AbortsAfterDays(days) if u64::from(days) <= age_days => {
            format!("ABORTED AFTER {days} DAYS, which is not longer than limits.unfinished_age: uploads would be lost")
        }
        UnfinishedRule::AbortsAfterDays(days) => format!("aborted after {days} days"),
    };
    vec![
        ("uploads", "stored in parts, completed, read by ranges and removed".to_owned()),
        ("checksums", checksums.to_owned()),
        ("joining", joining.to_owned()),
        ("small parts", small.to_owned()),
        ("conditions", conditions.to_owned()),
        ("unfinished", unfinished),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: StoreFeatures = StoreFeatures {
        compares_checksums: true,
        copies_parts: true,
        takes_small_parts: false,
        keeps_conditions: true,
        unfinished: UnfinishedRule::AbortsAfterDays(30),
    };

    fn told(features: StoreFeatures) -> String {
        let lines = findings(&features, PartChecksum::Auto, &Config::default());
        lines.into_iter().map(|(name, finding)| format!("{name}: {finding}\n")).collect()
    }

    #[test]
    fn what_would_lose_uploads_is_shouted() {
        let capitals = |text: &str| text.contains("ABORTED") || text.contains("NOT POSSIBLE");
        assert!(!capitals(&told(GOOD)), "{}", told(GOOD));
        assert!(capitals(&told(StoreFeatures { unfinished: UnfinishedRule::AbortsAfterDays(7), ..GOOD })));
        assert!(capitals(&told(StoreFeatures { copies_parts: false, ..GOOD })));
        assert!(told(StoreFeatures { unfinished: UnfinishedRule::None, ..GOOD }).contains("more than 7 days"));
    }
}
