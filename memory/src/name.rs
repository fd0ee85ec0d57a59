//! The names a context carries: tenant, agent or space, session and actor.
//!
//! A value of one of these types is always valid; text is parsed once, at the edge. Owns the rules for length and
//! characters and the messages for what breaks them. Never decides who may use a name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A text that is not a valid name, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// There is no text.
    #[error("{kind} is empty; give it at least one character")]
    Empty {
        /// Which name it was meant to be.
        kind: &'static str,
    },
    /// The text is longer than the rule allows.
    #[error("{kind} has {characters} characters; shorten it to at most {max}")]
    TooLong {
        /// Which name it was meant to be.
        kind: &'static str,
        /// Its length.
        characters: usize,
        /// The longest length allowed.
        max: usize,
    },
    /// A character stands where the rule does not allow it.
    #[error("{kind} has the character {found:?} at byte {at}; {rule}")]
    Character {
        /// Which name it was meant to be.
        kind: &'static str,
        /// The character.
        found: char,
        /// Where it stands.
        at: usize,
        /// What is allowed, as a sentence for the caller.
        rule: &'static str,
    },
}

/// Which characters a name may have.
#[derive(Clone, Copy)]
enum Alphabet {
    /// A Kubernetes label value: letters, digits, `-`, `_`, `.`; letters or digits at both ends.
    Label,
    /// A label value that may also contain `:`, `/` and `@` inside, as agent frameworks like to use.
    Identifier,
    /// Any text on one line without white space at its ends.
    Line,
}

impl Alphabet {
    const fn rule(self) -> &'static str {
        match self {
            Self::Label => "use letters, digits, '-', '_' and '.', with a letter or digit at both ends",
            Self::Identifier => {
                "use letters, digits, '-', '_', '.', ':', '/' and '@', with a letter or digit at both ends"
            }
            Self::Line => "use one line of text without control characters and without white space at its ends",
        }
    }

    fn allows(self, character: char, at_an_end: bool) -> bool {
        match self {
            Self::Label => character.is_ascii_alphanumeric() || (!at_an_end && "-_.".contains(character)),
            Self::Identifier => character.is_ascii_alphanumeric() || (!at_an_end && "-_.:/@".contains(character)),
            Self::Line => {
                !(character.is_control()
                    || matches!(character, '\u{2028}' | '\u{2029}')
                    || (at_an_end && character.is_whitespace()))
            }
        }
    }
}

fn check(kind: &'static str, text: &str, max: usize, alphabet: Alphabet) -> Result<(), InvalidName> {
    if text.is_empty() {
        return Err(InvalidName::Empty { kind });
    }
    let characters = text.chars().count();
    if characters > max {
        return Err(InvalidName::TooLong { kind, characters, max });
    }
    let forbidden = text.char_indices().find(|&(at, character)| {
        let at_an_end = at == 0 || at + character.len_utf8() == text.len();
        !alphabet.allows(character, at_an_end)
    });
    match forbidden {
        Some((at, found)) => Err(InvalidName::Character { kind, found, at, rule: alphabet.rule() }),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$docs:meta])* $name:ident, $kind:literal, $max:literal, $alphabet:expr) => {
        $(#[$docs])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The longest name allowed, in characters.
            pub const MAX_CHARS: usize = $max;

            /// Checks a text and takes it as a name.
            ///
            /// # Errors
            /// Says which rule the text breaks and what to do about it.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                check($kind, &text, Self::MAX_CHARS, $alphabet)?;
                Ok(Self(text))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// Whose memory it is: the namespace of the agent's pod. Always a valid Kubernetes label value.
    ///
    /// ```
    /// use context_manager_memory::TenantId;
    ///
    /// assert_eq!(TenantId::new("team-a")?.as_str(), "team-a");
    /// assert!(TenantId::new("team a").is_err());
    /// # Ok::<(), context_manager_memory::name::InvalidName>(())
    /// ```
    TenantId, "tenant", 63, Alphabet::Label
);
name!(
    /// Which agent of the tenant it is, stable over restarts of its pod.
    ///
    /// ```
    /// use context_manager_memory::AgentId;
    ///
    /// assert!(AgentId::new("support/triage@v2").is_ok());
    /// assert!(AgentId::new("-triage").is_err());
    /// ```
    AgentId, "agent", 253, Alphabet::Identifier
);
name!(
    /// A memory that agents of a tenant share and none of them owns.
    ///
    /// ```
    /// use context_manager_memory::SpaceId;
    ///
    /// assert!(SpaceId::new("release-notes").is_ok());
    /// assert!(SpaceId::new("release notes").is_err());
    /// ```
    SpaceId, "space", 253, Alphabet::Identifier
);
name!(
    /// Which conversation or task of the agent a context belongs to.
    ///
    /// ```
    /// use context_manager_memory::SessionId;
    ///
    /// assert!(SessionId::new("thread 42 (Zürich)").is_ok());
    /// assert!(SessionId::new("thread\n42").is_err());
    /// ```
    SessionId, "session", 256, Alphabet::Line
);
name!(
    /// Who said or did it: a person's name, a role such as `user`, or a tool.
    ///
    /// ```
    /// use context_manager_memory::Actor;
    ///
    /// assert!(Actor::new("Ann Lee").is_ok());
    /// assert!(Actor::new("").is_err());
    /// ```
    Actor, "actor", 128, Alphabet::Line
);

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;

    #[test]
    fn tenant_is_a_label_value() {
        for good in ["a", "team-a", "Team_A.1", &"x".repeat(63)] {
            assert!(TenantId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a/b", "a b", "ü", &"x".repeat(64)] {
            assert!(TenantId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn message_names_the_kind_the_place_and_the_remedy() {
        let message = TenantId::new("team a").unwrap_err().to_string();
        assert!(message.contains("tenant") && message.contains("byte 4") && message.contains("letters"), "{message}");
        let message = AgentId::new("x".repeat(300)).unwrap_err().to_string();
        assert!(message.contains("300") && message.contains("253"), "{message}");
    }

    #[test]
    fn session_takes_any_line_but_no_hidden_white_space() {
        for good in ["s", "a b", "日本", "x/y?z=1"] {
            assert!(SessionId::new(good).is_ok(), "{good}");
        }
        for bad in [" s", "s ", "a\tb", "a\u{2028}b", "\u{7f}"] {
            assert!(SessionId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_measured_in_characters() {
        assert!(SessionId::new("\u{fc}".repeat(SessionId::MAX_CHARS)).is_ok());
        assert!(SessionId::new("\u{fc}".repeat(SessionId::MAX_CHARS + 1)).is_err());
    }

    #[test]
    fn json_with_an_invalid_name_does_not_parse() {
        assert!(serde_json::from_str::<TenantId>("\"a b\"").is_err());
        assert_eq!(serde_json::from_str::<TenantId>("\"a-b\"").unwrap().as_str(), "a-b");
    }
}
