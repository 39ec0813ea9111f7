//! The identity of this run of the program: its instance id and the name of its node.

use domain::id::InstanceId;
use domain::node::{Node, NodeName};
use domain::time::Timestamp;

use crate::config::Config;

/// Name of a node whose host has no usable name.
const NAMELESS: &str = "localhost";

/// Creates the identity of a new run. Its name comes from the configuration or from the host.
pub(super) fn begin(config: &Config, now: Timestamp) -> Node {
    let name = config.server.node_name.clone().or_else(host_name);
    let name = name.unwrap_or_else(|| NodeName::new(NAMELESS).expect("it is a name"));
    let node = Node::alone(InstanceId::new(now, rand::random()), name, env!("CARGO_PKG_VERSION"));
    Node { role: config.role, ..node }
}

fn host_name() -> Option<NodeName> {
    NodeName::new(rustix::system::uname().nodename().to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_is_a_run_of_its_own_under_one_name() {
        let now = Timestamp::from_unix_ms(1);
        let mut config = Config::default();
        let [first, second] = [begin(&config, now), begin(&config, now)];
        assert_ne!(first.instance, second.instance);
        assert_eq!(first.name, second.name);
        config.server.node_name = NodeName::new("upload-1");
        assert_eq!(begin(&config, now).name.as_str(), "upload-1");
    }
}
