//! stub
pub mod cli;
pub mod config;
pub mod domain;
pub mod state;
pub mod telemetry;
