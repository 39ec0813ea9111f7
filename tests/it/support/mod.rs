//! Starts the server, drives it, receives its webhooks and cuts its connections.

pub mod app;
pub mod client;
pub mod delayed;
pub mod disk;
pub mod event_ids;
pub mod film;
pub mod front;
pub mod group;
pub mod http2;
pub mod metrics;
pub mod moving;
pub mod patience;
pub mod peers;
pub mod process;
pub mod program;
pub mod receiver;
pub mod schema;
pub mod scripted;
pub mod seeded;
pub mod sse;
pub mod tls;
pub mod world;
