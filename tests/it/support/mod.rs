//! Boots the server, drives it, hears its webhooks, cuts its wires.

pub mod app;
pub mod client;
pub mod process;
pub mod receiver;
