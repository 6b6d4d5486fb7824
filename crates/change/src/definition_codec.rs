//! [`TableDefinition`] to bytes and back. The same bytes serve in the log and in the catalogue.

use crate::wire::{Decoder, put_bytes, put_signed, put_varint};
use crate::{
    CheckDefinition, ColumnDefinition, DecodeError, ForeignKeyAction, ForeignKeyDefinition, Identity, IndexDefinition,
    MAX_COLUMNS, TableDefinition, TableId, Wire,
};

const VERSION: u8 = 1;
const WHAT: &str = "table definition";

/// Far above what a usable table has; below it a decoder's memory is bounded by its input.
const MAX_PARTS: usize = 65_536;

impl TableDefinition {
    /// Versioned bytes. They carry no checksum: whatever they lie in has one.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.id.0.to_le_bytes());
        put_bytes(&mut out, self.schema.as_bytes());
        put_bytes(&mut out, self.name.as_bytes());
        put_varint(&mut out, self.columns.len() as u64);
        self.columns.iter().for_each(|column| put_column(&mut out, column));
        match &self.identity {
            Identity::FullRow => out.push(0),
            Identity::Columns(columns) => {
                out.push(1);
                put_numbers(&mut out, columns);
            }
        }
        put_varint(&mut out, self.indexes.len() as u64);
        for index in &self.indexes {
            put_varint(&mut out, index.id.into());
            out.push(index.unique.into());
            put_bytes(&mut out, index.definition.as_bytes());
            put_numbers(&mut out, &index.columns);
        }
        put_varint(&mut out, self.foreign_keys.len() as u64);
        for key in &self.foreign_keys {
            out.extend_from_slice(&key.referenced.0.to_le_bytes());
            put_bytes(&mut out, key.referenced_name.as_bytes());
            put_numbers(&mut out, &key.columns);
            put_varint(&mut out, key.referenced_index.into());
            out.extend_from_slice(&[key.on_update.letter(), key.on_delete.letter()]);
            put_bytes(&mut out, key.definition.as_bytes());
        }
        put_varint(&mut out, self.checks.len() as u64);
        for check in &self.checks {
            put_bytes(&mut out, check.name.as_bytes());
            put_bytes(&mut out, check.definition.as_bytes());
        }
        put_optional(&mut out, self.partitioned_by.as_deref());
        put_optional(&mut out, self.partition_of.as_deref());
        out
    }

    /// Reads what [`encode`](Self::encode) made.
    ///
    /// # Errors
    /// [`DecodeError::Unknown`] for a newer release's bytes, [`DecodeError::Corrupt`] for damage.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(WHAT, bytes);
        let version = decoder.u8()?;
        if version != VERSION {
            return Err(DecodeError::Unknown {
                what: "table definition version",
                number: version.into(),
            });
        }
        let definition = Self {
            id: TableId(decoder.u64()?),
            schema: decoder.string()?,
            name: decoder.string()?,
            columns: read_list(&mut decoder, MAX_COLUMNS, 8, read_column)?,
            identity: match decoder.u8()? {
                0 => Identity::FullRow,
                1 => Identity::Columns(read_numbers(&mut decoder)?),
                _ => return Err(decoder.corrupt("its identity is of no known form")),
            },
            indexes: read_list(&mut decoder, MAX_PARTS, 4, read_index)?,
            foreign_keys: read_list(&mut decoder, MAX_PARTS, 14, read_foreign_key)?,
            checks: read_list(&mut decoder, MAX_PARTS, 2, |decoder| {
                Ok(CheckDefinition {
                    name: decoder.string()?,
                    definition: decoder.string()?,
                })
            })?,
            partitioned_by: read_optional(&mut decoder)?,
            partition_of: read_optional(&mut decoder)?,
        };
        decoder.finish()?;
        Ok(definition)
    }
}

fn put_column(out: &mut Vec<u8>, column: &ColumnDefinition) {
    put_bytes(out, column.name.as_bytes());
    put_bytes(out, column.type_name.as_bytes());
    put_signed(out, column.typmod.into());
    out.push(column.not_null.into());
    put_optional(out, column.collation.as_deref());
    put_optional(out, column.generated.as_deref());
    put_varint(out, column.identity.map_or(0, |letter| u64::from(u32::from(letter))));
    out.push(match column.wire {
        Wire::Text => 0,
        Wire::Binary => 1,
    });
}

fn read_column(decoder: &mut Decoder<'_>) -> Result<ColumnDefinition, DecodeError> {
    Ok(ColumnDefinition {
        name: decoder.string()?,
        type_name: decoder.string()?,
        typmod: i32::try_from(decoder.signed()?).map_err(|_| decoder.corrupt("a typmod is out of range"))?,
        not_null: decoder.bool()?,
        collation: read_optional(decoder)?,
        generated: read_optional(decoder)?,
        identity: match decoder.varint_u32()? {
            0 => None,
            letter => Some(char::from_u32(letter).ok_or(decoder.corrupt("an identity is no letter"))?),
        },
        wire: match decoder.u8()? {
            0 => Wire::Text,
            1 => Wire::Binary,
            _ => return Err(decoder.corrupt("a wire format is unknown")),
        },
    })
}

fn read_index(decoder: &mut Decoder<'_>) -> Result<IndexDefinition, DecodeError> {
    Ok(IndexDefinition {
        id: decoder.varint_u32()?,
        unique: decoder.bool()?,
        definition: decoder.string()?,
        columns: read_numbers(decoder)?,
    })
}

fn read_foreign_key(decoder: &mut Decoder<'_>) -> Result<ForeignKeyDefinition, DecodeError> {
    let action = |decoder: &mut Decoder<'_>| {
        ForeignKeyAction::from_letter(decoder.u8()?).ok_or(decoder.corrupt("a foreign key's action is unknown"))
    };
    Ok(ForeignKeyDefinition {
        referenced: TableId(decoder.u64()?),
        referenced_name: decoder.string()?,
        columns: read_numbers(decoder)?,
        referenced_index: decoder.varint_u32()?,
        on_update: action(decoder)?,
        on_delete: action(decoder)?,
        definition: decoder.string()?,
    })
}

fn put_optional(out: &mut Vec<u8>, text: Option<&str>) {
    out.push(text.is_some().into());
    if let Some(text) = text {
        put_bytes(out, text.as_bytes());
    }
}

fn read_optional(decoder: &mut Decoder<'_>) -> Result<Option<String>, DecodeError> {
    decoder.bool()?.then(|| decoder.string()).transpose()
}

fn put_numbers(out: &mut Vec<u8>, numbers: &[u16]) {
    put_varint(out, numbers.len() as u64);
    numbers.iter().for_each(|number| put_varint(out, (*number).into()));
}

fn read_numbers(decoder: &mut Decoder<'_>) -> Result<Vec<u16>, DecodeError> {
    read_list(decoder, MAX_COLUMNS, 1, Decoder::varint_u16)
}

/// `each`: the least bytes that an item takes, so that the vector made is never larger than a multiple of the input.
fn read_list<'a, T>(
    decoder: &mut Decoder<'a>,
    limit: usize,
    each: usize,
    mut read: impl FnMut(&mut Decoder<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = decoder.count(limit, each)?;
    (0..count).map(|_| read(decoder)).collect()
}
