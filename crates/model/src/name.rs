//! Which texts may name a topic or a plugin (Kafka's rule for topics), or a client.
//!
//! Whether a name is taken is left to the controller.

use crate::NameError;
use crate::limits::NAME_BYTES_MAX;

/// Checks a topic name: 1 to 249 of `[A-Za-z0-9._-]`, not `.` or `..`.
///
/// # Errors
/// [`NameError`] names the part of the rule that is broken.
pub fn check_topic_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong { found: name.len(), limit: NAME_BYTES_MAX });
    }
    if let Some(found) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        return Err(NameError::Character { name: name.to_owned(), found });
    }
    if name == "." || name == ".." {
        return Err(NameError::Reserved { name: name.to_owned() });
    }
    Ok(())
}

/// Checks a plugin name: the same rule as for topics, so that `name@version` is never ambiguous.
///
/// # Errors
/// As [`check_topic_name`].
pub fn check_plugin_name(name: &str) -> Result<(), NameError> {
    check_topic_name(name)
}

/// Checks what a client calls itself: at most 249 bytes without control characters, for it goes into logs and listings.
/// Empty: it has no name.
///
/// # Errors
/// `TooLong` and `Control` of [`NameError`].
pub fn check_client_id(id: &str) -> Result<(), NameError> {
    if id.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong { found: id.len(), limit: NAME_BYTES_MAX });
    }
    match id.chars().find(|c| c.is_control()) {
        Some(found) => Err(NameError::Control { name: id.to_owned(), found }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rule() {
        for good in ["a", "flights", "__consumer_offsets", "A.b-c_9"] {
            assert_eq!(check_topic_name(good), Ok(()), "{good}");
        }
        assert_eq!(check_topic_name(""), Err(NameError::Empty));
        assert!(matches!(check_topic_name("a/b"), Err(NameError::Character { found: '/', .. })));
        assert!(matches!(check_topic_name("ü"), Err(NameError::Character { .. })));
        assert!(matches!(check_topic_name(".."), Err(NameError::Reserved { .. })));
        assert!(matches!(check_topic_name(&"x".repeat(250)), Err(NameError::TooLong { found: 250, limit: 249 })));
    }

    #[test]
    fn a_client_may_call_itself_what_fits_on_a_line() {
        for good in ["", "billing", "Kasse 3, Köln"] {
            assert_eq!(check_client_id(good), Ok(()), "{good}");
        }
        assert!(matches!(check_client_id("a\nb"), Err(NameError::Control { found: '\n', .. })));
        assert!(matches!(check_client_id(&"ü".repeat(125)), Err(NameError::TooLong { found: 250, limit: 249 })));
    }
}
