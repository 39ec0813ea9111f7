//! stub
pub mod domain;
