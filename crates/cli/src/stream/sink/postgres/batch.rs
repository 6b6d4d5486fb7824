//! Statements for the target, many in one message, and what each must come to.

use super::statement::Statement;

/// Statements that wait to be sent together.
#[derive(Debug, Default)]
pub struct Batch {
    /// Their text.
    pub sql: String,
    /// The head of the INSERT that the text ends with, and its tuples.
    insert: Option<(String, u64)>,
    /// Rows that each statement must affect.
    pub expected: Vec<Option<u64>>,
}

impl Batch {
    /// One more.
    pub fn add(&mut self, statement: Statement) {
        match statement {
            Statement::Insert { head, tuple } => match &mut self.insert {
                Some((last, count)) if *last == head => {
                    *count += 1;
                    self.sql.push_str(", ");
                    self.sql.push_str(&tuple);
                }
                _ => {
                    self.end_insert();
                    self.sql.push_str(&head);
                    self.sql.push_str(&tuple);
                    self.insert = Some((head, 1));
                }
            },
            Statement::Run { sql, rows } => self.add_sql(&sql, Some(rows)),
            Statement::Several(statements) => statements.iter().for_each(|sql| self.add_sql(sql, None)),
            Statement::Nothing => {}
        }
    }

    fn add_sql(&mut self, sql: &str, rows: Option<u64>) {
        self.end_insert();
        self.sql.push_str(sql);
        self.sql.push_str(";\n");
        self.expected.push(rows);
    }

    /// The text is whole from here on.
    pub fn end_insert(&mut self) {
        if let Some((_, count)) = self.insert.take() {
            self.sql.push_str(";\n");
            self.expected.push(Some(count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_table_become_one_statement() {
        let insert = |head: &str, tuple: &str| Statement::Insert {
            head: head.into(),
            tuple: tuple.into(),
        };
        let mut batch = Batch::default();
        batch.add(insert("A ", "(1)"));
        batch.add(insert("A ", "(2)"));
        batch.add(Statement::Nothing);
        batch.add(insert("B ", "(3)"));
        batch.add(Statement::Run {
            sql: "C".into(),
            rows: 1,
        });
        batch.add(Statement::Several(vec!["D".into(), "E".into()]));
        batch.add(insert("A ", "(4)"));
        batch.end_insert();
        assert_eq!(batch.sql, "A (1), (2);\nB (3);\nC;\nD;\nE;\nA (4);\n");
        assert_eq!(batch.expected, [Some(2), Some(1), Some(1), None, None, Some(1)]);
    }
}
