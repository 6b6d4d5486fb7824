//! One client that writes a row after the other, and so feels every pause.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::server::Server;
use crate::session::sqlstate;

/// Where the probe writes.
pub const TABLE: &str = "probe";

/// Its definition.
pub const DEFINITION: &str = "CREATE TABLE probe (n bigint PRIMARY KEY)";

/// Pause after a write: the probe shall measure, not load.
const INTERVAL: Duration = Duration::from_millis(5);

/// Pause before a lost connection is made again.
const RECONNECT: Duration = Duration::from_millis(50);

/// What the probe saw.
#[derive(Debug, Default)]
pub struct Diary {
    /// When each acknowledged write began and ended.
    pub writes: Vec<(Instant, Instant)>,
    /// The numbers whose write was acknowledged.
    pub acknowledged: Vec<i64>,
    /// The number and the error of each write that was not.
    pub errors: Vec<(i64, String)>,
}

impl Diary {
    /// The longest time between the ends of two acknowledged writes that meets the span from `from` to `to`.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        self.writes
            .windows(2)
            .map(|pair| (pair[0].1, pair[1].1))
            .filter(|(before, after)| *after >= from && *before <= to)
            .map(|(before, after)| after - before)
            .max()
            .unwrap_or_default()
    }
}

/// A probe at work.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    diary: Arc<Mutex<Diary>>,
    thread: JoinHandle<()>,
}

impl Probe {
    /// Starts to write on `server`: the numbers from `first` on.
    pub fn start(server: &Server, first: i64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let diary = Arc::new(Mutex::new(Diary::default()));
        let (stopped, pages) = (Arc::clone(&stop), Arc::clone(&diary));
        let dsn = server.client_dsn("postgres");
        let thread = std::thread::spawn(move || write_until(&dsn, first, &stopped, &pages));
        Self { stop, diary, thread }
    }

    /// The longest pause since `from`, one that still lasts included.
    pub fn pause_since(&self, from: Instant) -> Duration {
        let now = Instant::now();
        let diary = open(&self.diary);
        let lasting = diary.writes.last().map_or(now - from, |(_, end)| now - *end);
        diary.longest_gap(from, now).max(lasting)
    }

    /// How many writes were acknowledged so far.
    pub fn count(&self) -> usize {
        open(&self.diary).writes.len()
    }

    /// When the last acknowledged write ended.
    pub fn last_write(&self) -> Option<Instant> {
        open(&self.diary).writes.last().map(|(_, end)| *end)
    }

    /// Ends it.
    pub fn finish(self) -> Diary {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        std::mem::take(&mut *open(&self.diary))
    }
}

fn open(diary: &Mutex<Diary>) -> MutexGuard<'_, Diary> {
    diary.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_until(dsn: &str, first: i64, stop: &AtomicBool, diary: &Mutex<Diary>) {
    let mut client = None;
    let mut number = first - 1;
    while !stop.load(Ordering::Relaxed) {
        let connection = match &mut client {
            Some(connection) => connection,
            None => match postgres::Client::connect(dsn, postgres::NoTls) {
                Ok(connection) => client.insert(connection),
                Err(_) => {
                    std::thread::sleep(RECONNECT);
                    continue;
                }
            },
        };
        number += 1;
        let began = Instant::now();
        let outcome = connection.execute(&format!("INSERT INTO {TABLE} VALUES ($1)"), &[&number]);
        let mut page = open(diary);
        match outcome {
            Ok(_) => {
                page.writes.push((began, Instant::now()));
                page.acknowledged.push(number);
            }
            Err(error) => {
                let code = sqlstate(&error).map_or_else(|| "connection lost".to_owned(), str::to_owned);
                page.errors.push((number, code));
                if connection.is_closed() {
                    client = None;
                }
            }
        }
        drop(page);
        std::thread::sleep(INTERVAL);
    }
}
