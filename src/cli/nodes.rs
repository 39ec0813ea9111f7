//! `longshore nodes` and `longshore drain`: lists the nodes of a cluster, and drains one, through its API.

use std::collections::BTreeMap;
use std::io::Write;

use clap::{Arg, ArgMatches, Command};

use crate::cli::webhooks::client::{Answer, Api};
use crate::cli::webhooks::show::Printed;
use crate::cli::webhooks::{connection_flags, show};
use crate::cli::{Failure, print};
use api::node::{NodeList, NodeRecord};

const DRAIN_HELP: &str = "\
The node answers GET /lb with 503 at once, so that the load balancer sends no more requests. After
cluster.drain_notice it accepts no new uploads, and after cluster.drain_grace its last uploads resume at
other nodes. It still serves reads, until it is stopped.";

/// Path of nodes in the API.
const AREA: &str = "nodes";

pub(super) fn command() -> Command {
    Command::new("nodes").about("List the living nodes of a cluster").args(connection_flags())
}

pub(super) fn drain_command() -> Command {
    let node = Arg::new("node").required(true).value_name("NAME").help("Name of the node, or its instance id");
    Command::new("drain")
        .about("Make a node hand over its uploads to the others before it is stopped")
        .after_help(DRAIN_HELP)
        .arg(node)
        .args(connection_flags())
}

pub(super) fn run(matches: &ArgMatches, env: &BTreeMap<String, String>, out: &mut dyn Write) -> Result<(), Failure> {
    let found: Answer<NodeList> = Api::new(matches, env)?.within(AREA).get("")?;
    let printed = Printed { text: shown(&found.read.nodes), raw: found.raw };
    print(out, &printed.shown(matches.get_flag("json")))
}

pub(super) fn drain(matches: &ArgMatches, env: &BTreeMap<String, String>, out: &mut dyn Write) -> Result<(), Failure> {
    let node = matches.get_one::<String>("node").expect("clap demands it");
    let drained: Answer<NodeRecord> = Api::new(matches, env)?.within(AREA).post_empty(&format!("/{node}/drain"))?;
    let printed = Printed { text: shown(std::slice::from_ref(&drained.read)), raw: drained.raw };
    print(out, &printed.shown(matches.get_flag("json")))
}

fn shown(nodes: &[NodeRecord]) -> String {
    show::table("no nodes", nodes, &["NODE", "ROLE", "VERSION", "STATE", "INSTANCE"], |node| {
        vec![
            show::word(&node.name),
            show::word(&node.role),
            show::word(&node.version),
            if node.draining { "draining" } else { "serving" }.to_owned(),
            show::word(&node.instance),
        ]
    })
}
