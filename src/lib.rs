//! stub
pub mod domain;
pub mod state;
