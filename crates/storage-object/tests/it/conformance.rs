//! The suite of all stores.

use std::sync::Arc;

use crate::bucket;
use storage::{BlobStore, conformance};

/// scale-out O23.
#[tokio::test(flavor = "multi_thread")]
async fn the_store_keeps_the_contract() {
    conformance::all(async || Arc::new(bucket::store()) as Arc<dyn BlobStore>).await;
}
