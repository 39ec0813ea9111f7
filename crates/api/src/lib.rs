//! Types for the JSON of the API and of events. The server writes it; the command line, pages and receivers
//! read it.
//!
//! Owns the fields, their names and their order. Fields are only ever added: none is removed, and none
//! changes its meaning. Readers of responses accept missing fields, since an older server does not write all
//! of them. Depends on the domain, and knows nothing of HTTP, of databases or of the server's address: URLs
//! are arguments.

pub mod delivery;
pub mod endpoint;
pub mod event;
pub mod facts;
pub mod hook;
pub mod node;
pub mod pairs;
pub mod problem;
pub mod replay;
pub mod text;
pub mod upload;

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};

/// One of the fixed words of a field, such as a stage or a state.
pub type Keyword = Cow<'static, str>;

/// Deserializes a field so that `null` (`Some(None)`) differs from an absent field (`None`).
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}
