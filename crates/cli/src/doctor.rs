//! `synod doctor`: what will go wrong, and what to do about it.

mod between;
mod checks;
mod question;

use std::thread;

use serde_json::{Value, json};

use crate::arguments::{Common, Doctor};
use crate::failure::{Failure, exit};
use crate::group::{connect, members};
use crate::session::Session;
use checks::{Checked, Finding, Level};
use question::{Clock, ask, clock};

/// A node, what it says, and what that means.
struct Patient {
    name: String,
    told: Result<(Value, Clock), Failure>,
    findings: Vec<Finding>,
    checks: usize,
}

/// Examine and tell.
pub fn run(common: &Common, options: &Doctor) -> Result<u8, Failure> {
    let (target, mut session) = connect(common, "doctor")?;
    let first = ask(&mut session)?;
    let others: Vec<_> = members(&target, &first)
        .into_iter()
        .filter(|member| member.seen["is_local"] != true)
        .collect();
    let name = first["facts"]["node_name"].as_str().unwrap_or("this server").to_owned();
    let mut patients = vec![Patient::new(
        name,
        clock(&mut session).map(|clock| (first.clone(), clock)),
    )];
    let told = thread::scope(|scope| {
        let threads: Vec<_> = others
            .iter()
            .map(|member| {
                let examine = |session: &mut Session| Ok((ask(session)?, clock(session)?));
                let connect = || member.target.connect("doctor");
                (
                    member,
                    scope.spawn(move || connect().and_then(|mut session| examine(&mut session))),
                )
            })
            .collect();
        let lost = || Err(Failure::new("it could not be asked", "", ""));
        let join = |(member, thread): (&crate::group::Member, thread::ScopedJoinHandle<'_, _>)| {
            Patient::new(member.name.clone(), thread.join().unwrap_or_else(|_| lost()))
        };
        threads.into_iter().map(join).collect::<Vec<_>>()
    });
    patients.extend(told);
    let peers = patients.len() - 1;
    for patient in &mut patients {
        patient.examine(peers);
    }
    let between = between(&patients);
    if common.json {
        println!("{:#}", as_json(&patients, &between));
    } else {
        print!("{}", as_text(&patients, &between, options.verbose));
    }
    let bad = |finding: &Finding| finding.level >= Level::Warning;
    let found = patients
        .iter()
        .flat_map(|patient| &patient.findings)
        .chain(&between)
        .any(bad);
    Ok(if found { exit::FOUND } else { exit::GOOD })
}

impl Patient {
    fn new(name: String, told: Result<(Value, Clock), Failure>) -> Self {
        Self {
            name,
            told,
            findings: Vec::new(),
            checks: 0,
        }
    }

    fn examine(&mut self, peers: usize) {
        match &self.told {
            Ok((word, _)) => {
                let Checked { findings, checks } = checks::of_node(word, peers);
                (self.findings, self.checks) = (findings, checks);
            }
            Err(failure) => self.findings.push(Finding::new(
                Level::Error,
                "reachable",
                format!("{}. {}", failure.message, failure.detail),
                &failure.hint,
            )),
        }
    }
}

/// What is only seen with several nodes side by side.
fn between(patients: &[Patient]) -> Vec<Finding> {
    let told: Vec<(&str, &Value, &Clock)> = patients
        .iter()
        .filter_map(|patient| {
            patient
                .told
                .as_ref()
                .ok()
                .map(|(word, clock)| (patient.name.as_str(), word, clock))
        })
        .collect();
    between::between_nodes(&told)
}

fn as_text(patients: &[Patient], between: &[Finding], verbose: bool) -> String {
    let mut text = String::new();
    for patient in patients {
        text += &format!("{}\n", patient.name);
        text += &lines(&patient.findings, verbose);
        let good = patient.checks.saturating_sub(
            patient
                .findings
                .iter()
                .filter(|finding| finding.level > Level::Good)
                .count(),
        );
        text += &format!("  {good} of {} checks found nothing\n\n", patient.checks);
    }
    if !between.is_empty() {
        text += &format!("the nodes side by side\n{}", lines(between, verbose));
    }
    text
}

fn lines(findings: &[Finding], verbose: bool) -> String {
    let mut text = String::new();
    for finding in findings.iter().filter(|finding| verbose || finding.level > Level::Good) {
        text += &format!("  {:<9}{}: {}\n", finding.level.word(), finding.check, finding.what);
        if !finding.hint.is_empty() {
            text += &format!("  {:<9}HINT:  {}\n", "", finding.hint);
        }
    }
    text
}

fn as_json(patients: &[Patient], between: &[Finding]) -> Value {
    let told = |node: Option<&str>, finding: &Finding| {
        json!({
            "node": node,
            "level": finding.level.name(),
            "check": finding.check,
            "what": finding.what,
            "hint": (!finding.hint.is_empty()).then_some(&finding.hint),
        })
    };
    let of_nodes = patients.iter().flat_map(|patient| {
        patient
            .findings
            .iter()
            .map(|finding| told(Some(&patient.name), finding))
    });
    let findings: Vec<Value> = of_nodes
        .chain(between.iter().map(|finding| told(None, finding)))
        .collect();
    json!({ "nodes": patients.iter().map(|patient| &patient.name).collect::<Vec<_>>(), "findings": findings })
}
