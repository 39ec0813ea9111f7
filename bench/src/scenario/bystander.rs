//! Scenario 7: the effect of uploads on nginx, which serves small files from the page cache of the same
//! machine.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, ensure};

use crate::lab::{Lab, Notebook, mb_per_second};
use crate::process;
use crate::results::{Metric, Values};
use crate::scenario::asking::Pace;
use crate::scenario::load;
use crate::scenario::small_machine::SmallMachine;
use crate::server::{Running, Setup};
use crate::stats::Times;
use crate::subject::Subject;
use crate::tus::{Client, Target};

pub(crate) const MOST_TIMES_QUIET: f64 = 1.3;

const SUBJECTS: [Subject; 4] = [Subject::Longshore, Subject::Tusd, Subject::TusNode, Subject::Rustus];

const FILE: usize = 64 << 10;

const PACE: Pace = Pace { connections: 4, per_second: 100 };

const MOST_ROUNDS: u32 = 2;

/// The free space below which finished uploads are removed before the next one.
const LITTLE: u64 = 6 << 30;

pub(crate) fn run(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    if Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_err() {
        book.note("Not measured: nginx is not installed.");
        return Ok(());
    }
    book.note(format!(
        "nginx receives requests for one file after another, {} times a second in total. Measured twice: with all \
         of the machine's memory, and with nginx and the server together in a control group whose memory, page cache \
         included, is {} GiB, which stands for a machine that cannot also keep 16 GiB of finished uploads in memory. \
         Uploads are sequential; the threads that send them run at niceness {}, the requesting threads at -10 where \
         allowed.",
        PACE.per_second as usize * PACE.connections,
        lab.plan.small_machine >> 30,
        load::BACKGROUND
    ));
    let site = Site::make(lab)?;
    whole_machine(lab, &site, book);
    on_a_small_machine(lab, &site, book);
    fs::remove_dir_all(&site.folder)?;
    Ok(())
}

fn whole_machine(lab: &Lab, site: &Site, book: &mut Notebook) {
    lab.take_turns(&SUBJECTS, MOST_ROUNDS, book, |subject, round, book| {
        let outcome = measure(lab, site, subject, None, book);
        book.keep(subject, "whole machine", round, outcome);
    });
}

fn on_a_small_machine(lab: &Lab, site: &Site, book: &mut Notebook) {
    let variant = format!("{} GiB", lab.plan.small_machine >> 30);
    lab.take_turns(&SUBJECTS, MOST_ROUNDS, book, |subject, round, book| {
        match SmallMachine::of(lab.plan.small_machine) {
            Ok(group) => {
                let outcome = measure(lab, site, subject, Some(&group), book);
                book.keep(subject, &variant, round, outcome);
            }
            Err(error) => book.note(format!("The small machine was not measured: {error:#}.")),
        }
    });
}

fn measure(
    lab: &Lab,
    site: &Site,
    subject: Subject,
    group: Option<&SmallMachine>,
    book: &mut Notebook,
) -> anyhow::Result<Values> {
    // Afterwards the files' pages belong to the control group of the next reader.
    process::drop_caches().ok();
    let members = group.map(SmallMachine::members);
    let nginx = Nginx::start(site, members.as_deref())?;
    nginx.warm(site)?;
    let server = lab.start(subject, &Setup { group: members, ..Setup::default() }, book)?;
    let mut quiet = PACE.ask_for(lab.plan.asking, |_| nginx.client(), |client, number| site.ask(client, number))?;
    let reads = process::disk_reads(nginx.pid())?;
    let (mut times, load) = under_load(lab, site, &nginx, &server)?;
    let reads = process::disk_reads(nginx.pid())? - reads;
    let served = (times.count() * FILE) as f64;
    Ok(Values::from([
        (Metric::QuietP99Ms, quiet.quantile_ms(990)),
        (Metric::P50Ms, times.quantile_ms(500)),
        (Metric::P99Ms, times.quantile_ms(990)),
        (Metric::P999Ms, times.quantile_ms(999)),
        (Metric::HitPercent, (100.0 * (1.0 - reads as f64 / served)).max(0.0)),
        (Metric::LoadMbPerSecond, load),
        (Metric::Requests, times.count() as f64),
    ]))
}

fn under_load(lab: &Lab, site: &Site, nginx: &Nginx, server: &Running) -> anyhow::Result<(Times, f64)> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let upload = scope.spawn(|| {
            let outcome = upload_all(lab, server);
            stop.store(true, Ordering::Relaxed);
            outcome
        });
        let times = PACE.ask(&stop, |_| nginx.client(), |client, number| site.ask(client, number));
        let load = upload.join().expect("the load does not panic")?;
        Ok((times?, load))
    })
}

/// Finished uploads stay, as on a real server, and with them their part of the page cache, unless the disk is
/// too small.
fn upload_all(lab: &Lab, server: &Running) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut sent = 0;
    while sent < lab.plan.bystander_load {
        let disk = rustix::fs::statvfs(&server.folder)?;
        if disk.f_bavail * disk.f_frsize < LITTLE + lab.plan.big {
            load::cut_large_files(&server.folder);
        }
        load::at_once(server, &lab.payload, 1, lab.plan.big, load::BACKGROUND)?;
        sent += lab.plan.big;
    }
    Ok(mb_per_second(sent, began))
}

/// The files that nginx serves.
struct Site {
    folder: PathBuf,
    files: u64,
}

impl Site {
    fn make(lab: &Lab) -> anyhow::Result<Self> {
        let folder = lab.kit.scratch().join("nginx");
        fs::create_dir_all(folder.join("files")).context("could not make nginx's folder")?;
        for number in 0..lab.plan.bystander_files {
            fs::write(folder.join("files").join(number.to_string()), lab.payload.head(FILE))?;
        }
        rustix::fs::sync();
        Ok(Self { folder, files: lab.plan.bystander_files as u64 })
    }

    /// Requests a file. Each request is for another file; a step without a common factor with a power of two
    /// visits all of them.
    fn ask(&self, client: &mut Client, number: u64) -> anyhow::Result<()> {
        let path = format!("/{}", number.wrapping_mul(7_919) % self.files);
        let answer = client.ask("GET", &path)?.expect(&[200])?;
        ensure!(answer.body.len() == FILE, "only {} bytes of a file came", answer.body.len());
        Ok(())
    }
}

/// A running nginx. It is killed when dropped.
struct Nginx {
    child: Child,
    address: SocketAddr,
}

impl Nginx {
    fn start(site: &Site, members: Option<&Path>) -> anyhow::Result<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let folder = site.folder.display();
        let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
        let config = format!(
            "daemon off;\n{user}worker_processes auto;\npid {folder}/pid;\nerror_log {folder}/errors;\nevents {{}}\n\
             http {{\n access_log off;\n sendfile on;\n tcp_nopush on;\n keepalive_requests 1000000;\n \
             client_body_temp_path {folder}/t1;\n proxy_temp_path {folder}/t2;\n fastcgi_temp_path {folder}/t3;\n \
             uwsgi_temp_path {folder}/t4;\n scgi_temp_path {folder}/t5;\n \
             server {{ listen {address}; root {folder}/files; }}\n}}\n"
        );
        let path = site.folder.join("nginx.conf");
        fs::write(&path, config)?;
        // A shell joins the group before it becomes nginx, so that the workers are in the group too.
        let mut command = Command::new("sh");
        command.args(["-c", "[ -z \"$1\" ] || echo $$ > \"$1\"; exec nginx -p \"$2\" -c \"$3\"", "sh"]);
        command.arg(members.unwrap_or(Path::new(""))).arg(&site.folder).arg(&path);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context("could not start nginx")?;
        let nginx = Self { child, address };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            ensure!(Instant::now() < deadline, "nginx did not start; see {folder}/errors");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(nginx)
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn client(&self) -> Client {
        Client::new(&Target { address: self.address, files: "/", tls: None })
    }

    /// Reads every file twice, so that the kernel marks its pages as active.
    fn warm(&self, site: &Site) -> anyhow::Result<()> {
        let mut client = self.client();
        (0..2 * site.files).try_for_each(|number| site.ask(&mut client, number))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // On SIGTERM nginx ends its workers; on SIGKILL it would leave them behind.
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM)
            .ok();
        self.child.wait().ok();
    }
}
