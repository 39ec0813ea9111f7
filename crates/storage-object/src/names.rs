//! The names of objects, by the keys of blobs.
//!
//! The blob `2026/11/21/<id>` is the object `<prefix>/2026/11/21/<xx>/<id>`, where `xx` are the last two
//! characters of the id: the first ones are a time, and would lead all requests of one moment to one place
//! (scale-out O18). While it is open, its small objects are in `<id>.parts/`. No key has a dot, so neither is
//! ever the name of another blob.

use object_store::path::Path;

use crate::parts::Extra;
use storage::BlobKey;

/// The end of the name of the folder beside an object.
const PARTS: &str = ".parts";

/// The names of one store.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// The folder in the bucket; empty if the store has the whole bucket.
    prefix: Path,
}

impl Names {
    pub(crate) fn new(prefix: &str) -> Result<Self, object_store::path::Error> {
        Ok(Self { prefix: Path::parse(prefix.trim_matches('/'))? })
    }

    pub(crate) fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Returns the object of a blob that is sealed or finished.
    pub(crate) fn object(&self, key: &BlobKey) -> Path {
        self.named(key, "")
    }

    /// Returns the folder of the small objects of an open blob.
    pub(crate) fn folder(&self, key: &BlobKey) -> Path {
        self.named(key, PARTS)
    }

    pub(crate) fn extra(&self, key: &BlobKey, extra: Extra) -> Path {
        self.named(key, &format!("{PARTS}/{:016x}-{}", extra.opening, extra.number))
    }

    /// Returns the object that a check writes and removes.
    pub(crate) fn check(&self, number: u64) -> Path {
        self.below(&format!(".check-{number:016x}"))
    }

    fn named(&self, key: &BlobKey, end: &str) -> Path {
        let (folders, name) = key.as_str().rsplit_once('/').unwrap_or(("", key.as_str()));
        let separator = if folders.is_empty() { "" } else { "/" };
        self.below(&format!("{folders}{separator}{}/{name}{end}", spread(name)))
    }

    fn below(&self, name: &str) -> Path {
        let separator = if self.prefix.as_ref().is_empty() { "" } else { "/" };
        // Path would encode some characters if it were made of segments.
        Path::parse(format!("{}{separator}{name}", self.prefix)).expect("keys have no empty segments and no dots alone")
    }

    /// Returns the blob that an object belongs to. `None` if no store of this program has made it.
    pub(crate) fn key(&self, object: &Path) -> Option<BlobKey> {
        let mut name = object.as_ref().strip_prefix(self.prefix.as_ref())?.trim_start_matches('/');
        if let Some(blob) = name.rsplit_once('/').and_then(|(folder, _)| folder.strip_suffix(PARTS)) {
            name = blob;
        }
        let (folders, name) = name.rsplit_once('/')?;
        let (folders, spread_by) = folders.rsplit_once('/').map_or(("", folders), |(folders, last)| (folders, last));
        let separator = if folders.is_empty() { "" } else { "/" };
        BlobKey::new(format!("{folders}{separator}{name}")).ok().filter(|_| spread_by == spread(name))
    }
}

/// Returns the last two characters of the id in a name, which are random.
fn spread(name: &str) -> &str {
    let id = name.split_once('~').map_or(name, |(id, _)| id);
    // Keys are ASCII.
    id.get(id.len().saturating_sub(2)..).filter(|end| !end.is_empty()).unwrap_or("00")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTRA: Extra = Extra { opening: 0xab, number: 3 };

    #[test]
    fn every_name_leads_back_to_its_key() {
        for prefix in ["", "uploads", "a/b c/ü"] {
            let names = Names::new(prefix).unwrap();
            for key in ["a", "ab", "~2", "2026/11/21/0193-abcd", "t7/2026/11/21/0193-abcd~2", "x/0193-abcd~joined-3"] {
                let key = BlobKey::new(key).unwrap();
                for object in [names.object(&key), names.extra(&key, EXTRA)] {
                    assert_eq!(names.key(&object).as_ref(), Some(&key), "{object}");
                }
            }
            for foreign in ["x", "2026/11/21/0193-abcd", "2026/11/cd/0193-ABcd", "cd/.check-00"] {
                assert_eq!(names.key(&names.below(foreign)), None, "{foreign}");
            }
        }
    }

    /// scale-out O18: the day, and a part that spreads.
    #[test]
    fn a_name_has_the_day_and_a_random_part() {
        let names = Names::new("/uploads/").unwrap();
        let key = BlobKey::new("t7/2026/11/21/0193-abcd~2").unwrap();
        assert_eq!(names.object(&key).as_ref(), "uploads/t7/2026/11/21/cd/0193-abcd~2");
        let tail = "uploads/t7/2026/11/21/cd/0193-abcd~2.parts/00000000000000ab-3";
        assert_eq!(names.extra(&key, EXTRA).as_ref(), tail);
    }
}
