//! The group as its nodes tell it: every node is asked, at the same time, for what it knows of itself and the others.

use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::arguments::Common;
use crate::failure::Failure;
use crate::session::{Session, Target};

/// How long a node may take to say how it is.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// One node's word on itself, as JSON: `facts`, `log`, `apply`, `nodes`, `tables`, `links`, `slots`.
const QUESTION: &str = "\
SELECT json_build_object(
    'facts', (SELECT row_to_json(f) FROM synod._node_facts() AS f),
    'log', (SELECT row_to_json(l) FROM synod.stat_log AS l),
    'apply', (SELECT row_to_json(a) FROM synod.stat_apply AS a),
    'nodes', (SELECT coalesce(json_agg(n ORDER BY n.node_id), '[]') FROM synod.nodes AS n),
    'tables', (SELECT count(*) FROM synod.tables),
    'links', (SELECT coalesce(json_agg(DISTINCT substring(s.application_name FROM '^synod link (.*)->')), '[]')
                FROM pg_stat_activity AS s
               WHERE s.datname = current_database() AND s.application_name LIKE 'synod link %->%'),
    'slots', (SELECT coalesce(json_agg(s ORDER BY s.retained_bytes DESC NULLS LAST, s.slot_name), '[]') FROM synod.stat_slots AS s),
    'in_recovery', pg_is_in_recovery(),
    'version', current_setting('server_version'))";

/// A member of the group.
#[derive(Debug)]
pub struct Member {
    /// Its name in the group.
    pub name: String,
    /// Its number.
    pub id: i64,
    /// How the others reach it.
    pub dsn: String,
    /// Where we reach it.
    pub target: Target,
    /// How the node that we asked first sees it: a row of `synod.nodes`.
    pub seen: Value,
    /// What it says of itself, or why it says nothing.
    pub word: Result<Value, Failure>,
}

/// All members, by id.
#[derive(Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// What the node that was asked first says of itself.
    pub first: Value,
    /// Its members; empty when that node is in no group.
    pub members: Vec<Member>,
}

/// Connect to the node that the user named.
pub fn connect(common: &Common, purpose: &str) -> Result<(Target, Session), Failure> {
    let target = Target::given(common.dsn()?, common.connect_timeout())?;
    let session = target.connect(purpose)?;
    Ok((target, session))
}

/// Ask a node for its word.
pub fn word(session: &mut Session) -> Result<Value, Failure> {
    session.patience = ANSWER_TIMEOUT;
    session.json(QUESTION, &[])
}

impl Group {
    /// Ask the node that the user named, then all others that it knows.
    pub fn ask(common: &Common, purpose: &str) -> Result<Self, Failure> {
        let (target, mut session) = connect(common, purpose)?;
        let first = word(&mut session)?;
        drop(session);
        let members = members(&target, &first);
        let asked = thread::scope(|scope| {
            let threads: Vec<_> = members
                .into_iter()
                .map(|mut member| {
                    let first = &first;
                    scope.spawn(move || {
                        member.word = if member.seen["is_local"] == true {
                            Ok(first.clone())
                        } else {
                            member
                                .target
                                .connect(purpose)
                                .and_then(|mut session| word(&mut session))
                        };
                        member
                    })
                })
                .collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        Ok(Self {
            name: first["facts"]["group_name"].as_str().unwrap_or_default().to_owned(),
            first,
            members: asked,
        })
    }
}

/// The members that a node's word lists.
pub fn members(target: &Target, word: &Value) -> Vec<Member> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nodes = word["nodes"].as_array().cloned().unwrap_or_default();
    nodes
        .into_iter()
        .map(|seen| {
            let (name, dsn) = (text(&seen["name"]), text(&seen["dsn"]));
            let there = if seen["is_local"] == true {
                let mut same = target.clone();
                same.whom = format!("node \"{name}\"");
                same
            } else {
                target.node(&name, &dsn)
            };
            Member {
                id: seen["node_id"].as_i64().unwrap_or_default(),
                target: there,
                word: Err(Failure::new("not asked", "", "")),
                name,
                dsn,
                seen,
            }
        })
        .collect()
}
