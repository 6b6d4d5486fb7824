//! Deliberate faults.
/// A fault that the tests must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// An acknowledgement leaves before its records are durable.
    AckBeforeFsync,
}
