//! A [`Table`] as it is told before the first event that names it.

use crate::stream::{Column, ReplicaIdentity, Table, TypeClass};
use crate::wire::{Decoder, put_bytes, put_signed, put_varint};
use crate::{DecodeError, MAX_COLUMNS};

const NOT_NULL: u8 = 1;
const GENERATED: u8 = 2;
const IN_PRIMARY_KEY: u8 = 4;
const IN_IDENTITY: u8 = 8;
const MASKED: u8 = 16;
const HAS_DEFAULT: u8 = 32;
const HAS_IDENTITY: u8 = 64;
const HAS_LITERAL_TYPE: u8 = 128;

/// With the number of the replica identity.
const IDENTITY_HIDDEN: u8 = 4;
const PARTITIONED: u8 = 8;

/// The least that a column takes.
const COLUMN_BYTES: usize = 11;

/// In the order of their numbers.
const CLASSES: [TypeClass; 7] = [
    TypeClass::Text,
    TypeClass::Integer,
    TypeClass::Number,
    TypeClass::Boolean,
    TypeClass::Bits,
    TypeClass::Json,
    TypeClass::Bytes,
];

fn flag(there: bool, flag: u8) -> u8 {
    if there { flag } else { 0 }
}

const IDENTITIES: [ReplicaIdentity; 4] = [
    ReplicaIdentity::Default,
    ReplicaIdentity::Index,
    ReplicaIdentity::Full,
    ReplicaIdentity::Nothing,
];

fn number_of<T: PartialEq>(all: &[T], one: &T) -> u8 {
    all.iter().position(|other| other == one).unwrap_or(0) as u8
}

pub(super) fn put(out: &mut Vec<u8>, table: &Table) {
    put_varint(out, table.version);
    put_varint(out, table.oid.into());
    put_bytes(out, &table.schema);
    put_bytes(out, &table.name);
    put_bytes(out, &table.quoted_name);
    let flags = flag(table.identity_hidden, IDENTITY_HIDDEN) | flag(table.partitioned, PARTITIONED);
    out.push(number_of(&IDENTITIES, &table.identity) | flags);
    put_varint(out, table.columns.len() as u64);
    table.columns.iter().for_each(|column| put_column(out, column));
}

fn put_column(out: &mut Vec<u8>, column: &Column) {
    out.push(
        flag(column.not_null, NOT_NULL)
            | flag(column.generated, GENERATED)
            | flag(column.in_primary_key, IN_PRIMARY_KEY)
            | flag(column.in_identity, IN_IDENTITY)
            | flag(column.masked, MASKED)
            | flag(column.default.is_some(), HAS_DEFAULT)
            | flag(column.identity.is_some(), HAS_IDENTITY)
            | flag(column.literal_type.is_some(), HAS_LITERAL_TYPE),
    );
    out.push(number_of(&CLASSES, &column.class));
    let names = [
        &column.name,
        &column.quoted_name,
        &column.type_name,
        &column.full_type_name,
        &column.base_type_name,
        &column.full_base_type_name,
    ];
    names.into_iter().for_each(|name| put_bytes(out, name));
    put_varint(out, column.type_oid.into());
    put_signed(out, column.type_modifier.into());
    put_signed(out, column.number.into());
    if let Some(default) = &column.default {
        put_bytes(out, default);
    }
    if let Some(letter) = column.identity {
        put_varint(out, u32::from(letter).into());
    }
    if let Some(name) = &column.literal_type {
        put_bytes(out, name);
    }
}

pub(super) fn read(decoder: &mut Decoder<'_>) -> Result<Table, DecodeError> {
    let version = decoder.varint()?;
    let oid = decoder.varint_u32()?;
    let [schema, name, quoted_name] = [decoder.bytes()?, decoder.bytes()?, decoder.bytes()?].map(<[u8]>::to_vec);
    let flags = decoder.u8()?;
    let identity = IDENTITIES
        .get(usize::from(flags & !(IDENTITY_HIDDEN | PARTITIONED)))
        .copied();
    let identity = identity.ok_or(decoder.corrupt("a replica identity is unknown"))?;
    let count = decoder.count(MAX_COLUMNS, COLUMN_BYTES)?;
    let columns = (0..count).map(|_| read_column(decoder)).collect::<Result<_, _>>()?;
    Ok(Table {
        version,
        oid,
        schema,
        name,
        quoted_name,
        columns,
        identity,
        identity_hidden: flags & IDENTITY_HIDDEN != 0,
        partitioned: flags & PARTITIONED != 0,
        above: None,
    })
}

fn read_column(decoder: &mut Decoder<'_>) -> Result<Column, DecodeError> {
    let flags = decoder.u8()?;
    let class = CLASSES.get(usize::from(decoder.u8()?)).copied();
    let mut column = Column {
        class: class.ok_or(decoder.corrupt("a type class is unknown"))?,
        name: decoder.bytes()?.to_vec(),
        quoted_name: decoder.bytes()?.to_vec(),
        type_name: decoder.bytes()?.to_vec(),
        full_type_name: decoder.bytes()?.to_vec(),
        base_type_name: decoder.bytes()?.to_vec(),
        full_base_type_name: decoder.bytes()?.to_vec(),
        type_oid: decoder.varint_u32()?,
        type_modifier: i32::try_from(decoder.signed()?).map_err(|_| decoder.corrupt("a modifier is out of range"))?,
        number: i16::try_from(decoder.signed()?).map_err(|_| decoder.corrupt("a column number is out of range"))?,
        not_null: flags & NOT_NULL != 0,
        generated: flags & GENERATED != 0,
        in_primary_key: flags & IN_PRIMARY_KEY != 0,
        in_identity: flags & IN_IDENTITY != 0,
        masked: flags & MASKED != 0,
        ..Column::default()
    };
    if flags & HAS_DEFAULT != 0 {
        column.default = Some(decoder.bytes()?.to_vec());
    }
    if flags & HAS_IDENTITY != 0 {
        let letter = char::from_u32(decoder.varint_u32()?);
        column.identity = Some(letter.ok_or(decoder.corrupt("an identity is no letter"))?);
    }
    if flags & HAS_LITERAL_TYPE != 0 {
        column.literal_type = Some(decoder.bytes()?.to_vec());
    }
    Ok(column)
}
