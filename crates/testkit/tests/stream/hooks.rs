//! An HTTP endpoint: down, slow, refusing.

use super::endpoint::{Endpoint, Request};
use super::*;

/// The column `n` of every event that was accepted, in order.
fn accepted(requests: &[Request]) -> Vec<i64> {
    requests
        .iter()
        .flat_map(|request| {
            let body: Value = serde_json::from_str(&request.body).unwrap();
            let events = body.as_array().cloned().unwrap_or_else(|| vec![body]);
            events.into_iter().map(|event| event["data"]["columns"].clone())
        })
        .map(|columns| {
            let list = columns.as_array();
            let value = list.map_or_else(
                || columns["n"].clone(),
                |list| list.iter().find(|it| it["name"] == "n").unwrap()["value"].clone(),
            );
            value.as_i64().unwrap()
        })
        .collect()
}

#[test]
fn an_endpoint_that_is_down_gets_everything_in_order_when_it_is_back() {
    let server = server();
    let mut client = database(&server, "hooks", "CREATE TABLE t (n bigserial PRIMARY KEY, v text)");
    let dsn = server.dsn_of("hooks");
    let place = directory("hooks");
    let secret = place.join("secret");
    std::fs::write(&secret, "key\n").unwrap();
    let endpoint = Endpoint::start(|_| "503 Not now\r\nretry-after: 0".into());
    let url = endpoint.url();
    let secret = secret.display().to_string();
    let more = [
        "--to",
        &url,
        "--envelope",
        "cloudevents",
        "--secret-file",
        &secret,
        "--header",
        "x-who: me",
    ];
    streamed(&dsn, &["--create", "--until-caught-up"]);
    let limited = [&more[..], &["--max-memory", "300000"]].concat();
    // What has not arrived is not confirmed: it survives the death of who had it.
    let following = Following::start(&dsn, &limited);
    client.batch_execute("INSERT INTO t (v) VALUES ('first')").unwrap();
    wait_until(DEADLINE, "some attempts", || {
        (endpoint.requests().len() >= 4).then_some(())
    });
    following.kill9();
    wait_for_slot(&mut client);
    let following = Following::start(&dsn, &limited);
    // More than may wait in memory; the server keeps it.
    client
        .batch_execute("INSERT INTO t (v) SELECT repeat('z', 20000) FROM generate_series(1, 1500)")
        .unwrap();
    let tried = endpoint.requests().len();
    wait_until(DEADLINE, "some attempts, and a complaint", || {
        (endpoint.requests().len() >= tried + 5 && following.said().contains("HTTP status 503: said")).then_some(())
    });
    assert!(
        !following.said().contains("secret@"),
        "a password was told: {}",
        following.said()
    );
    let memory = memory_kb(following.0.id());
    let before = endpoint.requests().len();
    endpoint.answer(|_| "204 Good".into());
    wait_until(2 * DEADLINE, "everything", || {
        // Only the newest is looked at: together they are 30 MB.
        (accepted(&[endpoint.newest()?]).last() == Some(&1_501)).then_some(())
    });
    let requests = endpoint.requests();
    let mut came = accepted(&requests[before..]);
    came.dedup();
    assert_eq!(came, (1..=1_501).collect::<Vec<i64>>());
    assert!(
        memory < 30_000,
        "{memory} kB while the endpoint was down, and 30 MB waited"
    );
    let last = requests.last().unwrap();
    assert_eq!(
        last.header("content-type"),
        "application/cloudevents+json; charset=UTF-8"
    );
    assert_eq!(last.header("x-who"), "me");
    assert_eq!(last.header("synod-signature"), signed(last), "{last:?}");
    assert_eq!(following.terminate(), 0);
    one_event_is_refused_for_ever(&mut client, &dsn, &endpoint, &more, &place);
    streamed(&dsn, &["--drop-slot"]);
}

/// In batches.
fn one_event_is_refused_for_ever(client: &mut Client, dsn: &str, endpoint: &Endpoint, more: &[&str], place: &Path) {
    endpoint.answer(|request| {
        let bad = request.body.contains("\"poison\"");
        if bad { "422 No".into() } else { "200 OK".into() }
    });
    client
        .batch_execute(
            "INSERT INTO t (v) SELECT CASE WHEN n = 7 THEN 'poison' ELSE 'fine' END FROM generate_series(1, 20) n",
        )
        .unwrap();
    let batched = [more, &["--batch", "8", "--until-caught-up"]].concat();
    let before = endpoint.requests().len();
    let ran = stream(dsn, &batched);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(
        ran.err.contains("refuses event") && ran.err.contains("HTTP status 422"),
        "{}",
        ran.err
    );
    let parked = place.join("parked").display().to_string();
    let ran = stream(
        dsn,
        &[&batched[..], &["--on-refusal", "park", "--parked", &parked]].concat(),
    );
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("is parked in"), "{}", ran.err);
    let good: Vec<Request> = endpoint.requests()[before..]
        .iter()
        .filter(|request| !request.body.contains("\"poison\""))
        .cloned()
        .collect();
    let mut came = accepted(&good);
    came.sort_unstable();
    came.dedup();
    assert_eq!(came, (1_502..=1_521).filter(|n| *n != 1_508).collect::<Vec<i64>>());
    let kept = objects(&std::fs::read_to_string(&parked).unwrap());
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(kept[0]["reason"].as_str().unwrap().contains("422"));

    let replay = [more, &["--replay-parked", "--parked", &parked]].concat();
    assert_eq!(stream(dsn, &replay).code, 1, "it is still refused");
    endpoint.answer(|_| "200 OK".into());
    let ran = streamed(dsn, &replay);
    assert!(ran.out.contains("1 parked events are sent"), "{}", ran.out);
    assert!(endpoint.requests().last().unwrap().body.contains("\"poison\""));
    assert_eq!(std::fs::read_to_string(&parked).unwrap(), "");
}

/// The signature that this request must have, as OpenSSL makes it.
fn signed(request: &Request) -> String {
    let given = request.header("synod-signature");
    let time = given
        .strip_prefix("t=")
        .and_then(|rest| rest.split(',').next())
        .unwrap();
    let mut child = std::process::Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", "key", "-r"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let signed = format!("{time}.{}", request.body);
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), signed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let hex = String::from_utf8(output.stdout).unwrap();
    format!("t={time},v1={}", hex.split_whitespace().next().unwrap())
}

/// Resident memory of a process.
fn memory_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
