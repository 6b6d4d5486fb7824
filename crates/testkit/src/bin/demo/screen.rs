//! What the terminal shows. Colours and the moving bar only where there is a terminal.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Width of one node's column.
pub const COLUMN: usize = 16;

/// Width of the labels before the columns.
pub const LABEL: usize = 24;

const BAR: usize = 30;

fn paint(code: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Text that matters.
pub fn bold(text: &str) -> String {
    paint("1", text)
}

/// Text beside the point.
pub fn dim(text: &str) -> String {
    paint("2", text)
}

/// The heading of a part.
pub fn title(text: &str) {
    println!("\n{}\n", bold(text));
}

/// Something done.
pub fn step(text: &str) {
    println!("  {} {text}", paint("32", "✓"));
}

/// Something that happens to the cluster.
pub fn event(text: &str) {
    println!("  {} {}", paint("33;1", "▶"), paint("33;1", text));
}

/// A check: what holds, or what does not.
pub fn check(holds: bool, text: &str) {
    let mark = if holds {
        paint("32", "✓")
    } else {
        paint("31;1", "✗")
    };
    println!("  {mark} {text}");
}

/// The last word, when all is well.
pub fn success(text: &str) {
    println!("\n{}\n", paint("32;1", text));
}

/// The last word, when it is not.
pub fn failure(text: &str) {
    println!("\n{}\n", paint("31;1", text));
}

/// One row: a label, then a cell for each node.
pub fn row(label: &str, cells: &[String]) {
    let cells: String = cells.iter().map(|cell| format!("{cell:>COLUMN$}")).collect();
    println!("  {label:<LABEL$}{cells}");
}

/// The row above the columns.
pub fn header(label: &str, names: &[String], last: &str) {
    let cells: String = names
        .iter()
        .map(String::as_str)
        .chain((!last.is_empty()).then_some(last))
        .map(|cell| format!("{cell:>COLUMN$}"))
        .collect();
    println!("  {}", dim(&format!("{label:<LABEL$}{cells}")));
}

/// A bar that moves; nothing where output is not a terminal.
pub fn bar(label: &str, done: usize, of: usize) {
    if !std::io::stdout().is_terminal() {
        return;
    }
    let full = BAR * done / of.max(1);
    print!(
        "\r  {} {label} {}{}",
        dim("…"),
        "█".repeat(full),
        dim(&"░".repeat(BAR - full))
    );
    if done == of {
        print!("\r\x1b[K");
    }
    let _ = std::io::stdout().flush();
}

/// `1 234 567`
pub fn grouped(number: impl Display) -> String {
    let text = number.to_string();
    let (sign, digits) = text
        .strip_prefix('-')
        .map_or(("", text.as_str()), |digits| ("-", digits));
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    format!("{sign}{out}")
}

/// `3.2 s`, `41 ms`
pub fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}
