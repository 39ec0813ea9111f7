//! The suite that every store passes.

use state::conformance_suite;

use crate::place::{Database, OneWriter};

conformance_suite!(Database);

conformance_suite! { OneWriter;
    uploads::many_commits_share_transactions
    uploads::a_conflict_spares_the_rest_of_its_batch
}
