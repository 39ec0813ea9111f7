//! What every client of HTTP may expect, whichever protocol an upload was created in.

mod types;
