//! What is only seen with several nodes side by side.

use serde_json::Value;

use super::checks::{Finding, Level};
use super::question::Clock;
use crate::output::grouped;

/// What several nodes say, side by side: name, word, clock.
pub fn between_nodes(told: &[(&str, &Value, &Clock)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some((_, first, _)) = told.first() else {
        return findings;
    };
    for (part, of, level) in [
        ("protocol", "facts", Level::Error),
        ("library", "facts", Level::Error),
        ("encoding", "", Level::Error),
        ("collation_version", "", Level::Warning),
    ] {
        let value = |word: &Value| {
            if of.is_empty() {
                word[part].clone()
            } else {
                word[of][part].clone()
            }
        };
        if told.iter().any(|(_, word, _)| value(word) != value(first)) {
            let each: Vec<String> = told
                .iter()
                .map(|(name, word, _)| format!("{name} {}", value(word)))
                .collect();
            let hint = "Nodes of a group have the same: install the same version everywhere, one node after the other.";
            findings.push(Finding::new(level, part, each.join(", "), hint));
        }
    }
    let ahead = |clock: &Clock| (clock.ahead, clock.within);
    let most = told
        .iter()
        .map(|(name, _, clock)| (*name, ahead(clock)))
        .max_by(|a, b| a.1.0.total_cmp(&b.1.0));
    let least = told
        .iter()
        .map(|(name, _, clock)| (*name, ahead(clock)))
        .min_by(|a, b| a.1.0.total_cmp(&b.1.0));
    if let (Some((late, most)), Some((early, least))) = (most, least)
        && told.len() > 1
    {
        let (skew, within) = (most.0 - least.0, most.1 + least.1);
        let what = format!(
            "{:.1} ms apart, give or take {:.1} ms ({late} is ahead of {early})",
            skew * 1e3,
            within * 1e3
        );
        let level = if skew - within > 1.0 {
            Level::Warning
        } else {
            Level::Good
        };
        let hint = "The shared log does not need clocks, but now() and the logs of the nodes disagree: run NTP.";
        findings.push(Finding::new(
            level,
            "clocks",
            what,
            if level == Level::Good { "" } else { hint },
        ));
    }
    let voters = first["nodes"]
        .as_array()
        .map_or(0, |nodes| nodes.iter().filter(|node| node["voter"] == true).count());
    if voters > 0 && voters < 3 {
        let what = format!(
            "{voters}, so writes stop when {} is down",
            if voters == 1 { "it" } else { "either" }
        );
        findings.push(Finding::new(
            Level::Note,
            "voters",
            what,
            "Add nodes: three survive the loss of one, five of two.",
        ));
    }
    let csn = |word: &Value| word["apply"]["applied_csn"].as_i64();
    let decided = told
        .iter()
        .filter_map(|(_, word, _)| word["apply"]["decided_csn"].as_i64())
        .max()
        .unwrap_or(0);
    for (name, word, _) in told {
        let lag = csn(word).map_or(0, |applied| decided - applied);
        if lag > 100_000 {
            let what = format!("node {name} is {} positions behind", grouped(lag));
            findings.push(Finding::new(
                Level::Warning,
                "lag",
                what,
                "If it does not catch up, look for what blocks its apply worker (synod top).",
            ));
        }
    }
    findings
}
