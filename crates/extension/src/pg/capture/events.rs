//! Row events of a transaction: which row version came, which went. 32 bytes each, in memory up to a bound, then in a
//! temporary file of the server (which counts against `temp_file_limit` and goes with the transaction).

use pgrx::pg_sys;

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
    padding: u16,
}

impl Tid {
    /// No tuple.
    pub const NONE: Self = Self {
        block: 0,
        offset: 0,
        padding: 0,
    };

    /// From the server's form.
    pub fn new(pointer: pg_sys::ItemPointerData) -> Self {
        let block = u32::from(pointer.ip_blkid.bi_hi) << 16 | u32::from(pointer.ip_blkid.bi_lo);
        Self {
            block,
            offset: pointer.ip_posid,
            padding: 0,
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

const _: () = assert!(std::mem::size_of::<Event>() == 32);

/// All row events of a transaction, in the order in which the triggers fired.
pub struct EventLog {
    memory: Vec<Event>,
    file: *mut pg_sys::BufFile,
    in_file: u64,
    relations: Vec<pg_sys::Oid>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            memory: Vec::new(),
            file: std::ptr::null_mut(),
            in_file: 0,
            relations: Vec::new(),
        }
    }
}

impl EventLog {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.in_file + self.memory.len() as u64
    }

    /// The tables that occur in them.
    pub fn relations(&self) -> &[pg_sys::Oid] {
        &self.relations
    }

    /// Append.
    pub fn push(&mut self, event: Event) {
        if self.memory.len() >= MEMORY_EVENTS {
            self.spill();
        }
        if !self.relations.contains(&event.relation) {
            self.relations.push(event.relation);
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
            pg_sys::BufFileWrite(self.file, self.memory.as_mut_ptr().cast(), bytes);
        }
        self.in_file += self.memory.len() as u64;
        self.memory.clear();
    }

    /// Forget the events at the end that this subtransaction made itself, so that a loop of failing ones costs nothing.
    pub fn drop_last_of(&mut self, subtransaction: pg_sys::SubTransactionId) {
        while self
            .memory
            .last()
            .is_some_and(|event| event.subtransaction == subtransaction)
        {
            self.memory.pop();
        }
    }

    /// Visit all in order, with their numbers. Nothing is added meanwhile.
    pub fn visit<E>(&mut self, mut visitor: impl FnMut(u64, &Event) -> Result<(), E>) -> Result<(), E> {
        let mut number = 0;
        if self.in_file > 0 {
            self.flush_and_rewind();
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
        }
        for event in &self.memory {
            visitor(number, event)?;
            number += 1;
        }
        Ok(())
    }

    fn flush_and_rewind(&mut self) {
        const SEEK_SET: i32 = 0;
        // SAFETY: a valid file; seeking flushes what was written.
        unsafe {
            if pg_sys::BufFileSeek(self.file, 0, 0, SEEK_SET) != 0 {
                pgrx::error!("could not rewind the temporary file of captured changes");
            }
        }
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
