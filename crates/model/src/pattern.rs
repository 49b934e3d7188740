//! Topics that are named by a pattern instead of one by one.
//!
//! Which topics there are is left to the group's coordinator, or to the client.

use regex_lite::{Regex, RegexBuilder};

use crate::NameError;
use crate::limits::NAME_BYTES_MAX;
use crate::name::check_topic_name;

/// A regular expression over topic names. It begins with `^`, which no name does, so that a list of topics can hold
/// both; it matches from a name's start on, and to its end where it ends with `$`. The rule is librdkafka's.
///
/// The syntax is that of the crate `regex-lite`: no look-around and no back-references, so that matching takes time
/// linear in the name's length.
#[derive(Clone, Debug)]
pub struct TopicPattern(Regex);

impl TopicPattern {
    /// True for what is a pattern, or is meant as one, and no name.
    pub fn is_meant(topic: &str) -> bool {
        topic.starts_with('^')
    }

    /// The pattern of this text.
    ///
    /// # Errors
    /// [`NameError::Pattern`] for a text without `^` at its start, one of more than 249 bytes, and one that is no
    /// regular expression.
    pub fn new(text: &str) -> Result<TopicPattern, NameError> {
        let wrong = |why: String| NameError::Pattern { pattern: text.to_owned(), why };
        if !TopicPattern::is_meant(text) {
            return Err(wrong("it does not begin with ^".into()));
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(wrong(format!("it is {} bytes, the limit is {NAME_BYTES_MAX}", text.len())));
        }
        let compiled = RegexBuilder::new(text).size_limit(COMPILED_BYTES_MAX).build();
        // In `^a|b`, the half behind the bar would match anywhere: the whole pattern is anchored.
        let anchored =
            compiled.and_then(|_| RegexBuilder::new(&format!("^(?:{text})")).size_limit(COMPILED_BYTES_MAX).build());
        anchored.map(TopicPattern).map_err(|e| wrong(e.to_string()))
    }

    /// True for a topic that it stands for. Topics of the cluster's own, whose names begin with `__`, are none.
    pub fn matches(&self, topic: &str) -> bool {
        !topic.starts_with("__") && self.0.is_match(topic)
    }
}

/// Checks what a consumer may name to be read: the name of a topic, or a pattern.
///
/// # Errors
/// As [`check_topic_name`] and [`TopicPattern::new`].
pub fn check_topic_or_pattern(topic: &str) -> Result<(), NameError> {
    if TopicPattern::is_meant(topic) { TopicPattern::new(topic).map(drop) } else { check_topic_name(topic) }
}

/// Memory that a compiled pattern may take.
const COMPILED_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, expect: &[&str]) {
        let topics = ["flights", "flights-eu", "flights-us", "my-flights", "__flights"];
        let pattern = TopicPattern::new(pattern).unwrap();
        let found: Vec<_> = topics.into_iter().filter(|t| pattern.matches(t)).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn a_pattern_matches_from_the_start_on() {
        check("^flights", &["flights", "flights-eu", "flights-us"]);
        check("^flights$", &["flights"]);
        check("^flights-(eu|us)$", &["flights-eu", "flights-us"]);
        check("^.*flights", &["flights", "flights-eu", "flights-us", "my-flights"]);
        check("^my|flights-eu", &["flights-eu", "my-flights"]);
        check("^__", &[]);
        check("^", &["flights", "flights-eu", "flights-us", "my-flights"]);
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        let why = |text: &str| check_topic_or_pattern(text).unwrap_err().to_string();
        assert!(why("^(").contains("\"^(\""), "{}", why("^("));
        assert!(why("^a(?=b)").contains("^a(?=b)"));
        assert!(why("^a){1}(b").contains("^a"));
        assert!(why(&format!("^{}", "x".repeat(249))).contains("250 bytes"));
        assert!(why("^(a{1000}){1000}").contains("size"), "{}", why("^(a{1000}){1000}"));
        assert!(why("a*").contains('*'));
        assert_eq!(check_topic_or_pattern("flights"), Ok(()));
        assert_eq!(check_topic_or_pattern("^flights"), Ok(()));
    }
}
