//! What has come from the server and has not gone into the sink yet: a queue bounded in bytes.
//!
//! One thread puts in, one takes out. A full queue holds the reader back, which leaves what follows in the socket and so,
//! through TCP, on the server, whose WAL keeps it: that is the back-pressure. An item larger than the bound is let in when
//! nothing else is there.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::failure::Failure;

/// What the reader passes on.
#[derive(Debug)]
pub enum Item {
    /// A message of the output plugin.
    Message(Vec<u8>),
    /// Everything that ends before this position has been passed on.
    Position(u64),
    /// The server has ended the stream, or the connection is lost.
    Lost(Failure),
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    limit: usize,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<Item>,
    bytes: usize,
}

/// What an item costs beside its bytes.
const ITEM_BYTES: usize = std::mem::size_of::<Item>();

fn cost(item: &Item) -> usize {
    match item {
        Item::Message(payload) => payload.capacity() + ITEM_BYTES,
        _ => ITEM_BYTES,
    }
}

impl Queue {
    /// For at most so many bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            inner: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait, at most this long, until there is room. Only the one who puts in may rely on the answer.
    pub fn has_room(&self, patience: Duration) -> bool {
        let full = |inner: &mut Inner| inner.bytes >= self.limit && !inner.items.is_empty();
        let waited = self.changed.wait_timeout_while(self.lock(), patience, full);
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !full(&mut inner)
    }

    /// Put one in; [`Self::has_room`] says whether that keeps the bound.
    pub fn put(&self, item: Item) {
        let mut inner = self.lock();
        // A later position replaces an earlier one: a silent server fills nothing.
        if let (Item::Position(new), Some(Item::Position(last))) = (&item, inner.items.back_mut()) {
            *last = (*last).max(*new);
            return;
        }
        inner.bytes += cost(&item);
        inner.items.push_back(item);
        self.changed.notify_all();
    }

    /// The next one, or `None` when none comes in this time.
    pub fn take(&self, patience: Duration) -> Option<Item> {
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), patience, |inner| inner.items.is_empty());
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let item = inner.items.pop_front()?;
        inner.bytes -= cost(&item);
        self.changed.notify_all();
        Some(item)
    }

    /// How many bytes wait.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.lock().bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn it_is_full_by_bytes_and_never_for_ever() {
        let queue = Queue::new(1_000);
        queue.put(Item::Message(vec![0; 5_000]));
        assert!(!queue.has_room(NOW), "more than the bound is in it");
        assert!(matches!(queue.take(NOW), Some(Item::Message(payload)) if payload.len() == 5_000));
        assert!(queue.has_room(NOW));
        assert_eq!(queue.bytes(), 0);
        assert!(queue.take(NOW).is_none());
    }

    #[test]
    fn positions_take_each_others_place_but_not_a_messages() {
        let queue = Queue::new(1_000);
        queue.put(Item::Position(1));
        queue.put(Item::Position(2));
        queue.put(Item::Message(vec![]));
        queue.put(Item::Position(3));
        assert!(matches!(queue.take(NOW), Some(Item::Position(2))));
        assert!(matches!(queue.take(NOW), Some(Item::Message(_))));
        assert!(matches!(queue.take(NOW), Some(Item::Position(3))));
    }
}
