//! What travels must arrive as it was sent, whatever is damaged must be noticed, and no bytes may panic.

mod body;
mod copy_line;
mod definition;
mod deform;
mod fixtures;
mod key;
mod made;
mod nested;
mod own_message;
mod record;
mod record_message;
mod service;
mod stored_row;
mod stream;
mod stream_filters;
