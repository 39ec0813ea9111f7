//! Deletion of files: by clients, by an operator, and by retention.

use std::time::Duration;

use keyring::{AdminKey, AdminKeyHash};
use longshore::config::Config;
use serde_json::Value;

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client};
use crate::support::event_ids::EventIds;
use crate::support::patience::until;
use crate::support::program::run;
use crate::support::receiver::Receiver;
use crate::support::sse::Sse;
use crate::support::world::World;

fn status_path(path: &str) -> String {
    path.replace("/files/", "/api/v1/uploads/")
}

async fn delete(client: &mut Client, path: &str) -> Answer {
    client.request("DELETE", &status_path(path), &[], b"").await
}

/// Creates a complete tus upload.
async fn completed(client: &mut Client) -> String {
    let path = client.create(5).await;
    assert_eq!(client.patch(&path, 0, b"hello").await.status, 204);
    path
}

/// Creates a complete upload with plain HTTP.
async fn plain(client: &mut Client) -> String {
    let answer = client.request("PUT", "/files/hello.txt", &[], b"hello").await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.header("location").unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_removes_the_file_of_a_completed_upload() {
    let receiver = Receiver::start().await;
    let app = TestApp::from_file(&receiver.endpoint(r#"["upload.removed", "upload.terminated"]"#), |_| {}).await;
    let mut client = app.client().await;
    for path in [completed(&mut client).await, plain(&mut client).await] {
        let before = client.status(&path).await;
        assert_eq!((&before["removed_at"], &before["removed_by"]), (&Value::Null, &Value::Null));
        assert_eq!(before["links"]["download"], path.as_str());
        for _ in 0..2 {
            let answer = delete(&mut client, &path).await;
            assert_eq!((answer.status, answer.body.len()), (204, 0), "also the second time");
        }
        let after = client.status(&path).await;
        assert_eq!((&after["stage"], &after["removed_by"]), (&"completed".into(), &"operator".into()));
        assert!(after["removed_at"].is_string() && after["offset"] == 5, "{after}");
        assert_eq!((&after["links"]["download"], &after["links"]["file"]), (&Value::Null, &Value::Null));
        let gone = client.get(&path).await;
        assert_eq!((gone.status, gone.problem().as_str()), (410, "upload-removed"));
        assert_eq!(client.head(&path).await.status, 410);
        assert_eq!(client.tus("DELETE", &path, &[], b"").await.status, 410);
        let id = path.rsplit('/').next().unwrap();
        let heard = receiver.wait_for(|heard| heard.iter().any(|event| event.body["data"]["upload_id"] == id)).await;
        let own: Vec<_> = heard.iter().filter(|event| event.body["data"]["upload_id"] == id).collect();
        assert_eq!((own.len(), own[0].kind(), &own[0].body["data"]["by"]), (1, "upload.removed", &"operator".into()));
    }
    assert_eq!(app.stored_files(), [] as [std::path::PathBuf; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_ends_an_unfinished_upload_and_the_event_says_so() {
    let receiver = Receiver::start().await;
    let app = TestApp::from_file(&receiver.endpoint(r#"["upload.terminated"]"#), |_| {}).await;
    let mut client = app.client().await;
    let (by_operator, by_client) = (client.create(5).await, client.create(5).await);
    // A connection that is sending to the upload is cut first.
    let mut writer = app.client().await;
    writer.begin_patch(&by_operator, 0, 5).await;
    writer.send(b"he").await;
    until("bytes have come", async || (client.status(&by_operator).await["received"] == 2).then_some(())).await;
    assert_eq!(delete(&mut client, &by_operator).await.status, 204);
    assert_eq!(client.status(&by_operator).await["stage"], "terminated");
    assert_eq!(writer.answer("PATCH").await.status, 410);
    assert_eq!(client.tus("DELETE", &by_client, &[], b"").await.status, 204);
    assert_eq!(delete(&mut client, &by_client).await.status, 204, "there is nothing left to delete");
    let heard = receiver.wait_for(|heard| heard.len() == 2).await;
    let by = |path: &str| {
        let id = path.rsplit('/').next().unwrap();
        let event = heard.iter().find(|event| event.body["data"]["upload_id"] == id).unwrap();
        event.body["data"]["by"].clone()
    };
    assert_eq!((by(&by_operator), by(&by_client)), ("operator".into(), "client".into()));

    let unknown = "/files/01a2003c-6e4b-7707-8707-070707070707";
    for path in [unknown, "/files/what"] {
        let answer = delete(&mut client, path).await;
        assert_eq!((answer.status, answer.problem().as_str()), (404, "no-such-upload"), "{path}");
    }
    let allowed = client.request("OPTIONS", &status_path(unknown), &[], b"").await;
    assert!(allowed.header("allow").is_some_and(|allow| allow.contains("DELETE")), "{allowed:?}");
    let refused = client.request("PUT", &status_path(unknown), &[], b"").await;
    assert_eq!((refused.status, refused.header("allow")), (405, allowed.header("allow")));
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_as_an_operator_takes_an_admin_key() {
    let key = AdminKey::generate([1; 32]);
    let hash = AdminKeyHash::of(key.expose().as_bytes()).to_string();
    let token = "0123456789abcdef";
    let toml = format!("[auth]\ntoken = \"{token}\"\nadmin_keys = [\"{hash}\"]\n");
    let app = TestApp::from_file(&toml, |_| {}).await;
    let mut client = app.client().await;
    let bearer = |credential: &str| format!("Bearer {credential}");
    let shared = bearer(token);
    let created = client.request("PUT", "/files/a.txt", &[("Authorization", &shared)], b"hello").await;
    let path = created.header("location").unwrap().to_owned();
    let status = status_path(&path);
    for (credential, expected) in [(None, 401), (Some(token), 403), (Some("lsk_wrong"), 401)] {
        let header = credential.map(bearer);
        let headers: Vec<_> = header.iter().map(|value| ("Authorization", value.as_str())).collect();
        for path in
            [status.clone(), format!("{status}/"), format!("{status}/events"), status.replace("uploads", "%75ploads")]
        {
            let answer = client.request("DELETE", &path, &headers, b"").await;
            assert_eq!(answer.status, expected, "{path} {credential:?}");
        }
        let read = client.request("GET", &status, &headers, b"").await;
        assert!(read.status == 401 || read.json()["links"]["file"] == Value::Null, "{read:?}");
    }
    let admin = bearer(key.expose());
    let read = client.request("GET", &status, &[("Authorization", &admin)], b"").await.json();
    let file = read["links"]["file"].as_str().unwrap();
    assert_eq!(std::fs::read(file).unwrap(), b"hello", "the path is that of the file");
    let listed = client.request("GET", "/api/v1/uploads", &[("Authorization", &admin)], b"").await.json();
    assert_eq!(listed["uploads"][0]["links"]["file"], file);
    let listed = client.request("GET", "/api/v1/uploads", &[("Authorization", &shared)], b"").await.json();
    assert_eq!(listed["uploads"][0]["links"]["file"], Value::Null);
    assert_eq!(client.request("DELETE", &status, &[("Authorization", &admin)], b"").await.status, 204);
}

/// Without a key and a token only local programs see it, because only they may delete.
#[tokio::test(flavor = "multi_thread")]
async fn where_a_file_is_is_shown_to_programs_on_this_machine_only() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = completed(&mut client).await;
    let file = client.status(&path).await["links"]["file"].as_str().unwrap().to_owned();
    assert_eq!(std::fs::read(&file).unwrap(), b"hello");
    assert!(app.stored_files().iter().any(|stored| stored.to_str() == Some(&file)), "{file}");
    for fields in [[("X-Forwarded-For", "192.0.2.1")], [("Origin", "http://localhost:3000")]] {
        let seen = client.request("GET", &status_path(&path), &fields, b"").await.json();
        assert_eq!(seen["links"]["file"], Value::Null, "{fields:?}");
        assert_eq!(client.request("DELETE", &status_path(&path), &fields, b"").await.status, 403, "{fields:?}");
    }
    let unfinished = client.create(5).await;
    assert_eq!(client.status(&unfinished).await["links"]["file"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_the_path_only_where_that_is_wanted() {
    for tells in [false, true] {
        let receiver = Receiver::start().await;
        let toml = format!("[webhooks]\ninclude_path = {tells}\n{}", receiver.endpoint(r#"["upload.*"]"#));
        let app = TestApp::from_file(&toml, |_| {}).await;
        completed(&mut app.client().await).await;
        let heard = receiver.wait_for_kind("upload.completed").await;
        for event in heard {
            let file = &event.body["data"]["file"];
            assert_eq!(file.is_string(), tells && event.kind() == "upload.completed", "{}", event.body);
            if let Some(file) = file.as_str() {
                assert_eq!(std::fs::read(file).unwrap(), b"hello");
            }
        }
    }
}

fn keeping_files_shortly(config: &mut Config) {
    config.engine.lifetimes.completed_expiry = Some(Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_completed_uploads_go_when_they_were_kept_long_enough() {
    let receiver = Receiver::start().await;
    let toml = receiver.endpoint(r#"["upload.removed"]"#);
    let mut app = TestApp::from_file(&toml, keeping_files_shortly).await;
    let mut client = app.client().await;
    let unfinished = client.create(5).await;
    assert_eq!(client.patch(&unfinished, 0, b"he").await.status, 204);
    let paths = [completed(&mut client).await, plain(&mut client).await];
    let followed = format!("{}/events?until=ended", status_path(&paths[0]));
    let from_the_start = EventIds::of(&app).of_one(&paths[0], 0);
    let told = Sse::open(app.address(), &followed, &[("Last-Event-ID", &from_the_start)]).await.rest().await;
    assert_eq!(told.last().map(|message| message.event.as_str()), Some("upload.removed"), "{told:?}");
    receiver.wait_for(|heard| heard.len() == 2).await;
    for path in &paths {
        let status = client.status(path).await;
        assert_eq!((&status["stage"], &status["removed_by"]), (&"completed".into(), &"retention".into()));
        let gone = client.get(path).await;
        assert_eq!((gone.status, gone.problem().as_str()), (410, "upload-removed"));
    }
    until("the files are gone", async || (app.stored_files().len() == 1).then_some(())).await;
    app.restart().await;
    let mut client = app.client().await;
    assert_eq!(client.status(&unfinished).await["stage"], "receiving", "unfinished uploads have a separate lifetime");
    assert_eq!(client.status(&paths[0]).await["removed_by"], "retention");
    let heard = receiver.deliveries();
    assert_eq!(heard.len(), 2, "once for each: {heard:?}");
    assert!(heard.iter().all(|event| event.body["data"]["by"] == "retention"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_expiry_files_stay() {
    let world = World::on_disk();
    let life = world.live().await;
    let id = life.create(2).await;
    life.append(id, 0, b"xy").await.unwrap();
    life.engine.start_sweeping();
    world.pass(Duration::from_hours(24 * 3_650));
    let unfinished = life.create(2).await;
    world.pass(Duration::from_hours(48));
    life.wait_for_stage(unfinished, "expired").await;
    assert_eq!(life.read(id).await, b"xy");
}

/// Rules of the clock: skipped time does not count, and elapsed time does.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_ahead_removes_no_file() {
    let world = World::on_disk();
    let day = Duration::from_hours(24);
    let life = world.live_with(|settings| settings.lifetimes.completed_expiry = Some(day)).await;
    let kept = life.create(2).await;
    life.append(kept, 0, b"xy").await.unwrap();
    life.engine.start_sweeping();
    world.step_ahead(100 * day);
    let later = life.create(2).await;
    world.pass(day / 2);
    life.append(later, 0, b"xy").await.unwrap();
    assert_eq!(life.find(kept).await.record().removed, None);
    world.pass(day * 3 / 4);
    until("the older file is removed", async || life.find(kept).await.record().removed).await;
    assert_eq!(life.find(later).await.record().removed, None);
    assert_eq!(life.read(later).await, b"xy");
    world.pass(day);
    until("the newer file is removed", async || life.find(later).await.record().removed).await;
    assert_eq!(life.events(kept).await.last(), Some(&"removed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_shows_and_deletes_uploads() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let (done, open) = (plain(&mut client).await, client.create(5).await);
    let [done, open] = [&done, &open].map(|path| path.rsplit('/').next().unwrap().to_owned());
    let url = format!("http://{}", app.address());
    let said = |line: &str| {
        let ran = run(&[&line.split_whitespace().collect::<Vec<_>>()[..], &["--server", &url]].concat());
        assert_eq!(ran.code, Some(0), "{line}: {ran:?}");
        ran.stdout
    };
    let listed = said("uploads list");
    assert!(listed.find(&open) < listed.find(&done) && listed.contains("hello.txt"), "newest first: {listed}");
    let listed = said("uploads list --stage completed --metadata filename=hello.txt");
    assert!(listed.contains(&done) && !listed.contains(&open), "{listed}");
    assert!(said(&format!("uploads show {done}")).contains("file: /"), "an operator sees where the file is");
    assert_eq!(said(&format!("uploads delete {done} {open}")), "done\n");
    let listed = said("uploads list");
    assert!(listed.contains("completed, removed") && listed.contains("terminated"), "{listed}");
    let one = said("uploads list --limit 1");
    assert!(one.contains("next page: --cursor uploads_"), "{one}");
    for line in [&["uploads", "delete", "what"][..], &["uploads", "list", "--stage", "what"]] {
        let wrong = run(&[line, &["--server", &url]].concat());
        assert_eq!(wrong.code, Some(1), "{wrong:?}");
    }
    assert_eq!(run(&["uploads", "list", "--metadata", "what"]).code, Some(2));
}
