//! The proxy in front of the server: none, HAProxy or nginx.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::support::patience::until;

/// A proxy in front of a server. It is ended when dropped.
pub struct Front {
    pub name: &'static str,
    pub address: SocketAddr,
    child: Child,
    _folder: TempDir,
}

impl Front {
    /// Starts HAProxy. Returns `None`, with the reason printed, if it is not installed.
    pub async fn haproxy(server: SocketAddr) -> Option<Self> {
        let config = |address: SocketAddr, _: &str| {
            format!(
                "global\n    maxconn 200\n\
                 defaults\n    mode http\n    timeout connect 10s\n    timeout client 60s\n    timeout server 60s\n\
                 frontend uploads\n    bind {address}\n    default_backend longshore\n\
                 backend longshore\n    server longshore {server}\n"
            )
        };
        Self::start("haproxy", config, |file, _| vec!["-db".to_owned(), "-f".to_owned(), file.to_owned()]).await
    }

    /// Starts nginx without buffering of request bodies.
    pub async fn nginx(server: SocketAddr) -> Option<Self> {
        let config = |address: SocketAddr, folder: &str| {
            let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .iter()
                .map(|name| format!("    {name}_temp_path {folder}/{name};\n"))
                .collect();
            format!(
                "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n\
                 events {{ worker_connections 200; }}\n\
                 http {{\n    access_log off;\n{temporary}    client_max_body_size 0;\n\
                 server {{\n    listen {address};\n    location / {{\n        proxy_pass http://{server};\n\
                 proxy_http_version 1.1;\n        proxy_set_header Host $http_host;\n\
                 proxy_set_header Connection \"\";\n        proxy_request_buffering off;\n\
                 proxy_buffering off;\n    }}\n}}\n}}\n"
            )
        };
        let arguments = |file: &str, folder: &str| {
            ["-p", folder, "-e", &format!("{folder}/error.log"), "-c", file].map(str::to_owned).to_vec()
        };
        Self::start("nginx", config, arguments).await
    }

    async fn start(
        name: &'static str,
        config: impl Fn(SocketAddr, &str) -> String,
        arguments: impl Fn(&str, &str) -> Vec<String>,
    ) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("front.conf");
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let path = folder.path().to_str().unwrap();
        fs::write(&file, config(address, path)).unwrap();
        let mut command = Command::new(name);
        command.args(arguments(file.to_str().unwrap(), path)).stdin(Stdio::null()).stdout(Stdio::null());
        let child = match command.stderr(Stdio::null()).spawn() {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: {name} does not start here: {error}");
                return None;
            }
        };
        let front = Self { name, address, child, _folder: folder };
        until(&format!("{name} listens"), async || TcpStream::connect(address).await.ok()).await;
        Some(front)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
