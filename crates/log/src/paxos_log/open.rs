//! Making and opening a node's log.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use synod_paxos::{DurableRecord, MAX_POSITION, Options, Paxos, Recovered};

use super::drive::to_record;
use super::{PaxosLog, Tail, Unwritten};
use crate::delivery::Delivery;
use crate::error::StorageError;
use crate::places::Places;
use crate::reader::SegmentReader;
use crate::segment::{self, Found, KIND_ENTRY, KIND_STATE};
use crate::storage::{Completion, Storage};
use crate::{Entry, LogEvent, LogId, LogOptions, Member, Membership, NodeId, Position, Transport};

impl<T: Transport> PaxosLog<T> {
    /// Make the log of a new group whose only member this is, with node id 1. `info` is what the group is to know
    /// about it.
    pub fn create(directory: &Path, options: LogOptions, info: Bytes, transport: T) -> Result<Self, StorageError> {
        let options = LogOptions {
            node: NodeId(1),
            ..options
        };
        let storage = Storage::create(directory, options.storage())?;
        let member = Member {
            id: options.node,
            log: storage.log_id(),
            voter: true,
            info,
        };
        let membership = Membership {
            version: 1,
            next_id: 2,
            members: vec![member],
        };
        let base = DurableRecord::Base { chosen: 0, membership };
        begin(storage, directory, vec![base])?;
        PaxosLog::open(directory, options, transport)
    }

    /// Make the log of a node that is to join, as far as that is possible before the group knows it: an empty one with
    /// an identity, to be named to the group with [`MembershipChange::AddLearner`](crate::MembershipChange). Called
    /// again, it gives the same identity.
    pub fn reserve(directory: &Path, options: &LogOptions) -> Result<LogId, StorageError> {
        Storage::reserve(directory, options.storage())
    }

    /// Make the log of a node that joins with a copy of the data as of position `copied`. `membership` is that as of
    /// `copied` or later, and lists this node. The directory comes from [`reserve`](Self::reserve).
    pub fn create_learner(
        directory: &Path,
        options: LogOptions,
        copied: Position,
        membership: Membership,
        transport: T,
    ) -> Result<Self, StorageError> {
        let storage = Storage::claim(directory, options.storage())?;
        let base = DurableRecord::Base {
            chosen: copied,
            membership,
        };
        begin(storage, directory, vec![base, DurableRecord::Trimmed(copied + 1)])?;
        PaxosLog::open(directory, options, transport)
    }

    /// Open a node's log. It delivers from `options.deliver_from` on.
    pub fn open(directory: &Path, options: LogOptions, mut transport: T) -> Result<Self, StorageError> {
        let mut recovered = Recovered::default();
        let mut places = Places::default();
        let storage = Storage::open(directory, options.storage(), &mut |found, payload| {
            let record = read_record(&found, payload, recovered.chosen)?;
            if found.header.kind == KIND_ENTRY {
                let position = found.header.position;
                if position == 0 || position > MAX_POSITION || !places.is_near(position) {
                    return Err("an entry at a position that cannot be");
                }
                places.set(position, found.location);
            }
            if let Some(record) = record {
                recovered.replay(record);
            }
            Ok(())
        })?;
        let first = recovered.trimmed.max(1);
        if let Some(missing) = places.first_missing(first, recovered.chosen) {
            let reason = format!("the entry at position {missing} is missing");
            return Err(StorageError::Damaged {
                path: directory.to_path_buf(),
                offset: 0,
                reason,
            });
        }
        places.trim(first);
        if options.deliver_from < first {
            return Err(StorageError::Trimmed {
                wanted: options.deliver_from,
                first,
            });
        }
        let membership = recovered.membership.clone();
        transport.set_members(&membership);
        let delivery = Delivery::new(options.deliver_from, recovered.chosen);
        Ok(PaxosLog {
            lease: options.lease.clone(),
            paxos: Paxos::new(core_options(&options, storage.log_id())?, recovered),
            reader: SegmentReader::new(storage.directory()),
            storage,
            transport,
            places,
            delivery,
            held: VecDeque::new(),
            unwritten: Unwritten::default(),
            has_waited: false,
            proposals: Vec::new(),
            tail: Tail::default(),
            distrusted: Vec::new(),
            early: vec![LogEvent::Membership(membership)],
            failed: false,
            actions: Vec::new(),
            received: Vec::new(),
        })
    }
}

/// Write the first records of a log, and close it again.
fn begin(storage: Storage, directory: &Path, records: Vec<DurableRecord>) -> Result<(), StorageError> {
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
    storage.write(1, records.into_iter().map(to_record).collect());
    loop {
        let problem = match storage.wait(PATIENCE) {
            Some(Completion::Durable(_)) => return Ok(()),
            Some(Completion::Written { .. }) => continue,
            Some(Completion::Failed(reason)) => reason,
            None => "the storage thread does not answer".into(),
        };
        return Err(StorageError::io("write", directory)(std::io::Error::other(problem)));
    }
}

/// The durable record in a segment record; `None` for one that only the storage cares about, and for an entry at or
/// below `chosen`: only its place counts.
fn read_record(found: &Found, payload: Bytes, chosen: Position) -> Result<Option<DurableRecord>, &'static str> {
    let header = &found.header;
    match header.kind {
        KIND_ENTRY if header.position <= chosen => Ok(None),
        KIND_ENTRY => {
            // A copy: a slice would keep the whole segment in memory.
            let value = segment::decode_value(Bytes::copy_from_slice(&payload)).ok_or("not a value")?;
            let entry = Entry {
                position: header.position,
                ballot: header.ballot,
                value,
            };
            Ok(Some(DurableRecord::Accept(entry)))
        }
        KIND_STATE.. => match DurableRecord::decode(Bytes::copy_from_slice(&payload)) {
            Ok(record) => Ok(Some(record)),
            Err(_) => Err("a record of state that this release cannot read"),
        },
        _ => Ok(None),
    }
}

fn core_options(options: &LogOptions, log: LogId) -> Result<Options, StorageError> {
    let mut session = [0; 8];
    let source = Path::new("/dev/urandom");
    File::open(source)
        .and_then(|mut file| file.read_exact(&mut session))
        .map_err(StorageError::io("read", source))?;
    let election_timeout_ms = options.election_timeout.as_millis() as u64;
    Ok(Options {
        heartbeat_ms: options.heartbeat.as_millis() as u64,
        election_timeout_ms,
        tail_timeout_ms: election_timeout_ms,
        ..Options::new(options.node, log, u64::from_le_bytes(session))
    })
}
