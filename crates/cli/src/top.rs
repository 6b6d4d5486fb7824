//! `synod top`: what the group does, as it does it.

use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

use crossterm::event::{Event, KeyCode, KeyModifiers, poll, read};
use crossterm::{cursor, execute, terminal};
use serde_json::{Value, json};

use crate::arguments::{Common, Top};
use crate::failure::{Failure, exit};
use crate::group::{connect, members, word};
use crate::output::{grouped, table};
use crate::session::{Session, Target};

/// One look at a node.
const QUESTION: &str = "\
SELECT json_build_object(
    'log', (SELECT row_to_json(l) FROM synod.stat_log AS l),
    'apply', (SELECT row_to_json(a) FROM synod.stat_apply AS a),
    'waiting', (SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND (wait_event IN ('SynodCommit', 'SynodRead') OR wait_event = 'Extension')
                   AND backend_type = 'client backend' AND application_name NOT LIKE 'synod %'),
    'blocked', (SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'))";

/// A node that is looked at again and again.
struct Watched {
    name: String,
    target: Target,
    session: Option<Session>,
    last: Option<(Instant, Value)>,
    trouble: String,
}

/// Between two looks.
struct Rates {
    commits: f64,
    conflicts: f64,
    applied: f64,
    rows: f64,
    round_trip_ms: f64,
    word: Value,
}

/// Look until told to end.
pub fn run(common: &Common, options: &Top) -> Result<u8, Failure> {
    let (target, mut session) = connect(common, "top")?;
    let first = word(&mut session)?;
    let mut nodes: Vec<Watched> = members(&target, &first)
        .into_iter()
        .map(|member| Watched {
            name: member.name,
            target: member.target,
            session: None,
            last: None,
            trouble: String::new(),
        })
        .collect();
    if nodes.is_empty() {
        return Err(Failure::new(
            "this database is not a member of a group",
            "There is nothing to watch.",
            "Connect to a member (--dsn).",
        ));
    }
    let group = first["facts"]["group_name"].as_str().unwrap_or_default().to_owned();
    let live = !common.json && stdout().is_terminal();
    let screen = if live { Some(Screen::take()?) } else { None };
    let interval = Duration::from_secs_f64(options.interval.clamp(0.1, 3_600.0));
    let mut looks = 0;
    // The first look has nothing to be compared with.
    look(&mut nodes);
    while options.count.is_none_or(|count| looks < count) {
        if pause(interval, live)? {
            break;
        }
        let rates = look(&mut nodes);
        looks += 1;
        if common.json {
            println!("{}", as_json(&nodes, &rates));
        } else {
            show(&as_text(&group, &nodes, &rates), live)?;
        }
    }
    drop(screen);
    Ok(exit::GOOD)
}

fn look(nodes: &mut [Watched]) -> Vec<Option<Rates>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = nodes.iter_mut().map(|node| scope.spawn(|| node.look())).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(None))
            .collect()
    })
}

impl Watched {
    fn look(&mut self) -> Option<Rates> {
        let began = Instant::now();
        let word = match self.ask() {
            Ok(word) => word,
            Err(failure) => {
                self.trouble = failure.message;
                (self.session, self.last) = (None, None);
                return None;
            }
        };
        self.trouble.clear();
        let (now, round_trip_ms) = (Instant::now(), began.elapsed().as_secs_f64() * 1000.0);
        let (before, old) = self.last.replace((now, word.clone()))?;
        let seconds = (now - before).as_secs_f64();
        let rate = |part: &str, name: &str| {
            let number = |word: &Value| word[part][name].as_f64().unwrap_or(0.0);
            ((number(&word) - number(&old)) / seconds).max(0.0)
        };
        Some(Rates {
            commits: rate("log", "committed"),
            conflicts: rate("log", "conflicts"),
            applied: rate("apply", "applied_records"),
            rows: rate("apply", "applied_rows"),
            round_trip_ms,
            word,
        })
    }

    fn ask(&mut self) -> Result<Value, Failure> {
        if self.session.is_none() {
            self.session = Some(self.target.connect("top")?);
        }
        let Some(session) = &mut self.session else {
            return Err(Failure::default());
        };
        session.patience = Duration::from_secs(5);
        session.json(QUESTION, &[])
    }
}

fn lag(word: &Value, decided: i64) -> i64 {
    (decided - word["apply"]["applied_csn"].as_i64().unwrap_or(0)).max(0)
}

fn decided(rates: &[Option<Rates>]) -> i64 {
    let known = rates
        .iter()
        .flatten()
        .filter_map(|rates| rates.word["apply"]["decided_csn"].as_i64());
    known.max().unwrap_or(0)
}

fn as_text(group: &str, nodes: &[Watched], rates: &[Option<Rates>]) -> String {
    let decided = decided(rates);
    let sum: f64 = rates.iter().flatten().map(|rates| rates.commits).sum();
    let lost: f64 = rates.iter().flatten().map(|rates| rates.conflicts).sum();
    let mut text = format!(
        "Group \"{group}\"   {sum:.0} commits/s   {lost:.1} conflicts/s   CSN {}\n\n",
        grouped(decided)
    );
    let header = [
        "NODE",
        "STATE",
        "COMMITS/S",
        "CONFLICTS/S",
        "APPLIED/S",
        "ROWS/S",
        "LAG",
        "WAITING",
        "BLOCKED",
        "ANSWERS IN",
    ];
    let rows = nodes.iter().zip(rates).map(|(node, rates)| {
        let Some(rates) = rates else {
            let mut row = vec![node.name.clone(), "unreachable".into()];
            row.resize(header.len(), "-".into());
            return row;
        };
        let number = |name: &str| rates.word[name].as_i64().unwrap_or(0).to_string();
        vec![
            node.name.clone(),
            state(&rates.word).into(),
            format!("{:.0}", rates.commits),
            format!("{:.1}", rates.conflicts),
            format!("{:.0}", rates.applied),
            format!("{:.0}", rates.rows),
            grouped(lag(&rates.word, decided)),
            number("waiting"),
            number("blocked"),
            format!("{:.1} ms", rates.round_trip_ms),
        ]
    });
    text += &table(&header, rows.collect(), &[2, 3, 4, 5, 6, 7, 8, 9]);
    text.push('\n');
    for (node, rates) in nodes.iter().zip(rates) {
        let word = rates.as_ref().map_or(&Value::Null, |rates| &rates.word);
        for part in ["log", "apply"] {
            if let Some(reason) = word[part]["reason"].as_str() {
                text += &format!("\nPROBLEM:  node \"{}\": {reason}", node.name);
            }
        }
        if !node.trouble.is_empty() {
            text += &format!("\nPROBLEM:  {}", node.trouble);
        }
    }
    text
}

fn state(word: &Value) -> &str {
    match (word["log"]["state"].as_str(), word["apply"]["state"].as_str()) {
        (Some("running"), Some("stopped")) => "not applying",
        (Some("running"), _) if word["log"]["quorum"] == false => "no majority",
        (Some(state), _) => state,
        (None, _) => "no member",
    }
}

fn as_json(nodes: &[Watched], rates: &[Option<Rates>]) -> Value {
    let decided = decided(rates);
    let of_node = |(node, rates): (&Watched, &Option<Rates>)| match rates {
        None => json!({ "name": node.name, "state": "unreachable", "reason": node.trouble }),
        Some(rates) => json!({
            "name": node.name,
            "state": state(&rates.word),
            "commits_per_s": rates.commits,
            "conflicts_per_s": rates.conflicts,
            "applied_records_per_s": rates.applied,
            "applied_rows_per_s": rates.rows,
            "lag": lag(&rates.word, decided),
            "waiting": rates.word["waiting"],
            "blocked": rates.word["blocked"],
            "round_trip_ms": rates.round_trip_ms,
        }),
    };
    json!({ "decided_csn": decided, "nodes": nodes.iter().zip(rates).map(of_node).collect::<Vec<_>>() })
}

/// The whole terminal, given back when dropped.
struct Screen;

impl Screen {
    fn take() -> Result<Self, Failure> {
        terminal::enable_raw_mode()
            .and_then(|()| execute!(stdout(), terminal::EnterAlternateScreen, cursor::Hide))
            .map_err(broken)?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // What cannot be given back is not there any more.
        let _ = execute!(stdout(), terminal::LeaveAlternateScreen, cursor::Show);
        let _ = terminal::disable_raw_mode();
    }
}

fn show(text: &str, live: bool) -> Result<(), Failure> {
    if !live {
        println!("{text}");
        return Ok(());
    }
    let mut out = stdout();
    let clear = terminal::Clear(terminal::ClearType::All);
    execute!(out, clear, cursor::MoveTo(0, 0))
        .and_then(|()| write!(out, "{}", text.replace('\n', "\r\n")))
        .and_then(|()| out.flush())
        .map_err(broken)
}

/// True when the user wants to end.
fn pause(interval: Duration, live: bool) -> Result<bool, Failure> {
    if !live {
        std::thread::sleep(interval);
        return Ok(false);
    }
    let until = Instant::now() + interval;
    while poll(until.saturating_duration_since(Instant::now())).map_err(broken)? {
        if let Event::Key(key) = read().map_err(broken)? {
            let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn broken(error: std::io::Error) -> Failure {
    Failure::new(
        "could not use the terminal",
        crate::failure::sentence(&error.to_string()),
        "Try --json, or --count.",
    )
}
