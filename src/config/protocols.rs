//! Settings of the upload protocols.

use crate::config::reader::{Parsed, Reader};
use crate::config::units::{KIB, MIB};
use dialects::uploads::Protocols;
use engine::RangeSettings;

pub(super) fn read(from: &mut Reader, ranges: &RangeSettings) -> Protocols {
    let protocols = Protocols {
        ietf_interop_versions: from.list("protocols.ietf_interop_versions", versions),
        plain_uploads: from.boolean("protocols.plain_uploads"),
        range_size_bytes: from.size("protocols.range_size", 64 * KIB..=1024 * MIB),
    };
    from.require(
        protocols.range_size_bytes.is_multiple_of(ranges.alignment_bytes),
        &["protocols.range_size", "protocols.range_alignment"],
        |others| format!("must be a multiple of {}", others.join(", ")),
    );
    protocols
}

fn versions(items: Vec<&str>) -> Parsed<Vec<u32>> {
    let hint =
        |item: &str| format!("{item:?} is not an interop version of a draft; write whole numbers, such as \"8\"");
    items.into_iter().map(|item| item.parse().map_err(|_| hint(item))).collect()
}
