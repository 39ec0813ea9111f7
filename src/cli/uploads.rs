//! `longshore uploads`: lists, shows and deletes the uploads of a running server through its API.

use std::collections::BTreeMap;
use std::io::Write;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::cli::webhooks::client::{Answer, Api};
use crate::cli::webhooks::show::Printed;
use crate::cli::webhooks::{connection_flags, show};
use crate::cli::{Failure, print};
use api::upload::{UploadList, UploadStatus};

const EXAMPLES: &str = "\
Examples:
  longshore uploads list                              the 20 newest
  longshore uploads list --stage receiving,stalled --metadata user=7
  longshore uploads show 01a20076-a45e-71b5-8f30-24cfa8d21251
  longshore uploads delete 01a20076-a45e-71b5-8f30-24cfa8d21251   in any protocol and stage";

/// Path of uploads in the API.
const AREA: &str = "uploads";

pub(super) fn command() -> Command {
    let id = |help: &'static str| Arg::new("id").required(true).value_name("ID").help(help);
    let flag = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    Command::new("uploads")
        .about("List, show and delete uploads")
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .args(connection_flags())
        .subcommand(
            Command::new("list")
                .about("List uploads, newest first")
                .arg(flag("stage", "A,B,...", "Only uploads in these stages: receiving, completed, failed, ..."))
                .arg(flag("from", "TIME", "Only uploads created at or after this time, such as 2026-11-21T00:00:00Z"))
                .arg(flag("before", "TIME", "Only uploads created before this time"))
                .arg(
                    flag("metadata", "KEY=VALUE", "Only uploads with this metadata; can be repeated")
                        .action(ArgAction::Append),
                )
                .arg(
                    flag("limit", "NUMBER", "Maximum number of uploads [default: 20]")
                        .value_parser(clap::value_parser!(u32)),
                )
                .arg(flag("cursor", "CURSOR", "Cursor printed at the end of the previous page")),
        )
        .subcommand(Command::new("show").about("Show the status of one upload").arg(id("ID of the upload")))
        .subcommand(
            Command::new("delete")
                .about("Delete uploads and their files; their records are kept for retention.ended_uploads")
                .arg(id("IDs of the uploads").num_args(1..)),
        )
}

pub(super) fn run(matches: &ArgMatches, env: &BTreeMap<String, String>, out: &mut dyn Write) -> Result<(), Failure> {
    let (asked, typed) = matches.subcommand().expect("clap demands a subcommand");
    let api = Api::new(typed, env)?.within(AREA);
    let ids = || typed.get_many::<String>("id").into_iter().flatten();
    let printed = match asked {
        "list" => {
            let query = query(typed)?;
            let query: Vec<_> = query.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            let page: Answer<UploadList<'_>> = api.get_with("", &query)?;
            Printed { text: shown(&page.read), raw: page.raw }
        }
        "show" => Printed::one(api.get::<UploadStatus<'_>>(ids().next().expect("clap demands an id"))?),
        "delete" => {
            for id in ids() {
                api.delete::<()>(id)?;
            }
            Printed::done()
        }
        _ => unreachable!("clap demands a known subcommand"),
    };
    print(out, &printed.shown(typed.get_flag("json")))
}

/// Converts the flags of `list` to parameters of the API.
fn query(typed: &ArgMatches) -> Result<Vec<(String, String)>, Failure> {
    let limit = typed.get_one::<u32>("limit").map_or("20".to_owned(), u32::to_string);
    let mut query = vec![("limit".to_owned(), limit)];
    for (flag, name) in
        [("stage", "stage"), ("from", "created_from"), ("before", "created_before"), ("cursor", "cursor")]
    {
        query.extend(typed.get_one::<String>(flag).map(|value| (name.to_owned(), value.clone())));
    }
    for pair in typed.get_many::<String>("metadata").into_iter().flatten() {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Failure::NotUnderstood(format!("--metadata {pair}: write KEY=VALUE")))?;
        query.push((format!("metadata.{key}"), value.to_owned()));
    }
    Ok(query)
}

fn shown(page: &UploadList<'_>) -> String {
    let header = &["UPLOAD", "STAGE", "PERCENT", "LENGTH", "CREATED", "FILE NAME"];
    let text = show::table("no uploads", &page.uploads, header, |upload| {
        let stage = match &upload.removed_at {
            None => show::word(&upload.stage),
            Some(_) => format!("{}, removed", show::word(&upload.stage)),
        };
        vec![
            show::word(&upload.id),
            stage,
            // As in the response: always with at least one decimal place.
            upload.percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:?}")),
            upload.length.map_or_else(|| "-".to_owned(), |length| length.to_string()),
            show::word(&upload.created_at),
            show::maybe(upload.filename.as_deref()),
        ]
    });
    text + &show::more(page.next.as_deref())
}
