//! Who is sent to: endpoints as the sender knows them, and their secrets at rest.

pub(crate) mod endpoint;
pub(crate) mod vault;
