//! `synod status`: the group at a glance.

use serde_json::{Value, json};

use crate::arguments;
use crate::failure::{Failure, exit};
use crate::group::{Group, Member};
use crate::output::{grouped, table};
use crate::session::Target;

mod slots;

use slots::Slot;

/// What is shown of a node.
struct Line {
    name: String,
    id: i64,
    state: &'static str,
    role: &'static str,
    applied: Option<i64>,
    lag: Option<i64>,
    links: Vec<String>,
    quorum: Option<bool>,
    tables: Option<i64>,
    version: Option<String>,
    address: String,
    is_local: bool,
    reasons: Vec<String>,
}

/// Everything `synod status` says.
pub struct Report {
    group: String,
    lines: Vec<Line>,
    slots: Vec<Slot>,
    problems: Vec<String>,
}

/// Show it.
pub fn run(common: &arguments::Common, options: &arguments::Status) -> Result<u8, Failure> {
    let group = Group::ask(common, "status")?;
    let report = Report::of(&group, options.max_lag);
    if common.json {
        println!("{:#}", report.json());
    } else {
        print!("{}", report.text());
    }
    Ok(if report.problems.is_empty() {
        exit::GOOD
    } else {
        exit::FOUND
    })
}

impl Report {
    /// Judge what the nodes said.
    pub fn of(group: &Group, max_lag: i64) -> Self {
        if group.members.is_empty() {
            return Self {
                group: group.name.clone(),
                lines: Vec::new(),
                slots: slots::of(&group.first, "this server"),
                problems: vec![outsider(&group.first)],
            };
        }
        // What anybody knows to be decided is what everybody has to apply.
        let decided = group.members.iter().filter_map(decided_csn).max();
        let lines: Vec<Line> = group
            .members
            .iter()
            .map(|member| Line::of(member, group, decided))
            .collect();
        let mut problems: Vec<String> = lines
            .iter()
            .flat_map(|line| {
                line.reasons
                    .iter()
                    .map(|reason| format!("node \"{}\" {reason}", line.name))
            })
            .collect();
        for line in lines.iter().filter(|line| line.lag.is_some_and(|lag| lag > max_lag)) {
            let lag = line.lag.unwrap_or_default();
            problems.push(format!("node \"{}\" is {} positions behind", line.name, grouped(lag)));
        }
        if lines.iter().all(|line| line.quorum != Some(true)) {
            problems.push("no node reaches a majority: writes and strong reads wait".into());
        }
        let words = group
            .members
            .iter()
            .filter_map(|member| Some((member.word.as_ref().ok()?, &member.name)));
        let slots: Vec<Slot> = words.flat_map(|(word, name)| slots::of(word, name)).collect();
        problems.extend(slots.iter().filter_map(Slot::problem));
        Self {
            group: group.name.clone(),
            lines,
            slots,
            problems,
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if !self.lines.is_empty() {
            let voters = self.lines.iter().filter(|line| line.role != "learner").count();
            let up = self.lines.iter().filter(|line| line.state == "running").count();
            text += &format!(
                "Group \"{}\": {} nodes, {up} running; {voters} voters, a majority is {}\n\n",
                self.group,
                self.lines.len(),
                voters / 2 + 1
            );
            let header = [
                "NODE", "STATE", "ROLE", "APPLIED", "LAG", "LINKS", "QUORUM", "TABLES", "VERSION", "ADDRESS",
            ];
            let rows = self.lines.iter().map(|line| line.cells(self.lines.len() - 1)).collect();
            text += &table(&header, rows, &[3, 4, 7]);
            text += "\n";
        }
        if !self.slots.is_empty() {
            text += if self.lines.is_empty() { "" } else { "\n" };
            text += &table(
                &slots::HEADER,
                self.slots.iter().map(Slot::cells).collect(),
                &slots::RIGHT,
            );
            text += "\n";
        }
        if !self.problems.is_empty() {
            text += if text.is_empty() { "" } else { "\n" };
            for problem in &self.problems {
                text += &format!("PROBLEM:  {problem}\n");
            }
        }
        text
    }

    fn json(&self) -> Value {
        json!({
            "group": (!self.lines.is_empty()).then_some(&self.group),
            "healthy": self.problems.is_empty(),
            "problems": self.problems,
            "nodes": self.lines.iter().map(Line::json).collect::<Vec<_>>(),
            "slots": self.slots.iter().map(Slot::json).collect::<Vec<_>>(),
        })
    }
}

fn outsider(word: &Value) -> String {
    match word["facts"]["group_name"].as_str() {
        Some(group) => format!(
            "this database is node \"{}\" of group \"{group}\", but its workers have not started",
            word["facts"]["node_name"].as_str().unwrap_or_default()
        ),
        None => "this database is not a member of a group; see synod create and synod join".into(),
    }
}

fn decided_csn(member: &Member) -> Option<i64> {
    member.word.as_ref().ok()?["apply"]["decided_csn"].as_i64()
}

impl Line {
    fn of(member: &Member, group: &Group, decided: Option<i64>) -> Self {
        let word = member.word.as_ref().unwrap_or(&Value::Null);
        let applied = word["apply"]["applied_csn"].as_i64();
        // The leader is who says so himself, else whom the first node believes it to be.
        let leads = if member.word.is_ok() {
            word["log"]["leader"].as_i64() == Some(member.id)
        } else {
            member.seen["is_leader"] == true && group.members.iter().all(|other| !claims_to_lead(other))
        };
        let (state, reasons) = state(member);
        Self {
            name: member.name.clone(),
            id: member.id,
            state,
            role: match (member.seen["voter"] == true, leads) {
                (false, _) => "learner",
                (true, true) => "leader",
                (true, false) => "voter",
            },
            applied,
            lag: decided
                .zip(applied)
                .map(|(decided, applied)| (decided - applied).max(0)),
            links: word["links"]
                .as_array()
                .map(|links| {
                    links
                        .iter()
                        .filter_map(|link| link.as_str().map(str::to_owned))
                        .collect()
                })
                .unwrap_or_default(),
            quorum: word["log"]["quorum"].as_bool(),
            tables: word["tables"].as_i64(),
            version: word["version"]
                .as_str()
                .map(|version| version.split(' ').next().unwrap_or(version).to_owned()),
            address: Target::address(&member.dsn),
            is_local: member.seen["is_local"] == true,
            reasons,
        }
    }

    fn cells(&self, peers: usize) -> Vec<String> {
        let number = |value: Option<i64>| value.map_or_else(|| "-".into(), |value| value.to_string());
        let known = self.applied.is_some();
        vec![
            format!("{}{}", self.name, if self.is_local { "*" } else { "" }),
            self.state.into(),
            self.role.into(),
            number(self.applied),
            number(self.lag),
            if known {
                format!("{}/{peers}", self.links.len())
            } else {
                "-".into()
            },
            self.quorum
                .map_or("-", |quorum| if quorum { "yes" } else { "no" })
                .into(),
            number(self.tables),
            self.version.clone().unwrap_or_else(|| "-".into()),
            self.address.clone(),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "node_id": self.id,
            "name": self.name,
            "state": self.state,
            "role": self.role,
            "applied_csn": self.applied,
            "lag": self.lag,
            "links_from": self.links,
            "quorum": self.quorum,
            "tables": self.tables,
            "server_version": self.version,
            "address": self.address,
            "asked_first": self.is_local,
            "reasons": self.reasons,
        })
    }
}

fn claims_to_lead(member: &Member) -> bool {
    let leader = member
        .word
        .as_ref()
        .ok()
        .and_then(|word| word["log"]["leader"].as_i64());
    leader == Some(member.id)
}

/// One word, and what to know beside it.
fn state(member: &Member) -> (&'static str, Vec<String>) {
    let word = match &member.word {
        Ok(word) => word,
        Err(failure) => {
            let reason = format!("cannot be asked: {}", failure.message);
            let more = if failure.detail.is_empty() {
                String::new()
            } else {
                format!(". {}", failure.detail)
            };
            return ("unreachable", vec![reason + &more]);
        }
    };
    let because = |part: &str| word[part]["reason"].as_str().unwrap_or("no reason is known").to_owned();
    match (word["log"]["state"].as_str(), word["apply"]["state"].as_str()) {
        (Some("running"), Some("running")) => ("running", Vec::new()),
        (Some("stopped"), _) => ("stopped", vec![format!("has stopped: {}", because("log"))]),
        (_, Some("stopped")) => ("not applying", vec![format!("does not apply: {}", because("apply"))]),
        (None, _) if word["facts"]["group_name"].is_null() => (
            "no member",
            vec!["is not a member any more: remove it with synod leave --node".into()],
        ),
        _ => ("starting", vec!["is starting".into()]),
    }
}
