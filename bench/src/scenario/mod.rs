//! The scenarios. Each drives servers and returns numbers; none evaluates them.

use crate::lab::{Lab, Notebook};

mod asking;
pub(crate) mod bystander;
mod cache;
pub(crate) mod cluster;
mod completion;
pub(crate) mod dialects;
mod eight;
mod load;
pub(crate) mod on_postgres;
mod one;
pub(crate) mod records;
mod relay;
mod resume;
mod small_machine;
pub(crate) mod status;
mod storm;
pub(crate) mod tls;
mod trickle;
pub(crate) mod webhooks;

pub(crate) struct Scenario {
    pub(crate) number: u8,
    pub(crate) title: &'static str,
    /// A description of the scenario for a reader of the report.
    pub(crate) what: &'static str,
    pub(crate) run: fn(&Lab, &mut Notebook) -> anyhow::Result<()>,
}

pub(crate) const ALL: [Scenario; 16] = [
    Scenario {
        number: 1,
        title: "One upload in one request",
        what: "One 2 GiB upload, one PATCH. Longshore makes every byte durable before it responds; no peer does.",
        run: one::in_one_request,
    },
    Scenario {
        number: 2,
        title: "One upload in many requests",
        what: "One 2 GiB upload in PATCHes of 8 MiB, and of 1 MiB, one after the other. Strict: each is on the disk \
               before its response.",
        run: one::in_chunks,
    },
    Scenario {
        number: 3,
        title: "Eight uploads at once",
        what: "Eight uploads of 1 GiB at once, each in one PATCH. Spread: the time of the slowest upload over that \
               of the fastest.",
        run: eight::run,
    },
    Scenario {
        number: 4,
        title: "Many small uploads",
        what: "Uploads of 64 KiB, each created with its bytes in one POST, from 64 connections at once.",
        run: storm::run,
    },
    Scenario {
        number: 5,
        title: "Ten thousand slow uploads",
        what: "10,000 connections, one upload on each, 1 KiB per second on each, for 60 s. Memory is that of the \
               server's processes above the idle server; the socket buffers of the kernel are not included.",
        run: trickle::run,
    },
    Scenario {
        number: 6,
        title: "Status requests during uploads",
        what: "The progress of an upload is requested from Longshore's status API, and from the peers by HEAD of a \
               finished upload: 200 times a second on each of two connections, idle and while scenario 3 runs in a \
               loop. Times count from the moment a request was due, so a late response also delays the next ones.",
        run: status::run,
    },
    Scenario {
        number: 7,
        title: "A bystander on the same machine",
        what: "nginx serves 1 GiB of 64 KiB files from the page cache while 16 GiB are uploaded to a server beside \
               it. Hit rate: the bytes it served without reading the disk.",
        run: bystander::run,
    },
    Scenario {
        number: 8,
        title: "Page cache use of an upload",
        what: "One 2 GiB upload after the page cache was emptied: the growth of the cache at the time of the \
               response, and how much of the stored file is in it.",
        run: cache::run,
    },
    Scenario {
        number: 9,
        title: "Resuming after a cut",
        what: "A PATCH is cut after 1 GiB, and then again every 2 MiB, in three ways: closed, reset, and left open \
               without traffic. A new connection sends HEAD and then 4 KiB at the reported offset, until they are \
               accepted. Times count from that HEAD.",
        run: resume::run,
    },
    Scenario {
        number: 10,
        title: "From the last byte to the webhook",
        what: "One 2 GiB upload. The time from the moment the client has handed its last byte to the kernel until \
               the message about the completed upload reaches a receiver. Longshore also computes a SHA-256.",
        run: completion::run,
    },
    Scenario {
        number: 11,
        title: "TLS and HTTP/2",
        what: "The 2 GiB upload over TLS 1.3 with HTTP/1.1, and with HTTP/2. Then 512 MiB over a link with a round \
               trip of 50 ms: a relay that holds every byte for 25 ms each way, once without a limit, once with at \
               most 6 MiB in flight, which is the TCP window that Linux allows by default.",
        run: tls::run,
    },
    Scenario {
        number: 12,
        title: "A million records",
        what: "Longshore's status and lists with 1,000, 100,000 and 1,000,000 upload records, and its start-up time.",
        run: records::run,
    },
    Scenario {
        number: 13,
        title: "Other dialects, and ranges in parallel",
        what: "The 2 GiB upload in one request of each dialect, and in ranges of 16 MiB from eight connections at \
               once. Google's clients request an MD5, so their uploads are compared with a tus upload that requests \
               one too.",
        run: dialects::run,
    },
    Scenario {
        number: 14,
        title: "Webhooks",
        what: "How many messages a second reach a receiver and how soon, alone and beside an endpoint with a million \
               deliveries that cannot be sent; what they cost uploading clients; how often progress is reported; and \
               how many messages are lost when the receiver is slow or down, or the server is killed, compared with \
               tusd's HTTP hooks.",
        run: webhooks::run,
    },
    Scenario {
        number: 15,
        title: "PostgreSQL instead of SQLite",
        what: "The same server with its records in SQLite, and in PostgreSQL 15 beside it on the same two cores, in \
               turns: commits a second, uploads of 64 KiB from 64 connections, status requests, the delay of \
               webhooks, and one 2 GiB upload in one PATCH. Then again with PostgreSQL beside a million upload \
               records.",
        run: on_postgres::run,
    },
    Scenario {
        number: 16,
        title: "Several nodes",
        what: "Three nodes share one PostgreSQL database and one folder. How soon another node accepts bytes of an \
               upload when its node is healthy, frozen (SIGSTOP), or killed; and the rate of three nodes with lines \
               of limited bandwidth compared with that of one.",
        run: cluster::run,
    },
];
