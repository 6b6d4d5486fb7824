//! Threads in server processes. They never call the server, and never receive its signals: the handlers expect the main thread.

use std::io;
use std::thread::JoinHandle;

/// Run with all signals blocked in this thread: threads started inside inherit that.
pub fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: plain signal mask calls on local memory, which sigfillset and pthread_sigmask initialise.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let result = start();
    // SAFETY: `before` was initialised above.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
    }
    result
}

/// Start a thread that never sees a signal.
pub fn spawn<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    with_signals_blocked(|| std::thread::Builder::new().name(name.to_owned()).spawn(body))
}
