//! Endpoints as the sender uses them, and the encryption of their stored secrets.

pub(crate) mod endpoint;
pub(crate) mod vault;
