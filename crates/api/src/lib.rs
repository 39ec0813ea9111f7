//! The JSON of the API and of events as types: written by the server, read
//! by the command line, pages and receivers.
//!
//! Owns which fields there are, their names and their order. Fields are only added; none goes or changes its
//! meaning. What reads an answer takes one without some of the fields, as an older server writes it. Knows
//! the domain, and nothing of HTTP, of databases or of where a server is: URLs are arguments.

pub mod delivery;
pub mod endpoint;
pub mod event;
pub mod facts;
pub mod hook;
pub mod pairs;
pub mod problem;
pub mod replay;
pub mod text;
pub mod upload;

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};

/// One of the fixed words of a field, such as a stage or a state.
pub type Keyword = Cow<'static, str>;

/// Tells a field that is `null` from one that is not there.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}
