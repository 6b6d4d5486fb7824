//! The messages inside a walsender's CopyBoth stream.
//!
//! Pure. What the server sends is not trusted: every message is checked for its length, and none makes this panic.

/// What the server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromServer<'a> {
    /// One message of the output plugin.
    Data {
        /// Where in the WAL that stands which it is about.
        lsn: u64,
        /// What the plugin wrote.
        payload: &'a [u8],
    },
    /// The server is there, and has told everything that ends before a position.
    Keepalive {
        /// Up to here.
        lsn: u64,
        /// It wants to hear from us at once.
        reply: bool,
    },
}

/// The server's message.
pub fn read(message: &[u8]) -> Result<FromServer<'_>, &'static str> {
    let (&kind, rest) = message.split_first().ok_or("an empty message")?;
    match kind {
        b'w' => {
            let (head, payload) = rest
                .split_first_chunk::<24>()
                .ok_or("a data message that ends too early")?;
            Ok(FromServer::Data {
                lsn: number(head, 0),
                payload,
            })
        }
        b'k' => {
            let head = <&[u8; 17]>::try_from(rest).map_err(|_| "a keepalive message of another length")?;
            Ok(FromServer::Keepalive {
                lsn: number(head, 0),
                reply: head[16] == 1,
            })
        }
        _ => Err("a message of an unknown kind"),
    }
}

/// Eight bytes at `at`, which the callers have.
fn number(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(number)
}

/// How far we are: everything before `lsn` is where it belongs, and need not be told again.
///
/// Written, flushed and applied are the same to us. As long as they are behind, a server that has told everything says so
/// ([`FromServer::Keepalive`]), which is how a stream without changes moves on. `reply`: it is to say so in any case.
pub fn feedback(lsn: u64, now_us: i64, reply: bool) -> [u8; 34] {
    let mut message = [0; 34];
    message[0] = b'r';
    for at in [1, 9, 17] {
        message[at..at + 8].copy_from_slice(&lsn.to_be_bytes());
    }
    message[25..33].copy_from_slice(&now_us.to_be_bytes());
    message[33] = u8::from(reply);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_message_panics(message: Vec<u8>) {
            let _ = read(&message);
        }

        #[test]
        fn data_is_read(lsn: u64, end: u64, payload: Vec<u8>) {
            let message = [&b"w"[..], &lsn.to_be_bytes(), &end.to_be_bytes(), &[0; 8], &payload].concat();
            prop_assert_eq!(read(&message), Ok(FromServer::Data { lsn, payload: &payload }));
        }

        #[test]
        fn keepalives_are_read(lsn: u64, reply: bool) {
            let message = [&b"k"[..], &lsn.to_be_bytes(), &[0; 8], &[u8::from(reply)]].concat();
            prop_assert_eq!(read(&message), Ok(FromServer::Keepalive { lsn, reply }));
        }
    }

    #[test]
    fn feedback_has_its_place_for_everything() {
        let message = feedback(0x0102_0304_0506_0708, -1, true);
        assert_eq!(message[..9], [b'r', 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(message[17..25], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(message[25..], [255, 255, 255, 255, 255, 255, 255, 255, 1]);
    }
}
