//! Signals that the real program receives: from a user, from a service manager, from the kernel.

use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::patience::until;
use crate::support::program::Program;

/// `systemctl reload`, rotation of logs, a closed output pipe, a limit on file sizes.
#[tokio::test(flavor = "multi_thread")]
async fn signals_sent_by_habit_do_not_end_the_server() {
    let folder = TempDir::new().unwrap();
    let mut program = Program::serve(&folder.path().join("data"), &[]);
    let address = program.address();
    let mut client = Client::connect(address).await;
    let path = client.create(10).await;
    client.begin_patch(&path, 0, 10).await;
    client.send(b"hello").await;
    for (signal, said) in [
        ("HUP", Some("nothing to reload")),
        ("USR1", Some("SIGUSR1")),
        ("USR2", Some("SIGUSR2")),
        ("PIPE", None),
        ("XFSZ", None),
    ] {
        program.signal(signal);
        if let Some(said) = said {
            until(&format!("SIG{signal} is in the log"), async || program.stderr().contains(said).then_some(())).await;
        }
        assert_eq!(Client::connect(address).await.get("/healthz").await.status, 200, "after SIG{signal}");
    }
    client.send(b"world").await;
    assert_eq!(client.answer("PATCH").await.status, 204, "the upload was not disturbed");
    program.signal("TERM");
    assert_eq!(program.ran().code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_signal_that_asks_for_an_end_stops_in_order() {
    for signal in ["TERM", "INT", "QUIT"] {
        let folder = TempDir::new().unwrap();
        let mut program = Program::serve(&folder.path().join("data"), &[]);
        Client::connect(program.address()).await.create(1).await;
        program.signal(signal);
        let ran = program.ran();
        assert_eq!(ran.code, Some(0), "SIG{signal}: {ran:?}");
        assert!(ran.stderr.contains("shutting down") && ran.stderr.contains("stopped"), "SIG{signal}: {ran:?}");
    }
}

/// `timeout` signals both the program and its process group.
#[tokio::test(flavor = "multi_thread")]
async fn two_signals_at_once_are_one_request_to_stop() {
    let folder = TempDir::new().unwrap();
    let mut program = Program::serve(&folder.path().join("data"), &[]);
    Client::connect(program.address()).await.create(1).await;
    program.signals(&["TERM", "INT"]);
    let ran = program.ran();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.stderr.contains("stopped immediately"), "{ran:?}");
}
