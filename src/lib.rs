//! stub
pub mod config;
pub mod domain;
pub mod state;
