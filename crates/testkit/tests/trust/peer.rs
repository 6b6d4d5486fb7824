//! A member that does not keep to the protocol. It knows the group's secret, so its links come about and its messages are
//! heard. The others need not come out of it in agreement (a member is trusted with what it says), but they come out alive:
//! no process ends, and once it is gone the others elect, write and agree.

use std::time::Duration;

use synod_log::frames;
use synod_log::{Ballot, Entry, Member, Membership, MembershipChange, NodeId, Position, ProposalId, Value};
use synod_paxos::{Body, Command, Message};
use synod_testkit::{Cluster, Rng, Server, StopMode, assert_converged, wait_until};

use super::client::{call, identity};
use super::codec::Identity;
use super::handshake::{Handshake, NONCE_BYTES, Role, WELCOME};
use super::raw::{Raw, Told};
use super::{assert_group_works, prepare};

const LAST: u64 = u64::MAX;

/// The link of a hostile node to another one.
struct Link {
    raw: Raw,
    me: Identity,
}

impl Link {
    #[track_caller]
    fn open(me: &Identity, server: &Server) -> Link {
        let there = identity(server);
        let nonce = [3; NONCE_BYTES];
        let mut raw = Raw::connect(server, "link");
        raw.ask(&call(&me.group, me.node.0.into(), there.node.0.into(), &nonce));
        assert!(matches!(raw.read(), Told::Message(b'W', _)));
        let Told::Message(b'd', greeting) = raw.read() else {
            panic!("no greeting")
        };
        let handshake = Handshake {
            secret: &me.secret,
            group: &me.group,
            from: me.node.0,
            to: there.node.0,
            dialling_nonce: &nonce,
            called_nonce: &greeting[..NONCE_BYTES],
        };
        assert!(handshake.verify(Role::Called, &greeting[NONCE_BYTES..]));
        raw.copy(&handshake.proof(Role::Dialling));
        assert_eq!(raw.read(), Told::Message(b'd', WELCOME.to_vec()));
        Link { raw, me: me.clone() }
    }

    fn say(&mut self, body: Body) {
        let message = Message {
            log: self.me.log,
            session: 1,
            body,
        };
        let mut bytes = Vec::new();
        frames::put(&mut bytes, &message.encode());
        self.raw.copy(&bytes);
    }
}

fn junk(me: NodeId, round: u64) -> Vec<Body> {
    let ballot = Ballot { round, node: me };
    let entry = |position: Position, value: Value| Entry {
        position,
        ballot,
        value,
    };
    let id = ProposalId {
        node: me,
        incarnation: LAST,
        sequence: LAST,
    };
    let member = |id: u32, voter: bool| Member {
        id: NodeId(id),
        log: Default::default(),
        voter,
        info: vec![0xff; 100].into(),
    };
    let memberships = [
        Membership::default(),
        Membership {
            version: LAST,
            next_id: u32::MAX,
            members: vec![member(9, false), member(1, true), member(1, true)],
        },
    ];
    let mut said = vec![
        Body::PreVote { ballot, chosen: LAST },
        Body::PreVoteReply {
            ballot,
            granted: true,
            promised: ballot,
            chosen: LAST,
            leader: Some(NodeId(u32::MAX)),
        },
        Body::Prepare {
            ballot,
            chosen: LAST,
            from: LAST,
        },
        Body::Rejected {
            ballot,
            promised: ballot,
            chosen: LAST,
        },
        Body::Promise {
            ballot,
            from: 1,
            entries: vec![entry(i64::MAX as u64, Value::Noop)],
            next: Some(LAST),
            last: LAST,
        },
        Body::Heartbeat {
            ballot,
            round: LAST,
            chosen: LAST,
            sent: LAST,
            lease_ms: LAST,
        },
        Body::HeartbeatReply {
            ballot,
            round: LAST,
            received: LAST,
            upto: LAST,
            last: LAST,
            chosen: LAST,
            gap: true,
        },
        Body::Accepted {
            ballot,
            upto: LAST,
            last: LAST,
        },
        Body::Gap { ballot, received: LAST },
        Body::Fetch { from: LAST },
        Body::Fetch { from: 1 },
        Body::Trimmed { below: LAST },
        Body::TailRequest { token: LAST },
        Body::TailReply {
            session: LAST,
            token: LAST,
            position: Some(LAST),
        },
        Body::Change {
            change: MembershipChange::Promote(NodeId(u32::MAX)),
        },
        Body::Change {
            change: MembershipChange::Remove(NodeId(0)),
        },
        Body::ChangeRefused {
            reason: "\u{1f480}".repeat(500),
        },
        Body::Fenced {
            log: Default::default(),
            reason: String::new(),
        },
        Body::Learn {
            entries: vec![entry(
                i64::MAX as u64,
                Value::Command(Command {
                    id,
                    payload: vec![1; 50].into(),
                }),
            )],
            chosen: LAST,
        },
        Body::Accept {
            ballot,
            chosen: LAST,
            entries: vec![entry(LAST >> 1, Value::Noop), entry(1, Value::Noop)],
        },
    ];
    for membership in memberships {
        said.push(Body::Accept {
            ballot,
            chosen: 0,
            entries: vec![entry(1 << 40, Value::Membership(membership))],
        });
    }
    said
}

/// Process ids and starts of the workers of a node: what changes when one of them ends.
fn workers(server: &Server) -> String {
    let sql = "SELECT l.incarnation || ' ' || l.state || ' ' || a.state || ' ' || a.pid FROM synod.stat_log AS l, synod.stat_apply AS a";
    server.client().query_one(sql, &[]).unwrap().get(0)
}

#[test]
fn a_hostile_member_does_not_bring_the_others_down() {
    let mut cluster = Cluster::start(3);
    prepare(&cluster);
    let me = identity(cluster.server(2));
    cluster.server_mut(2).stop(StopMode::Fast);
    assert_group_works(&cluster, [0, 1]);
    let before: Vec<String> = (0..2).map(|node| workers(cluster.server(node))).collect();

    // Every kind of message with numbers at their end, and with those of the group's present round.
    let round: i64 = cluster
        .client(0)
        .query_one("SELECT round FROM synod.stat_log", &[])
        .unwrap()
        .get(0);
    for node in 0..2 {
        let mut link = Link::open(&me, cluster.server(node));
        for round in [LAST, LAST >> 1, 0, round as u64] {
            junk(me.node, round).into_iter().for_each(|body| link.say(body));
        }
        // Frames that are no messages, and floods of the shortest ones and of questions with long answers.
        let mut rng = Rng::new(4711);
        for _ in 0..200 {
            let noise: Vec<u8> = (0..rng.below(300)).map(|_| rng.below(256) as u8).collect();
            let mut bytes = Vec::new();
            frames::put(&mut bytes, &noise);
            link.raw.copy(&bytes);
        }
        for _ in 0..20_000 {
            link.say(Body::Fetch { from: 1 });
        }
        link.raw.copy(&[0; 4 * 50_000]);
        // What cannot be a frame ends the link.
        link.raw.copy(&u32::MAX.to_le_bytes());
        link.raw.end();
    }
    assert_group_works(&cluster, [0, 1]);
    let after: Vec<String> = (0..2).map(|node| workers(cluster.server(node))).collect();
    assert_eq!(after, before, "a worker has ended");

    // The rounds are not used up: the two others elect a leader, whoever led.
    let led = cluster.leader();
    cluster.server_mut(led).restart(StopMode::Fast);
    assert_group_works(&cluster, [0, 1]);

    // The real node comes back into its place.
    cluster.server_mut(2).start();
    wait_until(Duration::from_secs(60), "the node to come back", || {
        let row = cluster
            .client(2)
            .query_one("SELECT state FROM synod.stat_apply", &[])
            .ok()?;
        (row.get::<_, String>(0) == "running").then_some(())
    });
    assert_group_works(&cluster, [2, 0]);
    assert_converged(&cluster, &["kept"]);
}
