//! What a format has worked out for each table.

use std::collections::HashMap;

/// By [`super::Table::version`]. The one that was asked for last is at hand: rows of one table tend to follow each other.
pub(super) struct PerTable<T> {
    last: Option<(u64, Box<T>)>,
    others: HashMap<u64, Box<T>>,
}

/// Whoever reads a stream hears of new versions (each VACUUM of a table makes one), and not that old ones are gone. What is forgotten
/// and still needed is worked out again.
const MOST: usize = 4096;

impl<T> Default for PerTable<T> {
    fn default() -> Self {
        Self {
            last: None,
            others: HashMap::new(),
        }
    }
}

impl<T> PerTable<T> {
    /// That of `version`, made if there is none.
    pub(super) fn get(&mut self, version: u64, make: impl FnOnce() -> T) -> &T {
        if let Some((other, worked_out)) = self.last.take_if(|(last, _)| *last != version) {
            if self.others.len() >= MOST {
                self.others.clear();
            }
            self.others.insert(other, worked_out);
        }
        let others = &mut self.others;
        let (_, worked_out) = self
            .last
            .get_or_insert_with(|| (version, others.remove(&version).unwrap_or_else(|| Box::new(make()))));
        worked_out
    }

    pub(super) fn forget(&mut self, version: u64) {
        self.others.remove(&version);
        if self.last.as_ref().is_some_and(|(last, _)| *last == version) {
            self.last = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that follows for months had what it worked out for every version that there ever was.
    #[test]
    fn versions_that_nobody_says_are_gone_do_not_pile_up() {
        let mut tables = PerTable::default();
        for version in 0..20_000_u64 {
            assert_eq!(*tables.get(version, || version), version);
            assert_eq!(*tables.get(version / 2, || version / 2), version / 2);
        }
        assert!(tables.others.len() <= 5_000, "{} are kept", tables.others.len());
    }
}
