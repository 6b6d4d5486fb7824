//! Servers that are not PostgreSQL: what the change stream is sent to. Each runs as the servers' account in a directory of its own,
//! on a free port of the loopback address, and ends with the test.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::ports::free_port;
use crate::run::{self, Run};
use crate::{account, processes, try_wait_until, wait_until};

const DEADLINE: Duration = Duration::from_secs(20);

/// An authority, and a certificate for localhost.
const CERTIFICATE: &str = r#"
new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
openssl req -x509 $new -days 2 -subj '/CN=test authority' -keyout ca.key -out ca.crt
openssl req $new -subj /CN=localhost -keyout server.key -out server.csr
echo subjectAltName=DNS:localhost > names
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt
"#;

/// An endpoint that takes what is posted, line after line in the file `posted`. Argument: the port.
const HTTPS: &str = r#"
import http.server, ssl, sys
class Endpoint(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        with open("posted", "ab") as posted:
            posted.write(body + b"\n")
        self.send_response(204)
        self.end_headers()
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Endpoint)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("server.crt", "server.key")
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
"#;

/// Which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// NATS with JetStream: Debian's package nats-server.
    Nats,
    /// The same behind TLS, with a certificate for `localhost`, signed by [`Broker::authority`].
    NatsTls,
    /// Redis: Debian's package redis-server.
    Redis,
    /// The same behind TLS, with such a certificate.
    RedisTls,
    /// An HTTPS endpoint with such a certificate; what is posted is in [`Broker::posted`].
    Https,
}

impl Kind {
    const fn label(self) -> &'static str {
        match self {
            Self::Nats | Self::NatsTls => "nats",
            Self::Redis | Self::RedisTls => "redis",
            Self::Https => "https",
        }
    }

    const fn is_encrypted(self) -> bool {
        matches!(self, Self::NatsTls | Self::RedisTls | Self::Https)
    }

    /// The command line, for this port and directory.
    fn words(self, port: &str, directory: &str) -> Vec<String> {
        let nats = ["nats-server", "-a", "127.0.0.1", "-p", port, "-js", "-sd", directory];
        let redis = [
            "redis-server",
            "--bind",
            "127.0.0.1",
            "--dir",
            directory,
            "--appendonly",
            "yes",
            "--save",
            "",
        ];
        let words = match self {
            Self::Nats => nats.to_vec(),
            Self::NatsTls => [&nats[..], &["--tls", "--tlscert=server.crt", "--tlskey=server.key"]].concat(),
            Self::Redis => [&redis[..], &["--port", port]].concat(),
            Self::RedisTls => {
                let files = [
                    "--tls-cert-file",
                    "server.crt",
                    "--tls-key-file",
                    "server.key",
                    "--tls-auth-clients",
                    "no",
                ];
                [&redis[..], &["--port", "0", "--tls-port", port], &files].concat()
            }
            Self::Https => vec!["/usr/bin/python3", "-c", HTTPS, port],
        };
        words.into_iter().map(str::to_owned).collect()
    }
}

/// One of them.
#[derive(Debug)]
pub struct Broker {
    kind: Kind,
    directory: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Broker {
    /// Starts it.
    ///
    /// # Panics
    /// When its package is not installed (`scripts/install-deps.sh`), or it does not come up.
    #[track_caller]
    pub fn start(kind: Kind) -> Self {
        let mut broker = Self {
            kind,
            directory: Run::current().new_directory(kind.label()),
            port: free_port(),
            child: None,
        };
        if kind.is_encrypted() {
            broker.make_certificate();
        }
        broker.resume();
        broker
    }

    /// The certificate that clients must trust.
    pub fn authority(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// What was posted to an HTTPS endpoint, a line each.
    pub fn posted(&self) -> String {
        std::fs::read_to_string(self.directory.join("posted")).unwrap_or_default()
    }

    fn make_certificate(&self) {
        let mut line = Run::current().account().prefix();
        line.extend(["sh", "-ec", CERTIFICATE].map(String::from));
        run::run_quietly(&line, &self.directory);
    }

    /// Starts it again, with what it has on disk, on the same port.
    #[track_caller]
    pub fn resume(&mut self) {
        assert!(self.child.is_none(), "{:?} runs already", self.kind);
        let (port, directory) = (self.port.to_string(), self.directory.display().to_string());
        let mut line = Run::current().account().prefix();
        line.extend(self.kind.words(&port, &directory));
        // Found by its working directory, should this process be killed.
        let child = account::clean_command(&line)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {line:?}: {error}; scripts/install-deps.sh installs it"));
        self.child = Some(child);
        wait_until(DEADLINE, &format!("{:?} to listen", self.kind), || {
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.end(Signal::KILL);
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else { return };
        processes::send(i32::try_from(child.id()).unwrap_or_default(), signal);
        if try_wait_until(DEADLINE, || child.try_wait().ok().flatten()).is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.end(Signal::KILL);
    }
}
