//! The small files of a node, and the description of a member, as bytes.
//!
//! ```text
//! each file   magic 8 bytes, version u32, what follows here, crc32c u32 of all before it
//! node        group 16 bytes, node u32, log 16 bytes, system identifier u64, database u32, secret 32 bytes,
//!             group name, name, dsn (length u32 and UTF-8 each)
//! incarnation u64
//! expected    position u64, node u32, transaction u64, and a u32 for each relation
//! MemberInfo  version u8, name, dsn, system identifier u64, database u32, server version u32; what it lies in has a checksum
//! ```
//! Numbers are big-endian. Pure: it knows nothing of the server, so that fixtures (`crates/testkit/tests/formats.rs`) and a
//! fuzzer (`fuzz/src/bin/node_identity.rs`) take it in without one.

use synod_log::{LogId, NodeId};

const NODE: Kind = (b"SYNODnod", 1);
const INCARNATION: Kind = (b"SYNODinc", 1);
const EXPECTED: Kind = (b"SYNODexp", 1);
const INFO_VERSION: u8 = 1;

/// Magic and version of a file.
type Kind = (&'static [u8; 8], u32);

/// Contents of the file.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The group.
    pub group: [u8; 16],
    /// Its name.
    pub group_name: String,
    /// This node's id in it.
    pub node: NodeId,
    /// This node's name in it.
    pub name: String,
    /// How the other nodes reach this one.
    pub dsn: String,
    /// The log directory that belongs to it.
    pub log: LogId,
    /// The server it was made on.
    pub system_identifier: u64,
    /// The database it was made in.
    pub database: u32,
    /// What the members of the group prove to each other that they have.
    pub secret: [u8; 32],
}

impl std::fmt::Debug for Identity {
    /// Without the secret, and without the dsn, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("group", &self.group_name)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        seal(NODE, |bytes| {
            bytes.extend_from_slice(&self.group);
            bytes.extend_from_slice(&self.node.0.to_be_bytes());
            bytes.extend_from_slice(&self.log.0);
            bytes.extend_from_slice(&self.system_identifier.to_be_bytes());
            bytes.extend_from_slice(&self.database.to_be_bytes());
            bytes.extend_from_slice(&self.secret);
            for text in [&self.group_name, &self.name, &self.dsn] {
                put_text(bytes, text);
            }
        })
    }

    /// The identity in a file's bytes, or what is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut reader = unseal(NODE, bytes)?;
        let identity = Self::decode_fields(&mut reader).ok_or("it is too short, or a name in it is not UTF-8")?;
        reader.end()?;
        Ok(identity)
    }

    fn decode_fields(reader: &mut Reader<'_>) -> Option<Self> {
        let group = reader.array()?;
        let node = NodeId(reader.u32()?);
        let log = LogId(reader.array()?);
        let system_identifier = reader.u64()?;
        let database = reader.u32()?;
        let secret = reader.array()?;
        let [group_name, name, dsn] = [reader.text()?, reader.text()?, reader.text()?];
        Some(Self {
            group,
            group_name,
            node,
            name,
            dsn,
            log,
            system_identifier,
            database,
            secret,
        })
    }
}

/// The bytes of the file that holds the number of a node's last start.
pub fn encode_incarnation(incarnation: u64) -> Vec<u8> {
    seal(INCARNATION, |bytes| bytes.extend_from_slice(&incarnation.to_be_bytes()))
}

/// The number in such a file's bytes, or what is wrong with them.
pub fn decode_incarnation(bytes: &[u8]) -> Result<u64, &'static str> {
    let mut reader = unseal(INCARNATION, bytes)?;
    let incarnation = reader.u64().ok_or(TOO_SHORT)?;
    reader.end()?;
    Ok(incarnation)
}

/// Tables that are about to become the group's, as the file `expected` keeps them over a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpectedTables {
    /// Where the DDL lock that names them was given.
    pub position: u64,
    /// To a transaction of this node.
    pub node: u32,
    /// By this number.
    pub transaction: u64,
    /// Their relations in this database.
    pub relations: Vec<u32>,
}

impl ExpectedTables {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        seal(EXPECTED, |bytes| {
            bytes.extend_from_slice(&self.position.to_be_bytes());
            bytes.extend_from_slice(&self.node.to_be_bytes());
            bytes.extend_from_slice(&self.transaction.to_be_bytes());
            for relation in &self.relations {
                bytes.extend_from_slice(&relation.to_be_bytes());
            }
        })
    }

    /// What a file's bytes say, or what is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut reader = unseal(EXPECTED, bytes)?;
        let mut expected = Self {
            position: reader.u64().ok_or(TOO_SHORT)?,
            node: reader.u32().ok_or(TOO_SHORT)?,
            transaction: reader.u64().ok_or(TOO_SHORT)?,
            relations: Vec::with_capacity(reader.0.len() / 4),
        };
        while let Some(relation) = reader.u32() {
            expected.relations.push(relation);
        }
        reader.end()?;
        Ok(expected)
    }
}

/// What the membership carries about a member: how to reach it and which server it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberInfo {
    /// Node name, unique in the group.
    pub name: String,
    /// How the other nodes reach it.
    pub dsn: String,
    /// Which server.
    pub system_identifier: u64,
    /// Which database of it.
    pub database: u32,
    /// Its PostgreSQL version when it became a member.
    pub server_version: u32,
}

impl MemberInfo {
    /// As bytes, for [`synod_log::Member::info`].
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![INFO_VERSION];
        put_text(&mut bytes, &self.name);
        put_text(&mut bytes, &self.dsn);
        bytes.extend_from_slice(&self.system_identifier.to_be_bytes());
        bytes.extend_from_slice(&self.database.to_be_bytes());
        bytes.extend_from_slice(&self.server_version.to_be_bytes());
        bytes
    }

    /// From bytes; `None` when they are of another version or broken.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&INFO_VERSION, rest) = bytes.split_first()? else {
            return None;
        };
        let mut reader = Reader(rest);
        let [name, dsn] = [reader.text()?, reader.text()?];
        let info = Self {
            name,
            dsn,
            system_identifier: reader.u64()?,
            database: reader.u32()?,
            server_version: reader.u32()?,
        };
        reader.0.is_empty().then_some(info)
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

const TOO_SHORT: &str = "it is too short";

/// A file of this kind around what `put` adds.
fn seal((magic, version): Kind, put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    bytes.extend_from_slice(&version.to_be_bytes());
    put(&mut bytes);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes
}

/// What a file of this kind holds, or what is wrong with it.
fn unseal((magic, version): Kind, bytes: &[u8]) -> Result<Reader<'_>, &'static str> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or(TOO_SHORT)?;
    if crc32c::crc32c(body) != u32::from_be_bytes(*crc) {
        return Err("its checksum is wrong");
    }
    let mut reader = Reader(body);
    if reader.array::<8>() != Some(*magic) {
        return Err("it is a file of another kind");
    }
    if reader.u32() != Some(version) {
        return Err("it was written by another version of synod");
    }
    Ok(reader)
}

/// Reads what was written above; every step may find the end.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn end(&self) -> Result<(), &'static str> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err("it is too long")
        }
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        String::from_utf8(head.to_vec()).ok()
    }
}
