//! Code that adapters in other crates share with the stores here.

pub use crate::durable_end::check_size;
pub use crate::epoch::{Epochs, Fenced};
pub use crate::error::Unsealed;
