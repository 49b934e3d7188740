//! Numbers in messages to people.
//!
//! What a message says besides is left to whoever makes it.

use std::fmt::Display;

/// A number of things by their name: `1 record`, `2 records`.
pub fn counted<N: Display + PartialEq + From<bool>>(count: N, name: &str) -> String {
    let is_one = count == N::from(true);
    format!("{count} {name}{}", if is_one { "" } else { "s" })
}

/// How many partitions a topic has, and their numbers: `1 partition, 0`, or `3 partitions, 0 to 2`.
pub fn partitions_of(count: u32) -> String {
    let last = count.saturating_sub(1);
    let range = if last == 0 { "0".to_owned() } else { format!("0 to {last}") };
    format!("{}, {range}", counted(count, "partition"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_no_things() {
        assert_eq!([0u64, 1, 2].map(|n| counted(n, "record")), ["0 records", "1 record", "2 records"]);
        assert_eq!((counted(1usize, "member"), counted(-1i64, "byte")), ("1 member".into(), "-1 bytes".into()));
        assert_eq!([1, 2, 3].map(partitions_of), ["1 partition, 0", "2 partitions, 0 to 1", "3 partitions, 0 to 2"]);
    }
}
