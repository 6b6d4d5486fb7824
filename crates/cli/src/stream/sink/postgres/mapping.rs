//! Which table of the target a table of the source is, and how a row of it is told apart from those of other sources.

use synod_change::stream::Table;

use crate::failure::{Failure, sentence};
use crate::stream::source::{identifier, literal};

/// What the user wants.
#[derive(Clone, Debug, Default)]
pub struct Mapping {
    /// All tables are in this schema, unless they are renamed.
    pub schema: Option<String>,
    /// `schema.table` of the source to `schema.table` of the target.
    pub renamed: Vec<(String, String)>,
    /// A column of the target, and what it says for this source.
    pub source: Option<(String, String)>,
}

impl Mapping {
    /// From the options: `renames` are of the form `from=to`.
    pub fn new(schema: Option<&str>, renames: &[String], source: Option<(String, String)>) -> Result<Self, Failure> {
        let renamed = renames.iter().map(|rename| {
            let pair = rename
                .split_once('=')
                .filter(|(from, to)| from.contains('.') && to.contains('.'));
            pair.map(|(from, to)| (from.to_owned(), to.to_owned())).ok_or_else(|| {
                Failure::new(
                    "the renaming of a table cannot be understood",
                    sentence(&format!("\"{rename}\" is not of the form schema.table=schema.table")),
                    "",
                )
            })
        });
        Ok(Self {
            schema: schema.map(str::to_owned),
            renamed: renamed.collect::<Result<_, _>>()?,
            source,
        })
    }

    /// The table's name in the target, quoted.
    pub fn table(&self, table: &Table) -> String {
        let (schema, name) = (
            String::from_utf8_lossy(&table.schema),
            String::from_utf8_lossy(&table.name),
        );
        let here = format!("{schema}.{name}");
        if let Some((_, there)) = self.renamed.iter().find(|(from, _)| *from == here) {
            let (schema, name) = there.split_once('.').unwrap_or(("public", there));
            return format!("{}.{}", identifier(schema), identifier(name));
        }
        let schema = self.schema.as_deref().unwrap_or(&schema);
        format!("{}.{}", identifier(schema), identifier(&name))
    }

    /// The column of the source, quoted, and its value as a literal.
    pub fn source(&self) -> Option<(String, String)> {
        self.source
            .as_ref()
            .map(|(column, value)| (identifier(column), literal(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_found_in_the_target() {
        let table = |schema: &str, name: &str| Table {
            schema: schema.into(),
            name: name.into(),
            ..Table::default()
        };
        let mapping = Mapping::new(Some("all"), &["public.a=b.\"c".to_owned()], None).unwrap();
        assert_eq!(mapping.table(&table("public", "a")), "\"b\".\"\"\"c\"");
        assert_eq!(mapping.table(&table("s", "a")), "\"all\".\"a\"");
        assert_eq!(Mapping::default().table(&table("s", "a")), "\"s\".\"a\"");
        assert!(Mapping::new(None, &["a=b".to_owned()], None).is_err());
    }
}
