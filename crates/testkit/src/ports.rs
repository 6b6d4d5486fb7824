//! Ports for servers under test.

/// A port that was free a moment ago, and that this process has not been given before. None of those that the system gives to connections:
/// one of these could take it before the server listens, or while it is down.
pub(crate) fn free_port() -> u16 {
    const PORTS: std::ops::Range<u32> = 10_240..32_700;
    static GIVEN: std::sync::OnceLock<std::sync::atomic::AtomicU32> = std::sync::OnceLock::new();
    let given = GIVEN.get_or_init(|| {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        std::sync::atomic::AtomicU32::new(now.subsec_micros() ^ std::process::id() << 8)
    });
    let ports = std::iter::repeat_with(|| {
        let number = given.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (PORTS.start + number % (PORTS.end - PORTS.start)) as u16
    });
    ports
        .take(PORTS.len())
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("the loopback address has a free port")
}
