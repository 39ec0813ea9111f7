//! Writes the report: tables, plots, and whether the goals are met. It measures nothing itself.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

use crate::results::Results;

mod goals;
mod numbers;
mod page;
mod plot;
mod scale_goals;

/// Reads `OUT/benchmarks/results.json`; writes `OUT/benchmarks.md` and the plots beside the numbers.
pub(crate) fn write(out: &Path) -> anyhow::Result<()> {
    let folder = out.join("benchmarks");
    let results = Results::load(&folder.join("results.json"))?;
    ensure!(!results.scenarios.is_empty(), "there are no numbers in {}", folder.display());
    for (name, drawing) in page::plots(&results) {
        fs::write(folder.join(&name), drawing).with_context(|| format!("could not write {name}"))?;
    }
    fs::write(out.join("benchmarks.md"), page::page(&results)).context("could not write benchmarks.md")
}
