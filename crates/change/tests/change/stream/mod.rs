//! The change stream's formats.

mod binary;
mod made;
mod shop;
