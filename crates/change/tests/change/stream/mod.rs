//! The change stream's formats.

mod binary;
mod clean;
mod json;
mod made;
mod shop;
