//! What a reader of the change stream asks for: format, filters, shape. Pure; `pg/decode` carries it out.

pub mod options;

pub use options::Options;
