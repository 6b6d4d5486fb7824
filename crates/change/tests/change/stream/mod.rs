//! The change stream's formats.

mod binary;
mod clean;
mod json;
mod keys;
mod made;
mod shop;
mod sql;
