//! The log worker's event loop.
