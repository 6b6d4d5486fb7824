//! Lines on standard output.
//!
//! At least once: what the reader at the other end of a pipe does with them is not known here. An event counts as delivered
//! when it has been written.

use std::io::{self, Write};

use super::{Carried, Carrier, Parcel, Trouble};
use crate::failure::{Failure, sentence};

/// The carrier.
#[derive(Debug, Default)]
pub struct StandardOutput;

impl Carrier for StandardOutput {
    fn name(&self) -> String {
        "standard output".into()
    }

    fn carry(&mut self, parcels: &[&Parcel]) -> Carried {
        let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
        for parcel in parcels {
            if let Err(error) = out.write_all(&parcel.body).and_then(|()| out.write_all(b"\n")) {
                return Carried::until(0, gone(&error));
            }
        }
        match out.flush() {
            Ok(()) => Carried::all(parcels.len()),
            Err(error) => Carried::until(0, gone(&error)),
        }
    }

    fn at_once(&self) -> usize {
        4_096
    }
}

fn gone(error: &io::Error) -> Trouble {
    let hint = if error.kind() == io::ErrorKind::BrokenPipe {
        "What had not been read is told again by the next run."
    } else {
        ""
    };
    Trouble::Fatal(Failure::new(
        "standard output cannot be written",
        sentence(&error.to_string()),
        hint,
    ))
}
