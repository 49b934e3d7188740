//! Which texts may name a topic, a plugin, a group, a member or a client: Kafka's rule for topics.
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

/// Checks the id of a consumer group, of a member, or of an instance: the same rule as for topics, for ids go into
/// logs, tables and terminals.
///
/// # Errors
/// As [`check_topic_name`].
pub fn check_id(id: &str) -> Result<(), NameError> {
    check_topic_name(id)
}

/// Checks what a client calls itself: the same rule as for other ids. Empty: it has no name.
///
/// # Errors
/// As [`check_topic_name`].
pub fn check_client_id(id: &str) -> Result<(), NameError> {
    if id.is_empty() { Ok(()) } else { check_id(id) }
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
    fn ids_follow_the_rule_of_topic_names() {
        for good in ["billing", "thalweg-python", "0f3c-7", "a.b_C"] {
            assert_eq!((check_id(good), check_client_id(good)), (Ok(()), Ok(())), "{good}");
        }
        assert_eq!((check_id(""), check_client_id("")), (Err(NameError::Empty), Ok(())));
        for bad in ["a\nb", "\u{1b}]0;title\u{7}", "till 3", "Köln"] {
            assert!(matches!(check_id(bad), Err(NameError::Character { .. })), "{bad:?}");
            assert!(matches!(check_client_id(bad), Err(NameError::Character { .. })), "{bad:?}");
        }
    }
}
