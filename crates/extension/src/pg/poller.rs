//! One descriptor to wait on for many: epoll, itself readable when any of its sockets is ready, so that a worker's wait
//! set needs to know a single, never changing descriptor for all links.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A socket that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The number it was registered with.
    pub token: u64,
    /// Reading does not block (or tells the error).
    pub readable: bool,
    /// Writing does not block (or tells the error).
    pub writable: bool,
}

/// An epoll instance.
pub struct Poller(OwnedFd);

impl Poller {
    /// A new, empty one.
    pub fn new() -> io::Result<Self> {
        // SAFETY: returns a new descriptor or -1.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The descriptor to wait on for reading.
    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Watch a socket, or change for what. A closed descriptor leaves by itself.
    pub fn watch(&self, socket: RawFd, token: u64, write: bool) -> io::Result<()> {
        let events = libc::EPOLLIN as u32 | if write { libc::EPOLLOUT as u32 } else { 0 };
        let mut event = libc::epoll_event { events, u64: token };
        for operation in [libc::EPOLL_CTL_MOD, libc::EPOLL_CTL_ADD] {
            // SAFETY: `event` is read during the call only.
            if unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, socket, &mut event) } == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ENOENT) {
                return Err(error);
            }
        }
        Err(io::Error::last_os_error())
    }

    /// What is ready now. Does not wait.
    pub fn ready(&self) -> Vec<Ready> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 32];
        // SAFETY: the buffer has the stated length.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, 0) };
        let over = (libc::EPOLLERR | libc::EPOLLHUP) as u32;
        events[..usize::try_from(count).unwrap_or(0)]
            .iter()
            .map(|event| Ready {
                token: event.u64,
                readable: event.events & (libc::EPOLLIN as u32 | over) != 0,
                writable: event.events & (libc::EPOLLOUT as u32 | over) != 0,
            })
            .collect()
    }
}
