//! The server's own keys, and what is made of them.
//!
//! Owns the form of a key file, the keys for single purposes that are derived from those in it, and the kinds
//! of text that such keys or chance make: tokens for reporting stages, tokens for following an upload, places
//! in the log of events, and keys of the admin API. Promises that no key prints itself. Reads no file, makes
//! no random bytes and asks nobody who they are: that is for those who use it.

mod admin;
mod cursor;
mod keys;
mod read_token;
mod stage_token;

pub use admin::{AdminKey, AdminKeyHash, InvalidHash};
pub use cursor::{CursorScope, Cursors, Listing};
pub use keys::{DerivedKey, DerivedKeys, InvalidKeys, ServerKeys};
pub use read_token::{ReadTokens, TokenValidity, is_read_token};
pub use stage_token::StageTokens;
