//! What clients saw, recorded while it happened, and checkers that judge it afterwards.
//!
//! - [`counter`]: a strict checker for strong reads on counters;
//! - [`list_append`]: histories of transactions on lists, judged by `adya` and by a direct check of the final lists.

pub mod counter;
pub mod list_append;
