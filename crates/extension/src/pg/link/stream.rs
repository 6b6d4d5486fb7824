//! The session's connection as a stream of CopyData messages, as walsender.c has it.

use std::ffi::{c_char, c_int, c_uchar};
use std::time::Instant;

use pgrx::{PgSqlErrorCode, pg_sys};

use crate::errors::UserError;
use crate::pg::latch;

/// `FeBeWaitSetSocketPos` of libpq/libpq.h.
const SOCKET_POSITION: c_int = 0;

// Exported by the server, not bound by pgrx.
unsafe extern "C-unwind" {
    static FeBeWaitSet: *mut pg_sys::WaitEventSet;
    static PqCommMethods: *const CommMethods;
    fn pq_startmsgread();
    fn pq_endmsgread();
    fn pq_getbyte_if_available(byte: *mut c_uchar) -> c_int;
    fn pq_getmessage(message: pg_sys::StringInfo, limit: c_int) -> c_int;
}

/// `PQcommMethods` of libpq/libpq.h, as far as it is used; the same in 13 to 18.
#[repr(C)]
struct CommMethods {
    comm_reset: unsafe extern "C-unwind" fn(),
    flush: unsafe extern "C-unwind" fn() -> c_int,
}

/// Call a server function that pgrx does not wrap: its ERROR becomes an unwinding panic.
macro_rules! guarded {
    ($call:expr) => {
        pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| $call)
    };
}

/// This session's connection, in CopyBoth.
pub struct Stream {
    buffer: pg_sys::StringInfoData,
}

impl Stream {
    /// Begin.
    pub fn new() -> Self {
        let mut buffer = pg_sys::StringInfoData::default();
        // SAFETY: allocated in TopMemoryContext, which lives as long as this backend, and so does the stream.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            pg_sys::initStringInfo(&mut buffer);
            pg_sys::MemoryContextSwitchTo(before);
        }
        Self { buffer }
    }

    /// Send one CopyData at once.
    pub fn send(&mut self, bytes: &[u8]) {
        // SAFETY: a CopyData message built by the server's own functions, in the current memory context.
        unsafe {
            let mut message = pg_sys::StringInfoData::default();
            pg_sys::pq_beginmessage(&mut message, b'd' as c_char);
            pg_sys::appendBinaryStringInfo(&mut message, bytes.as_ptr().cast(), bytes.len() as c_int);
            pg_sys::pq_endmessage(&mut message);
            let flush = (*PqCommMethods).flush;
            guarded!(flush());
        }
    }

    /// A CopyData of exactly `N` bytes, all of it before the deadline; `None` when the peer has hung up. For peers that nobody
    /// knows yet: one that sends half a message and then nothing would keep [`Self::receive`], which waits for the rest.
    pub fn receive_short<const N: usize>(&mut self, deadline: Instant) -> Result<Option<[u8; N]>, UserError> {
        // SAFETY: between messages; ended below, or the session ends with the error.
        unsafe { guarded!(pq_startmsgread()) };
        let mut head = [0; 5];
        let mut body = [0; N];
        if !fill(&mut head, deadline)? {
            return Ok(None);
        }
        let [kind, length @ ..] = head;
        if kind == b'c' || kind == b'X' {
            return Ok(None);
        }
        // The length counts itself.
        if kind != b'd' || u32::from_be_bytes(length) as usize != N + 4 {
            return Err(unexpected(kind));
        }
        if !fill(&mut body, deadline)? {
            return Ok(None);
        }
        // SAFETY: the message has been read to its end.
        unsafe { guarded!(pq_endmsgread()) };
        Ok(Some(body))
    }

    /// The next CopyData; `None` when the peer has hung up or `wanted` turned false. Once a message has begun it waits for the
    /// rest of it.
    pub fn receive(&mut self, limit: c_int, wanted: &dyn Fn() -> bool) -> Result<Option<&[u8]>, UserError> {
        loop {
            let mut kind: c_uchar = 0;
            // SAFETY: between messages; pq_startmsgread and the read of the rest come in pairs as in walsender.c.
            let got = unsafe {
                guarded!(pq_startmsgread());
                guarded!(pq_getbyte_if_available(&mut kind))
            };
            if got < 0 {
                return Ok(None);
            }
            if got > 0 {
                return self.rest(kind, limit);
            }
            // SAFETY: ends the message read that found nothing.
            unsafe { guarded!(pq_endmsgread()) };
            if !wanted() {
                return Ok(None);
            }
            wait_for_socket(None);
        }
    }

    fn rest(&mut self, kind: u8, limit: c_int) -> Result<Option<&[u8]>, UserError> {
        // SAFETY: a message type has been read; pq_getmessage resets and fills the buffer, or reports the end. Its limit
        // counts the length word, too.
        if unsafe { guarded!(pq_getmessage(&mut self.buffer, limit + 4)) } != 0 {
            return Ok(None);
        }
        match kind {
            // SAFETY: the buffer holds `len` bytes until the next read, which needs `&mut self`.
            b'd' => Ok(Some(unsafe {
                std::slice::from_raw_parts(self.buffer.data.cast::<u8>(), self.buffer.len as usize)
            })),
            b'c' | b'X' => Ok(None),
            other => Err(unexpected(other)),
        }
    }
}

fn unexpected(kind: u8) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION,
        "unexpected message on a link",
        format!("Its type is {kind}."),
        "",
    )
}

/// Fill `bytes` from the socket. False: the peer has hung up.
fn fill(bytes: &mut [u8], deadline: Instant) -> Result<bool, UserError> {
    for byte in bytes {
        loop {
            // SAFETY: inside a message read; it never waits.
            match unsafe { guarded!(pq_getbyte_if_available(byte)) } {
                0 => {}
                1.. => break,
                _ => return Ok(false),
            }
            if Instant::now() > deadline {
                return Err(UserError::new(
                    PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION,
                    "the calling node did not prove itself in time",
                    "",
                    "",
                ));
            }
            wait_for_socket(Some(deadline));
        }
    }
    Ok(true)
}

fn wait_for_socket(deadline: Option<Instant>) {
    let timeout = deadline.map_or(-1, |deadline| {
        deadline.saturating_duration_since(Instant::now()).as_millis() as std::ffi::c_long + 1
    });
    // SAFETY: the backend's own wait set, made at its start: socket, latch, postmaster.
    unsafe {
        let mut event = std::mem::zeroed::<pg_sys::WaitEvent>();
        pg_sys::ModifyWaitEvent(
            FeBeWaitSet,
            SOCKET_POSITION,
            pg_sys::WL_SOCKET_READABLE,
            std::ptr::null_mut(),
        );
        let count = pg_sys::WaitEventSetWait(
            FeBeWaitSet,
            timeout,
            &mut event,
            1,
            crate::pg::wait_event::number(crate::pg::wait_event::WaitEvent::Link),
        );
        if count > 0 && event.events & pg_sys::WL_POSTMASTER_DEATH != 0 {
            pg_sys::proc_exit(1);
        }
    }
    latch::reset();
    pgrx::check_for_interrupts!();
}
