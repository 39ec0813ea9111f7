//! Tests of the whole server, driven over sockets. One binary; each module has one subject.
//!
//! Numbers such as `tus 53` or `webhooks R8` name requirements of the protocols; the sentence next to them says what
//! they ask.

mod support;

mod smoke;
mod tidy;
