//! Sequences of the group: each node gives out values of its own range, and asks for the next one before it is used up.
//!
//! `nextval` is the server's own and knows nothing of it: the sequence is put at the beginning of a range, and goes up to its
//! end. Three things keep it there:
//! - before a statement that may draw values, there must be room for it and for all others at work ([`ensure`], `reservations`);
//! - before a commit, a sequence that has passed its end is noticed ([`settle`]), also one that was moved on since: the group grants
//!   the values behind the end after the fact, if it has not granted them to another node; if it has, a transaction that may have
//!   some of them fails with 40001, whether it has them in its rows, or was only told them (`SELECT nextval()`), or the session still has
//!   some in store (CACHE). What a transaction was told that is rolled back nobody vouches for;
//! - unique keys are certified like any others.
//!
//! One session of a node at a time asks for a range (a lock of the server's lock manager, so that it ends with whoever
//! holds it).

use std::sync::atomic::Ordering;

use pgrx::{PgSqlErrorCode, pg_sys};
use synod_change::{Grant, Key, KeyMode, Service, table_key};

use super::grants::{self, Feed};
use super::{draws, reservations};
use crate::errors::UserError;
use crate::local_key::LocalKey;
use crate::pg::range_table::Range;
use crate::pg::relation;
use crate::pg::relcache::qualified;
use crate::pg::sequence::{Sequence, State};
use crate::pg::shmem::NodeShared;
use crate::pg::{capture, submit};

/// A range that lasted less than this is followed by one of twice its size.
const QUICK_US: u64 = 1_000_000;
/// One that lasted longer than this, by one of half its size, down to what is set.
const SLOW_US: u64 = 10_000_000;
/// Ranges grow to this multiple of what is set.
const GROWTH: u64 = 1024;
/// A range has at most this part of all values of the sequence.
const PART: u64 = 64;
/// What a statement may want at once, however many rows the planner expects of it.
const MOST_NEEDED: u64 = 1 << 20;
/// Values left to sessions that draw between our look and our own draw.
const SPARE: u64 = 128;
/// Attempts that lose to a change of the table.
const ATTEMPTS: usize = 4;

/// Make sure that this node may give out `need` more values of a sequence of the group, whatever other sessions draw meanwhile.
pub fn ensure(node: &'static NodeShared, oid: pg_sys::Oid, need: u64) -> Result<(), UserError> {
    let drawn = Sequence::is_in_use(oid);
    let Some(sequence) = Sequence::open(oid) else {
        return Ok(());
    };
    make_room_for(node, &sequence, need, drawn)
}

/// `drawn`: the transaction may have drawn from it before.
fn make_room_for(node: &'static NodeShared, sequence: &Sequence, need: u64, drawn: bool) -> Result<(), UserError> {
    // Before anything moves on: what this transaction has drawn behind the end may be what becomes void here. If it has drawn nothing,
    // what becomes void is not its own: values that setval has skipped, say.
    if drawn {
        remember(node, sequence);
    }
    make_room(node, sequence, need)?;
    remember(node, sequence);
    Ok(())
}

/// The transaction draws from the sequence from here on, unless it does already.
fn remember(node: &NodeShared, sequence: &Sequence) {
    if let Some(void) = sequence.look(|_| node.ranges.last_void(sequence.oid())) {
        reservations::remember(sequence.oid(), void.number, sequence.cache() > 1);
    }
}

fn make_room(node: &'static NodeShared, sequence: &Sequence, need: u64) -> Result<(), UserError> {
    let oid = sequence.oid();
    let usual = usual_size(node, sequence);
    let need = need.min(MOST_NEEDED).min((span(sequence) / PART).max(1)) + sequence.cache();
    let (spare, ahead) = ((usual / 10).min(SPARE), usual / 4);
    reservations::reserve(oid, need);
    let wanted = || reservations::total(oid).max(need);
    let (need, have) = (wanted(), room(node, sequence));
    if have >= need + ahead || capture::has_for_itself(oid) {
        return Ok(());
    }
    if draws::is_renumbered(oid, &feeds_of(oid)) {
        // What is drawn behind the end is noticed before the commit.
        return if have > 0 { Ok(()) } else { Err(renumbered(oid)) };
    }
    let urgent = have < need + spare;
    if !urgent && !node.quorum.load(Ordering::Relaxed) {
        return Ok(());
    }
    let Some(_lock) = RefillLock::take(oid, urgent) else {
        return Ok(());
    };
    let need = wanted();
    if room(node, sequence) >= need + ahead {
        return Ok(());
    }
    if !refill(node, sequence, need + ahead)? && room(node, sequence) == 0 && nothing_left(sequence) {
        exhaust(node, sequence);
    }
    Ok(())
}

/// The transaction may draw from here on, or from any other sequence: as [`ensure`] for a value or two, but no lock stays.
pub fn ensure_briefly(node: &'static NodeShared, oid: pg_sys::Oid) -> Result<(), UserError> {
    let drawn = Sequence::is_in_use(oid);
    let Some(sequence) = Sequence::open_briefly(oid) else {
        return Ok(());
    };
    let need = 1 + sequence.cache();
    if room(node, &sequence) < need + usual_size(node, &sequence) / 4 {
        return make_room_for(node, &sequence, 1, drawn);
    }
    remember(node, &sequence);
    Ok(())
}

/// Before a commit that used the sequence: what was given out behind the end of the range must become this node's, or not be in
/// the transaction's rows. `has` says whether a value from the one to the other may be in one of them.
pub fn settle(
    node: &'static NodeShared,
    oid: pg_sys::Oid,
    has: impl FnOnce(i64, i64) -> bool,
) -> Result<(), UserError> {
    let Some(sequence) = Sequence::open(oid) else {
        return Ok(());
    };
    if capture::has_for_itself(oid) {
        return Ok(());
    }
    if overrun(node, &sequence).is_some() {
        if draws::is_renumbered(oid, &feeds_of(oid)) {
            return Err(renumbered(oid));
        }
        let _lock = RefillLock::take(oid, true);
        while overrun(node, &sequence).is_some() {
            if !refill(node, &sequence, 1)? {
                return Err(taken_by_others(oid));
            }
        }
    }
    // Behind the look at the end: whoever has moved on in between, away from what he was not granted, has noted that.
    let Some(void) = sequence.look(|_| node.ranges.last_void(oid)) else {
        return Ok(());
    };
    let lost = match reservations::voids_since(oid, void.number) {
        None | Some(0) => false,
        Some(1) => has(void.run.first, void.run.last),
        // Only the last run is known.
        Some(_) => true,
    };
    if !lost {
        return Ok(());
    }
    if sequence.cache() > 1 {
        // Or the next transactions would get what is left of them.
        crate::pg::sequence::forget_stored_values();
        reservations::forget_stored();
    }
    Err(taken_by_others(oid))
}

/// Before the commit of a transaction: what it drew beside what is in the rows that it inserted. The client may have been told it, and
/// may give it to others. Of the sequences that it could have drawn from, those that it did draw from are locked by it: the others, which
/// may be many, are nothing to it, whatever happens to them.
pub fn settle_drawn(node: &'static NodeShared, settled: &[pg_sys::Oid]) -> Result<(), UserError> {
    if !reservations::is_by_hand() {
        return Ok(());
    }
    for oid in reservations::drawn() {
        if !settled.contains(&oid) && Sequence::is_in_use(oid) {
            settle(node, oid, |_, _| true)?;
        }
    }
    Ok(())
}

/// How many values are left, from the next one to the end of the range; 0 when the next one is outside.
fn room(node: &NodeShared, sequence: &Sequence) -> u64 {
    sequence.look(|state| {
        let next = sequence.next(state);
        match node.ranges.get(sequence.oid()) {
            Some(range) if !sequence.precedes(next, range.first) => sequence.count(next, range.last),
            _ => 0,
        }
    })
}

/// The range, and the last value used, if that lies behind its end.
fn overrun(node: &NodeShared, sequence: &Sequence) -> Option<(Range, i64)> {
    sequence.look(|state| {
        let range = node.ranges.get(sequence.oid())?;
        let over = state.is_called && sequence.precedes(range.last, state.last_value);
        over.then_some((range, state.last_value))
    })
}

/// The values that were given out behind the end of the range.
fn over(sequence: &Sequence, range: Option<Range>, state: State) -> Option<Range> {
    let first = range?.last.checked_add(sequence.increment())?;
    (state.is_called && !sequence.precedes(state.last_value, first)).then_some(Range {
        first,
        last: state.last_value,
    })
}

/// How many values the sequence has at all.
fn span(sequence: &Sequence) -> u64 {
    let values = i128::from(sequence.greatest()) - i128::from(sequence.least());
    u64::try_from(values / i128::from(sequence.increment()).abs()).unwrap_or(u64::MAX)
}

/// How many values to ask for, by how long the last ones lasted.
fn usual_size(node: &NodeShared, sequence: &Sequence) -> u64 {
    let set = crate::settings::SEQUENCE_RANGE.get().max(1) as u64;
    let size = match node.ranges.last_grant(sequence.oid()) {
        None => set,
        Some((size, granted_us)) => match submit::now_us().saturating_sub(granted_us) {
            ..QUICK_US => size.saturating_mul(2),
            QUICK_US..SLOW_US => size,
            _ => size / 2,
        },
    };
    size.clamp(set, set.saturating_mul(GROWTH))
        .min((span(sequence) / PART).max(1))
}

/// Ask for the next range and go there. False when nothing is left.
fn refill(node: &'static NodeShared, sequence: &Sequence, need: u64) -> Result<bool, UserError> {
    let count = usual_size(node, sequence).max(need);
    // What was given out behind the end first, if no other node has it.
    if let Some((range, used)) = overrun(node, sequence)
        && let Some(first) = range.last.checked_add(sequence.increment())
    {
        let count = sequence.count(first, used).saturating_add(count);
        if ask(node, sequence, first, count, true)?.is_some() {
            return Ok(true);
        }
    }
    let (range, next) = sequence.look(|state| (node.ranges.get(sequence.oid()), sequence.next(state)));
    // Behind the end of the range it could go on without a gap; a position outside was set by the user.
    let inside = |range: &Range| !sequence.precedes(next, range.first) && !sequence.precedes(range.last, next);
    let first = match range.filter(inside) {
        Some(range) => range.last.saturating_add(sequence.increment()),
        None => next,
    };
    Ok(ask(node, sequence, first, count, false)?.is_some())
}

/// Ask the group, and take what it grants into use.
fn ask(
    node: &'static NodeShared,
    sequence: &Sequence,
    first: i64,
    count: u64,
    exact: bool,
) -> Result<Option<Range>, UserError> {
    let mut attempts = 0;
    let (feed, csn) = loop {
        attempts += 1;
        // Anew each time: what we lose to may be a change of the columns.
        let feeds = current_feeds(sequence.oid());
        let Some(feed) = feeds.first().copied() else {
            return Ok(None);
        };
        let grant = Grant {
            feeds: feeds.clone(),
            first,
            count,
            increment: sequence.increment(),
            least: sequence.least(),
            greatest: sequence.greatest(),
            cycle: sequence.cycles(),
            exact,
        };
        match super::call(node, Service::Grant(grant), keys(node, &feeds)) {
            // Who draws by nextval alone has no lock on the table: what was asked for may have been another column's, by a number
            // that had changed a moment ago. Nobody uses it then.
            Ok(csn) if current_feeds(sequence.oid()) == feeds => break (feed, csn),
            Ok(_) if attempts < ATTEMPTS => {}
            Ok(_) => return Ok(None),
            // A TRUNCATE, say; one that tells us to give way comes again at once.
            Err(error) if error.code == PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE && attempts < ATTEMPTS => {}
            Err(error) => return Err(error),
        }
    };
    let Some(granted) = grants::granted_at(feed, node.node_id.load(Ordering::Relaxed), csn) else {
        return Ok(None);
    };
    take_into_use(node, sequence, granted, count);
    Ok(Some(granted))
}

fn keys(node: &NodeShared, feeds: &[Feed]) -> Vec<LocalKey> {
    let base = node.applied.load(Ordering::SeqCst);
    let key = |(table, _): &Feed| LocalKey {
        key: Key {
            hash: table_key(*table),
            mode: KeyMode::KeyShare,
        },
        base,
    };
    feeds.iter().map(key).collect()
}

/// Go on in the range: without a step if it follows the one in use.
fn take_into_use(node: &NodeShared, sequence: &Sequence, granted: Range, size: u64) {
    let now = submit::now_us();
    sequence.change(|state| {
        let current = node.ranges.get(sequence.oid());
        let follows = current.filter(|current| {
            current.last.checked_add(sequence.increment()) == Some(granted.first)
                && !sequence.precedes(sequence.next(state), current.first)
                && (state.is_called || !sequence.precedes(granted.last, state.last_value))
        });
        let (range, change) = match follows {
            Some(current) => (
                Range {
                    first: current.first,
                    ..granted
                },
                None,
            ),
            None => {
                if let Some(run) = over(sequence, current, state) {
                    node.ranges.note_void(sequence.oid(), run);
                }
                let change = State {
                    last_value: granted.first,
                    is_called: false,
                };
                (granted, Some(change))
            }
        };
        node.ranges.set(sequence.oid(), range, size, now);
        ((), change)
    });
}

/// Whether the group has no value left to grant. That nothing came of asking may have other reasons: the sequence is no
/// longer the group's, or has begun again.
fn nothing_left(sequence: &Sequence) -> bool {
    let feeds = feeds_of(sequence.oid());
    if feeds.is_empty() {
        return false;
    }
    let one = Grant {
        first: sequence.look(|state| sequence.next(state)),
        feeds,
        count: 1,
        increment: sequence.increment(),
        least: sequence.least(),
        greatest: sequence.greatest(),
        cycle: sequence.cycles(),
        exact: false,
    };
    one.range(grants::granted(&one.feeds)).is_none()
}

/// All values were granted, the rest of them to others: `nextval` shall say so. The entry stays, for what was given out behind its end.
fn exhaust(node: &NodeShared, sequence: &Sequence) {
    let end = if sequence.increment() > 0 {
        sequence.greatest()
    } else {
        sequence.least()
    };
    let oid = sequence.oid();
    let now = submit::now_us();
    sequence.change(|state| {
        if let Some(run) = over(sequence, node.ranges.get(oid), state) {
            node.ranges.note_void(oid, run);
        }
        let nothing = Range {
            first: end.saturating_add(sequence.increment()),
            last: end,
        };
        let size = node.ranges.last_grant(oid).map_or(1, |(size, _)| size);
        node.ranges.set(oid, nothing, size, now);
        let change = State {
            last_value: end,
            is_called: true,
        };
        ((), Some(change))
    });
}

/// The columns that a sequence feeds.
pub fn feeds_of(sequence: pg_sys::Oid) -> Vec<Feed> {
    relation::group_sequences().get(&sequence).cloned().unwrap_or_default()
}

/// As [`feeds_of`], with all that is applied here.
fn current_feeds(sequence: pg_sys::Oid) -> Vec<Feed> {
    // SAFETY: inside a transaction, where the server itself does it whenever it locks a relation.
    unsafe { pg_sys::AcceptInvalidationMessages() }
    feeds_of(sequence)
}

/// Nobody on this node asks for a range of the sequence until the transaction ends, and nobody is asking.
pub fn keep_from_asking(sequence: pg_sys::Oid) {
    std::mem::forget(RefillLock::take(sequence, true));
}

fn name_of(oid: pg_sys::Oid) -> String {
    crate::pg::relcache::Relation::open(oid)
        .map_or_else(String::new, |relation| qualified(&relation.schema(), &relation.name()))
}

fn renumbered(oid: pg_sys::Oid) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!(
            "cannot take more values of sequence {} in a transaction that dropped a column",
            name_of(oid)
        ),
        "The group knows by the numbers of columns what it has granted, and the other nodes have yet to hear of the new ones.",
        "Commit the change of the table first.",
    )
}

fn taken_by_others(oid: pg_sys::Oid) -> UserError {
    let name = name_of(oid);
    UserError::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        format!("other nodes have used the same values of sequence {name}"),
        "The transaction took more values of it than had been granted to this node. It has more now.",
        "Retry the transaction. Before a large load, raise synod.sequence_range.",
    )
}

/// Held by the session that asks for a range of a sequence; released on drop, or by abort.
struct RefillLock(pg_sys::LOCKTAG);

impl RefillLock {
    /// `None` when another session has it and we need not wait.
    fn take(sequence: pg_sys::Oid, wait: bool) -> Option<Self> {
        // SAFETY: reads this process' own global; a lock of the user's method, in a class that nobody else uses.
        unsafe {
            let tag = pg_sys::LOCKTAG {
                locktag_field1: pg_sys::MyDatabaseId.into(),
                locktag_field2: sequence.into(),
                locktag_field3: 0,
                locktag_field4: 0,
                locktag_type: pg_sys::LockTagType::LOCKTAG_USERLOCK as u8,
                locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
            };
            let result = pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as i32, false, !wait);
            // Not `then_some`: that makes one to drop, which would release what is not held.
            (result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL).then(|| Self(tag))
        }
    }
}

impl Drop for RefillLock {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: taken in `take`.
            unsafe { pg_sys::LockRelease(&self.0, pg_sys::ExclusiveLock as i32, false) };
        }
    }
}
