//! The failures that an acknowledged commit survives.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::TemporaryFile;
use crate::{SqliteSettings, SqliteStore, writer};
use domain::id::UploadId;
use domain::principal::TenantScope;
use domain::upload::{NewUpload, Upload};
use state::conformance::*;
use state::{Durability, Uploads};

const BOTH: [(Durability, &str); 2] = [(Durability::Strict, "strict"), (Durability::Relaxed, "relaxed")];

fn settings(durability: Durability) -> SqliteSettings {
    SqliteSettings { durability, ..SqliteSettings::default() }
}

/// SQLite, `PRAGMA synchronous`: in WAL mode, 2 syncs the log in every commit, and 1 only before it is copied
/// back.
struct Synchronous;

impl writer::Work for Synchronous {
    const OPERATION: &'static str = "look at a setting";
    type Output = (i64, String);

    fn run(&self, tx: &mut writer::WriteTransaction) -> rusqlite::Result<(i64, String)> {
        let synchronous = tx.connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
        Ok((synchronous, tx.connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?))
    }
}

#[tokio::test]
async fn the_writer_syncs_as_it_was_told() {
    for (durability, synchronous) in [(Durability::Strict, 2), (Durability::Relaxed, 1)] {
        let place = TemporaryFile::new();
        let store = SqliteStore::open(&place.path(), settings(durability), bodies()).await.unwrap();
        assert_eq!(store.writer.write(Synchronous).await.unwrap(), (synchronous, "wal".to_owned()));
    }
}

/// The number of acknowledgements before the kill: enough that the log has been copied back and restarted.
const ANSWERS: usize = 1_500;

#[tokio::test]
async fn acknowledged_commits_outlive_a_kill() {
    for (durability, name) in BOTH {
        let place = TemporaryFile::new();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["tests::durability::insert_until_killed", "--exact", "--ignored", "--nocapture"])
            .env("LONGSHORE_TEST_DATABASE", place.path())
            .env("LONGSHORE_TEST_DURABILITY", name)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut answered = lines.map_while(Result::ok).filter_map(|line| line.parse::<UploadId>().ok());
        let mut acknowledged: Vec<_> = answered.by_ref().take(ANSWERS).collect();
        child.kill().unwrap();
        acknowledged.extend(answered);
        child.wait().unwrap();
        assert!(acknowledged.len() >= ANSWERS, "{name}: the child ended after {} answers", acknowledged.len());

        let store = SqliteStore::open(&place.path(), settings(durability), bodies()).await.unwrap();
        for id in &acknowledged {
            assert!(store.find(TenantScope::All, *id).await.unwrap().is_some(), "{name}: {id} is gone");
        }
        let whole =
            store.readers.read("check", |reader| reader.pragma_query_value(None, "integrity_check", |row| row.get(0)));
        let whole: String = whole.await.unwrap();
        assert_eq!(whole, "ok", "{name}");
    }
}

/// The child process of the test above: prints the acknowledged uploads until it is killed.
#[tokio::test]
#[ignore = "a part of acknowledged_commits_outlive_a_kill"]
async fn insert_until_killed() {
    let path = std::env::var_os("LONGSHORE_TEST_DATABASE").unwrap();
    let wanted = std::env::var("LONGSHORE_TEST_DURABILITY").unwrap();
    let (durability, _) = BOTH.into_iter().find(|(_, name)| *name == wanted).unwrap();
    let store = SqliteStore::open(path.as_ref(), settings(durability), bodies()).await.unwrap();
    for batch in 0_u32.. {
        let uploads = (0..10_u32).map(|number| {
            let mut random = [0; 10];
            random[2..6].copy_from_slice(&(batch * 10 + number).to_be_bytes());
            Upload::create(NewUpload { id: UploadId::new(NOW, random), ..asked(1) }, NOW)
        });
        for inserted in futures::future::join_all(uploads.map(|upload| store.insert(change_of(upload)))).await {
            writeln!(std::io::stdout(), "{}", inserted.unwrap().id()).unwrap();
        }
    }
}
