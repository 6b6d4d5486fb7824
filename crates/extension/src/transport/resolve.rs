//! Host names of peers to addresses, on a thread: libpq would block the log worker in it, and with it the group's
//! elections, for as long as a name server does not answer.

use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};

use crate::pg::libpq::parse_conninfo;
use crate::pg::threads;

/// Addresses per host name; `None` while a thread is looking.
type Answers = HashMap<String, Option<Vec<IpAddr>>>;

/// Looks names up and remembers the answers until they were used.
pub struct Resolver {
    answers: Arc<Mutex<Answers>>,
    wake_from: UdpSocket,
    wake_to: Arc<UdpSocket>,
}

/// What [`Resolver::parameters`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Add these parameters to the dsn; libpq then resolves nothing.
    Known(Vec<(&'static str, String)>),
    /// Ask again when the resolver's descriptor is readable.
    Pending,
    /// The name has no address.
    Unknown(String),
}

impl Resolver {
    /// A resolver whose answers make `descriptor` readable.
    pub fn new() -> std::io::Result<Self> {
        let wake_from = UdpSocket::bind("127.0.0.1:0")?;
        wake_from.set_nonblocking(true)?;
        let wake_to = UdpSocket::bind("127.0.0.1:0")?;
        wake_to.connect(wake_from.local_addr()?)?;
        wake_from.connect(wake_to.local_addr()?)?;
        Ok(Self {
            answers: Arc::default(),
            wake_from,
            wake_to: Arc::new(wake_to),
        })
    }

    /// Readable when an answer has come.
    pub fn descriptor(&self) -> RawFd {
        self.wake_from.as_raw_fd()
    }

    /// Make the descriptor unreadable again.
    pub fn clear(&self) {
        let mut buffer = [0u8; 8];
        while self.wake_from.recv(&mut buffer).is_ok() {}
    }

    /// What must be added to a dsn so that libpq has no name to look up.
    pub fn parameters(&self, dsn: &str) -> Resolution {
        let Some(host) = host_to_resolve(dsn) else {
            return Resolution::Known(Vec::new());
        };
        let Ok(mut answers) = self.answers.lock() else {
            return Resolution::Known(Vec::new());
        };
        match answers.get(&host) {
            Some(None) => Resolution::Pending,
            Some(Some(found)) => {
                let found = found.clone();
                answers.remove(&host);
                if found.is_empty() {
                    Resolution::Unknown(host)
                } else {
                    Resolution::Known(hostaddr(&host, &found))
                }
            }
            None => {
                answers.insert(host.clone(), None);
                drop(answers);
                self.look_up(host);
                Resolution::Pending
            }
        }
    }

    fn look_up(&self, host: String) {
        let (answers, wake) = (Arc::clone(&self.answers), Arc::clone(&self.wake_to));
        let name = host.clone();
        let work = move || {
            let mut found: Vec<IpAddr> = (name.as_str(), 0)
                .to_socket_addrs()
                .map(|all| all.map(|one| one.ip()).collect())
                .unwrap_or_default();
            found.dedup();
            if let Ok(mut answers) = answers.lock() {
                answers.insert(name, Some(found));
            }
            // A lost wake-up costs a time-out of the attempt, no more.
            let _ = wake.send(&[1]);
        };
        if threads::spawn("synod resolver", work).is_err()
            && let Ok(mut answers) = self.answers.lock()
        {
            answers.insert(host, Some(Vec::new()));
        }
    }
}

/// The one host name in a dsn that libpq would have to resolve. Lists of hosts are left to libpq.
fn host_to_resolve(dsn: &str) -> Option<String> {
    let parsed = parse_conninfo(dsn).ok()?;
    let value = |keyword: &str| parsed.iter().find(|(name, value)| name == keyword && !value.is_empty());
    if value("hostaddr").is_some() {
        return None;
    }
    let (_, host) = value("host")?;
    let local = host.starts_with('/') || host.starts_with('@');
    (!local && !host.contains(',') && host.parse::<IpAddr>().is_err()).then(|| host.clone())
}

fn hostaddr(host: &str, found: &[IpAddr]) -> Vec<(&'static str, String)> {
    let addresses: Vec<String> = found.iter().map(IpAddr::to_string).collect();
    vec![
        ("host", vec![host; found.len()].join(",")),
        ("hostaddr", addresses.join(",")),
    ]
}
