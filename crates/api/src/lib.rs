//! The JSON that Longshore shows: bodies of events, and the facts and terms in them.
//!
//! Owns how things are written, for whoever reads them: clients, receivers of webhooks, the command line. Knows the domain,
//! and neither where facts are kept nor how they are sent.

pub mod event_body;
pub mod facts_json;
pub mod terms_json;
