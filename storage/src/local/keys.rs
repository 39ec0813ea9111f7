//! Lists the blobs of a data folder, one folder at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use futures::{StreamExt, stream};

use super::blocking;
use super::folder::BlobFolder;
use crate::{BlobKey, Error, KeyStream};

/// The content of one folder.
#[derive(Debug, Default)]
struct Listing {
    folders: Vec<PathBuf>,
    keys: Vec<BlobKey>,
}

/// Returns every key that a file in the data folder has.
pub(super) fn stream(data: Arc<BlobFolder>) -> KeyStream {
    let roots = data.roots().map(Path::to_owned).to_vec();
    let listings = stream::unfold((data, roots), |(data, mut left)| async {
        let folder = left.pop()?;
        let (own, here) = (Arc::clone(&data), folder.clone());
        let listed = blocking::run(move || list(&own, &here)).await;
        let keys: Vec<crate::Result<BlobKey>> = match listed {
            Ok(Listing { folders, keys }) => {
                left.extend(folders);
                keys.into_iter().map(Ok).collect()
            }
            // Emptied and removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => vec![Err(Error::about("list", folder.display().to_string(), source))],
        };
        Some((stream::iter(keys), (data, left)))
    });
    listings.flatten().boxed()
}

fn list(data: &BlobFolder, folder: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            listing.folders.push(entry.path());
        } else {
            // A file without a key is not a blob.
            listing.keys.extend(data.key_of(&entry.path()));
        }
    }
    Ok(listing)
}
