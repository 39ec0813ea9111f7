//! The server's own keys, and the tokens and hashes made with them.
//!
//! Owns the form of a key file, the single-purpose keys derived from the keys in it, and the texts made from
//! such keys or from random bytes: tokens for reporting stages, tokens for following an upload, cursors in
//! the event log and in lists, and keys of the admin API. Promises that no key appears in debug output. Reads
//! no files, generates no random bytes and authenticates nobody: its users do.

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
