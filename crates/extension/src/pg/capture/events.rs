//! Row events of a transaction: which row version came, which went, which row was locked. 32 bytes each, in memory up to a
//! bound, then in a temporary file of the server (which counts against `temp_file_limit` and goes with the transaction).

use pgrx::pg_sys;
use synod_change::KeyMode;

/// Events kept in memory: 16 MB.
const MEMORY_EVENTS: usize = (16 << 20) / std::mem::size_of::<Event>();
/// Events read at a time: 256 KB.
const READ_EVENTS: usize = (256 << 10) / std::mem::size_of::<Event>();

/// A row version's place: block and offset.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tid {
    /// Block number.
    pub block: u32,
    /// Offset number; 0: no tuple.
    pub offset: u16,
    /// 0; in the new version of a [row lock](Event::row_lock): what is locked.
    tag: u16,
}

impl Tid {
    /// No tuple.
    pub const NONE: Self = Self {
        block: 0,
        offset: 0,
        tag: 0,
    };

    /// From the server's form.
    pub fn new(pointer: pg_sys::ItemPointerData) -> Self {
        let block = u32::from(pointer.ip_blkid.bi_hi) << 16 | u32::from(pointer.ip_blkid.bi_lo);
        Self {
            block,
            offset: pointer.ip_posid,
            tag: 0,
        }
    }

    /// The server's form.
    pub fn pointer(self) -> pg_sys::ItemPointerData {
        pg_sys::ItemPointerData {
            ip_blkid: pg_sys::BlockIdData {
                bi_hi: (self.block >> 16) as u16,
                bi_lo: self.block as u16,
            },
            ip_posid: self.offset,
        }
    }

    /// Whether there is none.
    pub fn is_none(self) -> bool {
        self.offset == 0
    }
}

/// One row event. An insert has no old version, a delete no new one.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The table.
    pub relation: pg_sys::Oid,
    /// Who did it.
    pub subtransaction: pg_sys::SubTransactionId,
    /// The version that went.
    pub old: Tid,
    /// The version that came.
    pub new: Tid,
    /// Applied CSN when the trigger fired: later than the row lock.
    pub base: u64,
}

/// Tag of a row lock: this plus the [`KeyMode`].
const ROW_LOCK: u16 = 0x100;
/// Tag of a lock on a row of a table that has no hashable identity.
const ROW_LOCK_UNHASHED: u16 = 0x200;
/// Beside either: [`RowLock::held`].
const ROW_LOCK_HELD: u16 = 0x400;

/// A row that was locked, not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLock {
    /// The key that identifies the row; `None`: the table as a whole stands for it.
    pub hash: Option<u64>,
    /// How strongly.
    pub mode: KeyMode,
    /// As by a change of the row, which may come or not: it counts as far back as changes do.
    pub held: bool,
}

impl Event {
    /// A row that was locked. Its key is computed at once: a version that is only locked may be removed.
    pub fn of_lock(relation: pg_sys::Oid, subtransaction: pg_sys::SubTransactionId, lock: RowLock, base: u64) -> Self {
        let hash = lock.hash.unwrap_or_default();
        let kind = if lock.hash.is_some() {
            ROW_LOCK
        } else {
            ROW_LOCK_UNHASHED
        };
        Self {
            relation,
            subtransaction,
            old: Tid {
                block: (hash >> 32) as u32,
                offset: (hash >> 16) as u16,
                tag: hash as u16,
            },
            new: Tid {
                block: 0,
                offset: 0,
                tag: kind | lock.mode as u16 | if lock.held { ROW_LOCK_HELD } else { 0 },
            },
            base,
        }
    }

    /// The lock, if the event is one.
    pub fn row_lock(&self) -> Option<RowLock> {
        let kind = self.new.tag & (ROW_LOCK | ROW_LOCK_UNHASHED);
        if kind == 0 {
            return None;
        }
        let hash = u64::from(self.old.block) << 32 | u64::from(self.old.offset) << 16 | u64::from(self.old.tag);
        let mode = KeyMode::from_u8(self.new.tag as u8).unwrap_or(KeyMode::Update);
        Some(RowLock {
            hash: (kind == ROW_LOCK).then_some(hash),
            mode,
            held: self.new.tag & ROW_LOCK_HELD != 0,
        })
    }
}

const _: () = assert!(std::mem::size_of::<Event>() == 32);

/// All row events of a transaction, in the order in which the triggers fired.
pub struct EventLog {
    memory: Vec<Event>,
    file: *mut pg_sys::BufFile,
    in_file: u64,
    /// The file is not at its end: reading it, or writing to it, has failed on the way.
    mid_file: bool,
    /// Events that are no locks.
    writes: u64,
    relations: Vec<pg_sys::Oid>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            memory: Vec::new(),
            file: std::ptr::null_mut(),
            in_file: 0,
            mid_file: false,
            writes: 0,
            relations: Vec::new(),
        }
    }
}

impl EventLog {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether rows were written, not only locked.
    pub fn has_writes(&self) -> bool {
        self.writes > 0
    }

    /// How many rows were written.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.in_file + self.memory.len() as u64
    }

    /// The tables that were written.
    pub fn relations(&self) -> &[pg_sys::Oid] {
        &self.relations
    }

    /// Append.
    pub fn push(&mut self, event: Event) {
        if self.memory.len() >= MEMORY_EVENTS {
            self.spill();
        }
        if event.row_lock().is_none() {
            self.writes += 1;
            if !self.relations.contains(&event.relation) {
                self.relations.push(event.relation);
            }
        }
        self.memory.push(event);
    }

    fn spill(&mut self) {
        let bytes = std::mem::size_of_val(self.memory.as_slice());
        // SAFETY: inside a transaction. The file belongs to the top transaction, so that it outlives the subtransaction
        // that happens to spill; Event has no padding bytes and is plain data.
        unsafe {
            if self.file.is_null() {
                let (owner, context) = (pg_sys::CurrentResourceOwner, pg_sys::CurrentMemoryContext);
                pg_sys::CurrentResourceOwner = pg_sys::TopTransactionResourceOwner;
                pg_sys::CurrentMemoryContext = pg_sys::TopTransactionContext;
                let file = pg_sys::BufFileCreateTemp(false);
                pg_sys::CurrentResourceOwner = owner;
                pg_sys::CurrentMemoryContext = context;
                self.file = file;
            }
            if self.mid_file {
                self.seek(self.in_file);
            }
            self.mid_file = true;
            pg_sys::BufFileWrite(self.file, self.memory.as_mut_ptr().cast(), bytes);
            self.mid_file = false;
        }
        self.in_file += self.memory.len() as u64;
        self.memory.clear();
    }

    /// Forget the events at the end that this subtransaction made itself, so that a loop of failing ones costs nothing.
    pub fn drop_last_of(&mut self, subtransaction: pg_sys::SubTransactionId) {
        while let Some(last) = self.memory.pop_if(|event| event.subtransaction == subtransaction) {
            self.writes -= u64::from(last.row_lock().is_none());
        }
    }

    /// Visit all in order, with their numbers. Nothing is added meanwhile.
    pub fn visit<E>(&mut self, mut visitor: impl FnMut(u64, &Event) -> Result<(), E>) -> Result<(), E> {
        let mut number = 0;
        if self.in_file > 0 {
            self.seek(0);
            let blank = Event {
                relation: pg_sys::InvalidOid,
                subtransaction: 0,
                old: Tid::NONE,
                new: Tid::NONE,
                base: 0,
            };
            let mut buffer = vec![blank; READ_EVENTS];
            while number < self.in_file {
                let count = (self.in_file - number).min(READ_EVENTS as u64) as usize;
                self.read(&mut buffer[..count]);
                for event in &buffer[..count] {
                    visitor(number, event)?;
                    number += 1;
                }
            }
            self.mid_file = false;
        }
        for event in &self.memory {
            visitor(number, event)?;
            number += 1;
        }
        Ok(())
    }

    /// To the event with this number, or the end.
    fn seek(&mut self, number: u64) {
        const SEEK_SET: i32 = 0;
        /// Of each of the files that a BufFile consists of (buffile.c).
        const FILE_BYTES: u64 = 1 << 30;
        let at = number * std::mem::size_of::<Event>() as u64;
        let (file, offset) = ((at / FILE_BYTES) as i32, (at % FILE_BYTES) as i64);
        // SAFETY: a valid file; seeking flushes what was written.
        unsafe {
            if pg_sys::BufFileSeek(self.file, file, offset, SEEK_SET) != 0 {
                pgrx::error!("could not seek in the temporary file of captured changes");
            }
        }
        self.mid_file = number < self.in_file;
    }

    fn read(&mut self, buffer: &mut [Event]) {
        let bytes = std::mem::size_of_val(buffer);
        // SAFETY: a valid file; every bit pattern is a valid Event.
        let read = unsafe { pg_sys::BufFileRead(self.file, buffer.as_mut_ptr().cast(), bytes) };
        if read != bytes {
            pgrx::error!("could not read the temporary file of captured changes: read {read} of {bytes} bytes");
        }
    }

    /// Close the file, before commit. (After an error the resource owner does it.)
    pub fn close(&mut self) {
        if !self.file.is_null() {
            // SAFETY: a valid file, not used again.
            unsafe { pg_sys::BufFileClose(self.file) }
            self.file = std::ptr::null_mut();
        }
    }
}
