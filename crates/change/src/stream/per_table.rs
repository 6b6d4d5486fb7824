//! What a format has worked out for each table.

use std::collections::HashMap;

/// By [`super::Table::version`]. The one that was asked for last is at hand: rows of one table tend to follow each other.
pub(super) struct PerTable<T> {
    last: Option<(u64, Box<T>)>,
    others: HashMap<u64, Box<T>>,
}

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
