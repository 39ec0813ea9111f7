//! `longshore admin-key`: generates a key for managing webhooks.

use std::io::Write;

use clap::Command;

use crate::cli::{Failure, print};
use keyring::{AdminKey, AdminKeyHash};

pub(super) fn command() -> Command {
    Command::new("admin-key")
        .about("Make a key for managing webhooks, and print the configuration line that enables it")
        .after_help("The first line is the key. It is not stored anywhere; only its hash belongs in the configuration.")
}

pub(super) fn run(out: &mut dyn Write) -> Result<(), Failure> {
    let key = AdminKey::generate(rand::random());
    let hash = AdminKeyHash::of(key.expose().as_bytes());
    let text = format!(
        "{}\n\n# The line above is the key. It is shown only once. Add these lines to the \
         configuration:\n[auth]\nadmin_keys = [\"{hash}\"]\n",
        key.expose()
    );
    print(out, &text)
}
