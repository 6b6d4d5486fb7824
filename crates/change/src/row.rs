//! Rows: values in group column order.

/// One column's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// Unchanged, and stored out of line: the receiver keeps what it has.
    Same,
    /// The type's text output, in UTF-8 by convention of the group.
    Text(&'a [u8]),
    /// The type's binary send format.
    Binary(&'a [u8]),
}

/// Where a value lies in the buffer of a reader.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cell {
    Null,
    Same,
    Text { start: usize, end: usize },
    Binary { start: usize, end: usize },
}

/// A row to write or a row read. Cheap to copy; what was read lives until the reader is asked for the next change.
#[derive(Clone, Copy)]
pub struct Row<'a>(Repr<'a>);

#[derive(Clone, Copy)]
enum Repr<'a> {
    Values(&'a [Value<'a>]),
    Cells { cells: &'a [Cell], data: &'a [u8] },
}

impl<'a> Row<'a> {
    /// A row of these values.
    #[must_use]
    pub const fn new(values: &'a [Value<'a>]) -> Self {
        Self(Repr::Values(values))
    }

    /// `cells` point into `data`.
    pub(crate) const fn from_cells(cells: &'a [Cell], data: &'a [u8]) -> Self {
        Self(Repr::Cells { cells, data })
    }

    /// How many columns.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self.0 {
            Repr::Values(values) => values.len(),
            Repr::Cells { cells, .. } => cells.len(),
        }
    }

    /// Whether it has no columns at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value at `index`, counted from 0.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        match self.0 {
            Repr::Values(values) => values.get(index).copied(),
            Repr::Cells { cells, data } => cells.get(index).map(|cell| match *cell {
                Cell::Null => Value::Null,
                Cell::Same => Value::Same,
                Cell::Text { start, end } => Value::Text(&data[start..end]),
                Cell::Binary { start, end } => Value::Binary(&data[start..end]),
            }),
        }
    }

    /// All values in order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let row = *self;
        (0..row.len()).map_while(move |index| row.get(index))
    }
}

impl<'a> From<&'a [Value<'a>]> for Row<'a> {
    fn from(values: &'a [Value<'a>]) -> Self {
        Self::new(values)
    }
}

impl PartialEq for Row<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Row<'_> {}

impl std::fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
