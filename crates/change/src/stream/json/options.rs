//! The options of `json`: those of wal2json that mean something here, with its defaults, and what it lacks.

use crate::stream::OptionError;
use crate::stream::option::{boolean, without_identity, word};

pub(super) const NAMES: &[&str] = &[
    "include-xids",
    "include-timestamp",
    "include-origin",
    "include-lsn",
    "include-schemas",
    "include-types",
    "include-typmod",
    "include-type-oids",
    "include-table-oids",
    "include-domain-data-type",
    "include-column-positions",
    "include-not-null",
    "include-default",
    "include-pk",
    "include-transaction",
    "include-ids",
    "include-csn",
    "include-unchanged",
    "include-before",
    "row-objects",
    "numeric-data-types-as-string",
    "special-numbers",
    "without-identity",
    "format-version",
    "pretty-print",
    "write-in-chunks",
    "include-unchanged-toast",
    "actions",
    "filter-msg-prefixes",
    "add-msg-prefixes",
];

/// What is told, and how.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) include_xids: bool,
    pub(super) include_timestamp: bool,
    pub(super) include_origin: bool,
    pub(super) include_lsn: bool,
    pub(super) include_schemas: bool,
    pub(super) include_types: bool,
    pub(super) include_typmod: bool,
    pub(super) include_type_oids: bool,
    pub(super) include_table_oids: bool,
    pub(super) include_domain_data_type: bool,
    pub(super) include_column_positions: bool,
    pub(super) include_not_null: bool,
    pub(super) include_default: bool,
    pub(super) include_pk: bool,
    pub(super) include_transaction: bool,
    pub(super) include_ids: bool,
    pub(super) include_csn: bool,
    pub(super) include_unchanged: bool,
    pub(super) include_before: bool,
    /// Rows as objects: `new`, `old` and `key`, in place of `columns`, `identity` and `pk`.
    pub(super) row_objects: bool,
    /// Numbers in quotes.
    pub(super) numbers_as_strings: bool,
    /// NaN and the infinities as strings; otherwise as null, as JSON has no such numbers.
    pub(super) special_as_strings: bool,
    /// Changes of which nothing says which row they are of are not told, as wal2json does.
    pub(super) skip_without_identity: bool,
    /// The letters of the operations that are told; empty: all.
    pub(super) actions: Vec<u8>,
    /// Messages with these prefixes are not told.
    pub(super) filter_prefixes: Vec<Vec<u8>>,
    /// If there are any, those with others are not told either.
    pub(super) add_prefixes: Vec<Vec<u8>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            include_xids: false,
            include_timestamp: false,
            include_origin: false,
            include_lsn: false,
            include_schemas: true,
            include_types: true,
            include_typmod: true,
            include_type_oids: false,
            include_table_oids: false,
            include_domain_data_type: false,
            include_column_positions: false,
            include_not_null: false,
            include_default: false,
            include_pk: false,
            include_transaction: true,
            include_ids: false,
            include_csn: false,
            include_unchanged: false,
            include_before: false,
            row_objects: false,
            numbers_as_strings: false,
            special_as_strings: false,
            skip_without_identity: false,
            actions: Vec::new(),
            filter_prefixes: Vec::new(),
            add_prefixes: Vec::new(),
        }
    }
}

impl Options {
    pub(super) fn set(&mut self, option: &str, value: Option<&[u8]>) -> Result<(), OptionError> {
        let flag = match option {
            "include-xids" => &mut self.include_xids,
            "include-timestamp" => &mut self.include_timestamp,
            "include-origin" => &mut self.include_origin,
            "include-lsn" => &mut self.include_lsn,
            "include-schemas" => &mut self.include_schemas,
            "include-types" => &mut self.include_types,
            "include-typmod" => &mut self.include_typmod,
            "include-type-oids" => &mut self.include_type_oids,
            "include-table-oids" => &mut self.include_table_oids,
            "include-domain-data-type" => &mut self.include_domain_data_type,
            "include-column-positions" => &mut self.include_column_positions,
            "include-not-null" => &mut self.include_not_null,
            "include-default" => &mut self.include_default,
            "include-pk" => &mut self.include_pk,
            "include-transaction" => &mut self.include_transaction,
            "include-ids" => &mut self.include_ids,
            "include-csn" => &mut self.include_csn,
            "include-unchanged" => &mut self.include_unchanged,
            "include-before" => &mut self.include_before,
            "row-objects" => &mut self.row_objects,
            "numeric-data-types-as-string" => &mut self.numbers_as_strings,
            "special-numbers" => {
                self.special_as_strings = word(option, value, &["null", "string"])? == 1;
                return Ok(());
            }
            "without-identity" => {
                self.skip_without_identity = without_identity(option, value)?;
                return Ok(());
            }
            "actions" => {
                self.actions = actions(option, value)?;
                return Ok(());
            }
            "filter-msg-prefixes" => {
                self.filter_prefixes = list(value);
                return Ok(());
            }
            "add-msg-prefixes" => {
                self.add_prefixes = list(value);
                return Ok(());
            }
            _ => return foreign(option, value),
        };
        *flag = boolean(option, value)?;
        Ok(())
    }
}

impl Options {
    /// Whether a message with this prefix is told.
    pub(super) fn wants_message(&self, prefix: &[u8]) -> bool {
        let among = |list: &[Vec<u8>]| list.iter().any(|one| one == prefix);
        !among(&self.filter_prefixes) && (self.add_prefixes.is_empty() || among(&self.add_prefixes))
    }

    /// Whether an operation with this letter is told.
    pub(super) fn wants_action(&self, letter: u8) -> bool {
        self.actions.is_empty() || self.actions.contains(&letter)
    }
}

/// What stands between commas, without blanks around it.
fn list(value: Option<&[u8]>) -> Vec<Vec<u8>> {
    let items = value.unwrap_or_default().split(|byte| *byte == b',');
    items
        .map(|item| item.trim_ascii().to_vec())
        .filter(|item| !item.is_empty())
        .collect()
}

/// The letters of what is listed.
fn actions(option: &str, value: Option<&[u8]>) -> Result<Vec<u8>, OptionError> {
    let letter = |action: &Vec<u8>| match action.as_slice() {
        b"insert" => Ok(b'I'),
        b"update" => Ok(b'U'),
        b"delete" => Ok(b'D'),
        b"truncate" => Ok(b'T'),
        _ => Err(OptionError::invalid(
            option,
            Some(action),
            "It is a list of insert, update, delete and truncate.",
        )),
    };
    list(value).iter().map(letter).collect()
}

/// Options of wal2json for which there is one answer.
fn foreign(option: &str, value: Option<&[u8]>) -> Result<(), OptionError> {
    let refused = |message: &str, hint: &str| {
        Err(OptionError {
            message: message.into(),
            hint: hint.into(),
        })
    };
    match option {
        "format-version" if value.is_none_or(|value| value == b"2") => Ok(()),
        "format-version" => refused(
            "only format-version 2 is supported",
            "Format \"json\" tells each change in an object of its own, as format-version 2 of wal2json does.",
        ),
        "include-unchanged-toast" => refused(
            "option \"include-unchanged-toast\" is not supported",
            "Use \"include-unchanged\": it names the columns whose values did not change and are not in the WAL.",
        ),
        // pretty-print and write-in-chunks: of format-version 1, where version 2 has them do nothing.
        _ if boolean(option, value)? => refused(
            &format!("option \"{option}\" is not supported"),
            "It belongs to format-version 1 of wal2json; format \"json\" writes each object in one line.",
        ),
        _ => Ok(()),
    }
}
