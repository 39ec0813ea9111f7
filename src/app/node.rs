//! Which run of the program this is, and where it runs.

use domain::id::InstanceId;
use domain::node::{Node, NodeName};
use domain::time::Timestamp;

use crate::config;

/// What a host is called that has no usable name.
const NAMELESS: &str = "localhost";

/// A new run, under the name that the configuration or the host gives it.
pub(super) fn begin(config: &config::ServerConfig, now: Timestamp) -> Node {
    let name = config.node_name.clone().or_else(host_name);
    let name = name.unwrap_or_else(|| NodeName::new(NAMELESS).expect("it is a name"));
    Node { instance: InstanceId::new(now, rand::random()), name }
}

fn host_name() -> Option<NodeName> {
    NodeName::new(rustix::system::uname().nodename().to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn each_start_is_a_run_of_its_own_under_one_name() {
        let now = Timestamp::from_unix_ms(1);
        let mut config = Config::default().server;
        let [first, second] = [begin(&config, now), begin(&config, now)];
        assert_ne!(first.instance, second.instance);
        assert_eq!(first.name, second.name);
        config.node_name = NodeName::new("upload-1");
        assert_eq!(begin(&config, now).name.as_str(), "upload-1");
    }
}
