//! The options of an output plugin, as `pg_logical_slot_get_changes` and `START_REPLICATION` pass them: names with values, all text.
//!
//! What a reader mistypes, gives twice or borrows from another plugin is an error that names what there is: an option ignored
//! would be a stream of something else than was asked for.

use pgrx::PgSqlErrorCode;
use synod_change::stream::filters::{self, Filters, Origins};
use synod_change::stream::option::boolean;
use synod_change::stream::{Environment, FORMATS, Format, OptionError, new_format};

use crate::errors::UserError;

/// An option as given.
pub type Given = (String, Option<Vec<u8>>);

/// What a reader asked for.
pub struct Options {
    /// How it is told.
    pub format: Box<dyn Format>,
    /// The name of that.
    pub format_name: String,
    /// Transactions that changed nothing that the reader is told are not told either.
    pub skip_empty: bool,
    /// A message may hold several events of a transaction, a line or more each.
    pub join_messages: bool,
    /// Which tables, columns, rows, operations, origins; and how they are masked.
    pub filters: Filters,
    /// Rows of partitions are told as rows of the table that they are partitions of.
    pub publish_via_root: bool,
    /// Rows that are written by a rewrite of their table, too.
    pub include_rewrites: bool,
    /// Transactions in progress, when they are large.
    pub stream_changes: bool,
    /// Who made a transaction.
    pub include_context: bool,
    /// Changes of definitions.
    pub include_ddl: bool,
    /// Rows of these tables only, by `pg_class.oid`: whatever they are called.
    pub only_relations: Option<Vec<u32>>,
}

/// Those of all formats.
const OPTIONS: [&str; 10] = [
    "format",
    "include-context",
    "include-ddl",
    "join-messages",
    "only-relations",
    "skip-empty-xacts",
    "only-local",
    "include-rewrites",
    "stream-changes",
    "publish-via-root",
];

/// Those that wal2json has under other names, for its format: ours.
const OF_WAL2JSON: [(&str, &str); 4] = [
    ("add-tables", "include-tables"),
    ("filter-tables", "exclude-tables"),
    ("actions", "operations"),
    ("filter-origins", "origins"),
];

impl Options {
    /// Read them.
    pub fn parse(given: &[Given], environment: Environment) -> Result<Self, UserError> {
        refuse_repeated(given)?;
        refuse_both(given)?;
        let mut options = Self::new(given, environment)?;
        for (name, value) in given {
            options
                .set(name, value.as_deref())
                .map_err(|error| UserError::new(INVALID, error.message, "", error.hint))?;
        }
        options
            .format
            .check()
            .map_err(|error| UserError::new(INVALID, error.message, "", error.hint))?;
        if options.stream_changes && !options.format.tells_open_transactions() {
            return Err(UserError::new(
                INVALID,
                format!(
                    "format \"{}\" cannot tell of transactions in progress",
                    options.format_name
                ),
                "",
                "Leave out \"stream-changes\": each transaction is told when it has been committed.",
            ));
        }
        Ok(options)
    }

    /// What becomes of a prepared transaction is told, perhaps after a restart, when nobody knows whether there was anything to tell of it.
    /// So it is told itself, even if it is empty; not by `text`, as `test_decoding` does not.
    pub fn tells_empty_prepared(&self) -> bool {
        self.format_name != "text"
    }

    fn new(given: &[Given], environment: Environment) -> Result<Self, UserError> {
        let asked = given.iter().find(|(name, _)| name == "format");
        let name = match asked {
            None => "text".to_owned(),
            Some((_, value)) => String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned(),
        };
        let Some(format) = new_format(&name, environment) else {
            return Err(UserError::new(
                INVALID,
                format!("unknown format \"{name}\""),
                "",
                format!("Formats are: {}.", FORMATS.join(", ")),
            ));
        };
        Ok(Self {
            format,
            skip_empty: name != "text" && name != "json",
            format_name: name,
            join_messages: false,
            filters: Filters::default(),
            publish_via_root: false,
            include_rewrites: false,
            stream_changes: false,
            include_context: false,
            include_ddl: false,
            only_relations: None,
        })
    }

    fn set(&mut self, name: &str, value: Option<&[u8]>) -> Result<(), OptionError> {
        // In `test_decoding` the name alone of these changes nothing.
        let named = |value: Option<&[u8]>| Ok(value.is_some() && boolean(name, value)?);
        match name {
            "format" => {}
            "skip-empty-xacts" => self.skip_empty = boolean(name, value)?,
            "only-local" if boolean(name, value)? => self.filters.origins = Origins::None,
            "only-local" => {}
            "publish-via-root" => self.publish_via_root = boolean(name, value)?,
            "include-rewrites" => self.include_rewrites = named(value)?,
            "stream-changes" => self.stream_changes = named(value)?,
            "include-context" => self.include_context = boolean(name, value)?,
            "include-ddl" => self.include_ddl = boolean(name, value)?,
            "join-messages" => self.join_messages = boolean(name, value)?,
            "only-relations" => self.only_relations = Some(oids(name, value)?),
            _ if self.format.options().contains(&name) => self.format.set(name, value)?,
            _ if OF_WAL2JSON.iter().any(|(theirs, _)| *theirs == name) && self.format_name != "json" => {
                return Err(self.unknown(name, value));
            }
            _ if self.filters.set(name, value)? => {}
            _ => return Err(self.unknown(name, value)),
        }
        Ok(())
    }

    fn unknown(&self, name: &str, value: Option<&[u8]>) -> OptionError {
        let value = value.map_or("(null)".into(), String::from_utf8_lossy);
        let of_format = self.format.options().iter().chain(&filters::OPTIONS);
        let mut valid: Vec<&str> = OPTIONS.iter().chain(of_format).copied().collect();
        valid.sort_unstable();
        let ours = OF_WAL2JSON.iter().find(|(theirs, _)| *theirs == name);
        let instead = ours.map_or(String::new(), |(_, ours)| {
            format!(
                "It is an option of wal2json; format \"{}\" calls it \"{ours}\". ",
                self.format_name
            )
        });
        let valid = valid.join(", ");
        OptionError {
            message: format!("option \"{name}\" = \"{value}\" is unknown"),
            hint: format!("{instead}Options of format \"{}\" are: {valid}.", self.format_name),
        }
    }
}

/// Numbers with commas between them.
fn oids(name: &str, value: Option<&[u8]>) -> Result<Vec<u32>, OptionError> {
    let text = String::from_utf8_lossy(value.unwrap_or_default());
    let numbers = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let numbers: Result<Vec<u32>, _> = numbers.map(str::parse).collect();
    numbers.map_err(|_| {
        OptionError::invalid(
            name,
            value,
            "Give OIDs of tables with commas between them: 16384,16390.",
        )
    })
}

const INVALID: PgSqlErrorCode = PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE;

fn refuse_repeated(given: &[Given]) -> Result<(), UserError> {
    for (at, (name, _)) in given.iter().enumerate() {
        if given[..at].iter().any(|(before, _)| before == name) {
            return Err(UserError::new(
                INVALID,
                format!("option \"{name}\" is given more than once"),
                "",
                "Give each option once.",
            ));
        }
    }
    Ok(())
}

/// Options that say the same thing twice, and may differ.
fn refuse_both(given: &[Given]) -> Result<(), UserError> {
    let has = |option: &str| given.iter().any(|(name, _)| name == option);
    let pairs = [("only-local", "origins")].iter().chain(&OF_WAL2JSON);
    for (one, other) in pairs {
        if has(one) && has(other) {
            return Err(UserError::new(
                INVALID,
                format!("options \"{one}\" and \"{other}\" contradict each other"),
                "Both say the same thing.",
                format!("Give \"{other}\" alone."),
            ));
        }
    }
    Ok(())
}
