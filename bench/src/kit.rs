//! The paths and versions of the servers, and the way each is started. A new server is added here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;

use crate::postgres::Programs;
use crate::server::{Hook, Place, Setup};
use crate::subject::Subject;

/// The secret signs nothing of value; the receiver of the benchmark does not verify signatures.
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDC2FVsBQIhrs=";

#[derive(Debug)]
pub(crate) struct Kit {
    longshore: PathBuf,
    /// An earlier build for comparison, if one was given.
    before: Option<PathBuf>,
    peers: PathBuf,
    node_script: PathBuf,
    myself: PathBuf,
    scratch: PathBuf,
    /// Configuration keys of this build of Longshore.
    keys: BTreeSet<String>,
    /// Configuration keys of the earlier build.
    keys_before: BTreeSet<String>,
    started: AtomicU32,
}

impl Kit {
    /// Finds the servers. `root` is the repository, `peers` the folder with the servers that `bench/run`
    /// installed, `scratch` a folder on the disk to measure.
    pub(crate) fn find(root: &Path, longshore: &Path, peers: &Path, scratch: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(scratch).with_context(|| format!("could not create {}", scratch.display()))?;
        Ok(Self {
            longshore: longshore.to_owned(),
            before: None,
            peers: peers.canonicalize().unwrap_or_else(|_| peers.to_owned()),
            node_script: root.join("bench/peers/tus-node.mjs"),
            myself: std::env::current_exe()?,
            scratch: scratch.canonicalize()?,
            keys: known_keys(longshore)?,
            keys_before: BTreeSet::new(),
            started: AtomicU32::new(0),
        })
    }

    /// Adds an earlier build that is measured alternately with this one.
    pub(crate) fn beside(self, before: Option<PathBuf>) -> anyhow::Result<Self> {
        let keys_before = before.as_deref().map(known_keys).transpose()?.unwrap_or_default();
        Ok(Self { before, keys_before, ..self })
    }

    pub(crate) fn has_before(&self) -> bool {
        self.before.is_some()
    }

    pub(crate) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Returns the program that is measured as `Longshore`.
    pub(crate) fn longshore_program(&self) -> &Path {
        &self.longshore
    }

    pub(crate) fn peers(&self) -> &Path {
        &self.peers
    }

    /// Reports whether this build of Longshore has a configuration key, such as `storage.durability`.
    pub(crate) fn knows(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// Returns the reason why a subject cannot be measured here.
    pub(crate) fn lacks(&self, subject: Subject) -> Option<String> {
        let missing = |path: PathBuf| (!path.exists()).then(|| format!("{} is not there", path.display()));
        match subject {
            Subject::Longshore => missing(self.longshore.clone()),
            Subject::LongshoreRelaxed => {
                (!self.knows("storage.durability")).then(|| "this build has no storage.durability".to_owned())
            }
            Subject::LongshoreBefore => match &self.before {
                Some(before) => missing(before.clone()),
                None => Some("no --before was given".to_owned()),
            },
            Subject::LongshorePostgres if !self.knows("database.url") => {
                Some("this build has no database.url".to_owned())
            }
            Subject::LongshorePostgres => Programs::find().err().map(|error| format!("{error:#}")),
            Subject::Tusd => missing(self.peers.join("bin/tusd")),
            Subject::TusNode => missing(self.peers.join("node/node_modules/@tus/server")),
            Subject::Rustus => missing(self.peers.join("bin/rustus")),
            Subject::Sink | Subject::Bare => None,
        }
    }

    pub(crate) fn versions(&self) -> BTreeMap<Subject, String> {
        let pinned = fs::read_to_string(self.peers.join("versions.env")).unwrap_or_default();
        let pin = |name: &str| {
            let line = pinned.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or("unknown").to_owned()
        };
        let own = std::env::var("BENCH_LONGSHORE_VERSION").unwrap_or_else(|_| said(&self.longshore, "--version"));
        let node = format!(
            "{} with @tus/file-store {} on Node {}",
            pin("TUS_NODE_SERVER"),
            pin("TUS_NODE_FILE_STORE"),
            said(Path::new("node"), "--version")
        );
        let postgres = Programs::find().and_then(|programs| programs.version());
        let on_postgres = format!("{own} on {}", postgres.unwrap_or_else(|_| "no PostgreSQL".to_owned()));
        BTreeMap::from([
            (Subject::Longshore, own),
            (Subject::LongshorePostgres, on_postgres),
            (Subject::Tusd, pin("TUSD")),
            (Subject::TusNode, node),
            (Subject::Rustus, pin("RUSTUS")),
        ])
    }

    pub(crate) fn files_path(&self, subject: Subject) -> &'static str {
        match subject {
            Subject::Tusd => "/files/",
            _ => "/files",
        }
    }

    pub(crate) fn empty_folder(&self, subject: Subject) -> anyhow::Result<PathBuf> {
        self.empty_folder_called(subject.name())
    }

    pub(crate) fn empty_folder_called(&self, name: &str) -> anyhow::Result<PathBuf> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let folder = self.scratch.join(format!("{name}-{number}"));
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Returns the command line of a server, with generic paths and ports.
    pub(crate) fn describe(&self, subject: Subject, command: &Command, place: &Place<'_>) -> String {
        let mut words: Vec<String> = vec![self.short(command.get_program())];
        words.extend(command.get_args().map(|word| self.short(word)));
        let mut text = words.join(" ");
        if let Some(durability) = durability(subject) {
            text += &format!(
                "\n\nwith this configuration:\n\n{}",
                self.longshore_settings(place, durability, &self.keys).trim_end()
            );
        }
        let scratch = format!("{}/", self.scratch.display());
        without_ports(&text.replace(&scratch, ""), &[place.port, place.read_port])
    }

    fn short(&self, word: &OsStr) -> String {
        let word = word.to_string_lossy();
        match word.strip_prefix(&format!("{}/", self.scratch.display())) {
            Some(inside) if inside.ends_with(".pem") => inside.to_owned(),
            Some(inside) => format!("DIR{}", ending(inside)),
            None if word.starts_with('/') => word.rsplit('/').next().unwrap_or(&word).to_owned(),
            None => word.into_owned(),
        }
    }

    pub(crate) fn command(&self, subject: Subject, place: &Place<'_>) -> anyhow::Result<Command> {
        match subject {
            Subject::Longshore | Subject::LongshoreRelaxed | Subject::LongshorePostgres => {
                self.longshore(&self.longshore, subject, place)
            }
            Subject::LongshoreBefore => {
                self.longshore(self.before.as_ref().context("no --before was given")?, subject, place)
            }
            Subject::Tusd => Ok(self.tusd(place)),
            Subject::TusNode => Ok(self.tus_node(place)),
            Subject::Rustus => Ok(self.rustus(place)),
            Subject::Sink => Ok(self.floor("sink", place)),
            Subject::Bare => Ok(self.floor("bare", place)),
        }
    }

    /// Returns the configuration file of a Longshore, which the report shows.
    fn longshore_settings(&self, place: &Place<'_>, durability: &str, keys: &BTreeSet<String>) -> String {
        let mut text = String::new();
        if keys.contains("read_listen") && place.setup.tls.is_none() {
            writeln!(text, "read_listen = \"127.0.0.1:{}\"", place.read_port).expect("a string takes everything");
        }
        if let Some(uploads) = place.setup.uploads_at_once {
            writeln!(text, "[limits]\nmax_active_uploads = {}\nmax_connections = {}", uploads + 100, uploads + 100)
                .expect("a string takes everything");
            for key in ["max_read_connections", "max_downloads"] {
                if keys.contains(&format!("limits.{key}")) {
                    writeln!(text, "{key} = 100").expect("a string takes everything");
                }
            }
        }
        text += "[storage]\n";
        if keys.contains("storage.durability") {
            writeln!(text, "durability = \"{durability}\"").expect("a string takes everything");
        }
        if place.setup.skip_scan {
            text += "scan_rate = 0\n";
        }
        if place.setup.sha256 {
            text += "digests = [\"sha256\"]\n";
        }
        if let Some(database) = place.database {
            writeln!(text, "[database]\nurl = \"{}\"", database.url()).expect("a string takes everything");
        }
        if let Some(tls) = &place.setup.tls {
            let (certificate, key) = (tls.certificate.display(), tls.key.display());
            writeln!(text, "[tls]\ncertificate_file = \"{certificate}\"\nprivate_key_file = \"{key}\"")
                .expect("a string takes everything");
        }
        text += &webhook_settings(place.setup);
        text += "[log]\nlevel = \"warn\"\n";
        text
    }

    fn longshore(&self, program: &Path, subject: Subject, place: &Place<'_>) -> anyhow::Result<Command> {
        let durability = durability(subject).expect("it is a Longshore");
        let file = place.folder.with_extension("toml");
        let keys = if subject == Subject::LongshoreBefore { &self.keys_before } else { &self.keys };
        fs::write(&file, self.longshore_settings(place, durability, keys))?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", &format!("127.0.0.1:{}", place.port), "--data-dir"]).arg(place.folder);
        command.arg("--config").arg(file);
        Ok(command)
    }

    fn tusd(&self, place: &Place<'_>) -> Command {
        let mut command = Command::new(self.peers.join("bin/tusd"));
        command.args(["-host", "127.0.0.1", "-port", &place.port.to_string(), "-verbose=false", "-upload-dir"]);
        command.arg(place.folder);
        if let Some(tls) = &place.setup.tls {
            command.arg("-tls-certificate").arg(&tls.certificate).arg("-tls-key").arg(&tls.key);
            command.args(["-tls-mode", "tls13"]);
        }
        if let Some(hook) = place.setup.hooks.first() {
            let events: Vec<&str> = hook.events.iter().map(|event| tusd_event(event)).collect();
            command.args(["-hooks-http", &format!("http://{}/", hook.address)]);
            command.args(["-hooks-enabled-events", &events.join(",")]);
        }
        if let Some(tries) = place.setup.tusd_tries {
            command.args(["-hooks-http-retry", &tries.to_string()]);
        }
        command
    }

    fn tus_node(&self, place: &Place<'_>) -> Command {
        let mut command = Command::new("node");
        command.env("BENCH_NODE_PACKAGES", self.peers.join("node"));
        command.arg(&self.node_script).arg(place.port.to_string()).arg(place.folder);
        if let Some(tls) = &place.setup.tls {
            command.arg(&tls.certificate).arg(&tls.key);
        }
        command
    }

    fn rustus(&self, place: &Place<'_>) -> Command {
        let mut command = Command::new(self.peers.join("bin/rustus"));
        command.args(["--host", "127.0.0.1", "--port", &place.port.to_string(), "--log-level", "ERROR"]);
        // Rustus reads a whole request into memory, by default at most 256 KiB.
        command.args(["--max-body-size", &(8_u64 << 30).to_string()]);
        command.arg("--data-dir").arg(place.folder).arg("--info-dir").arg(place.folder);
        command
    }

    fn floor(&self, name: &str, place: &Place<'_>) -> Command {
        let mut command = Command::new(&self.myself);
        command.args([name, "--port", &place.port.to_string(), "--dir"]).arg(place.folder);
        if let Some(tls) = &place.setup.tls {
            command.arg("--certificate").arg(&tls.certificate).arg("--key").arg(&tls.key);
        }
        command
    }
}

fn webhook_settings(setup: &Setup) -> String {
    let mut text = String::new();
    if let Some(waits) = setup.retry_schedule {
        writeln!(text, "[webhooks]\nretry_schedule = {waits:?}").expect("a string takes everything");
    }
    for Hook { name, address, events } in &setup.hooks {
        writeln!(
            text,
            "[[webhooks.endpoints]]\nname = \"{name}\"\nurl = \"http://{address}/\"\nsecret = \"{SECRET}\"\n\
             events = {events:?}"
        )
        .expect("a string takes everything");
    }
    text
}

/// Returns tusd's name of an event of Longshore's.
fn tusd_event(event: &str) -> &str {
    match event {
        "upload.created" => "post-create",
        "upload.completed" => "post-finish",
        other => other,
    }
}

/// Returns the keys of the default configuration, with their section.
fn known_keys(longshore: &Path) -> anyhow::Result<BTreeSet<String>> {
    let output = Command::new(longshore)
        .args(["config", "--defaults"])
        .output()
        .with_context(|| format!("could not run {}", longshore.display()))?;
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.starts_with('#')) {
            keys.insert(format!("{section}{key}"));
        }
    }
    Ok(keys)
}

/// Returns the output of a program for this argument, or `unknown`.
fn said(program: &Path, question: &str) -> String {
    let output = Command::new(program).arg(question).output();
    output.map_or("unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn durability(subject: Subject) -> Option<&'static str> {
    match subject {
        Subject::Longshore | Subject::LongshoreBefore | Subject::LongshorePostgres => Some("strict"),
        Subject::LongshoreRelaxed => Some("relaxed"),
        _ => None,
    }
}

/// Returns `.toml` of `longshore-3.toml`, or an empty string if there is no ending.
fn ending(name: &str) -> String {
    name.rsplit_once('.').map_or(String::new(), |(_, ending)| format!(".{ending}"))
}

/// Removes the server's own ports and those of its receivers, which differ from run to run and carry no
/// information.
fn without_ports(text: &str, ports: &[u16]) -> String {
    let mut text = text.to_owned();
    for port in ports {
        text = text.replace(&format!(":{port}"), ":PORT").replace(&format!(" {port} "), " PORT ");
    }
    let mut out = String::new();
    for (at, part) in text.split("127.0.0.1:").enumerate() {
        if at > 0 {
            out += "127.0.0.1:";
        }
        let digits = part.len() - part.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
        if at > 0 && digits > 0 {
            out += "PORT";
            out += &part[digits..];
        } else {
            out += part;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_left_out_of_what_readers_see() {
        let text = without_ports("serve --listen 127.0.0.1:4001 -port 4001 -x http://127.0.0.1:5/ 4002", &[4001, 4002]);
        assert_eq!(text, "serve --listen 127.0.0.1:PORT -port PORT -x http://127.0.0.1:PORT/ 4002");
    }
}
