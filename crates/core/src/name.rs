//! Names that are checked once, when they are parsed, and are safe as SQL identifiers and as
//! parts of paths afterwards.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A name or version that does not have the form it must have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not a {what}: {rule}")]
pub struct InvalidName {
    /// What was given.
    pub text: String,
    /// What it should have been.
    pub what: &'static str,
    /// The rule it breaks.
    pub rule: &'static str,
}

/// How long a name may be, in bytes: PostgreSQL's limit for identifiers.
pub const MAX_NAME_LEN: usize = 63;

const IDENTIFIER_RULE: &str =
    "it must start with a-z or _, go on with a-z, 0-9 or _, and have at most 63 characters";
const LABEL_RULE: &str = "it must start with a letter or digit, go on with letters, digits, - _ or ., and have at most 63 characters";

fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= MAX_NAME_LEN
        && bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_')
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn is_label(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= MAX_NAME_LEN
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:ident, $rule:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if $check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidName { text: text.to_owned(), what: $what, rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

checked_name! {
    /// The name of a dataset: a schema in SQL, a folder in the store.
    DatasetName, "dataset name", is_identifier, IDENTIFIER_RULE
}
checked_name! {
    /// The name of a table of a dataset.
    TableName, "table name", is_identifier, IDENTIFIER_RULE
}
checked_name! {
    /// The name of a chain's network, such as `mainnet`, `arbitrum-one` or `anvil`.
    Network, "network name", is_label, LABEL_RULE
}
checked_name! {
    /// The name of a provider.
    ProviderName, "provider name", is_label, LABEL_RULE
}

/// The version of a dataset: three numbers, ordered as semantic versions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DatasetVersion {
    /// Changed by changes that readers must know of.
    pub major: u64,
    /// Changed by additions.
    pub minor: u64,
    /// Changed by corrections.
    pub patch: u64,
}

impl DatasetVersion {
    /// The version as a part of a SQL or file name: `1_0_0`.
    pub fn underscored(&self) -> String {
        format!("{}_{}_{}", self.major, self.minor, self.patch)
    }

    fn parse_parts(text: &str, separator: char) -> Option<Self> {
        let mut parts = text.split(separator).map(|part| {
            let canonical = part == "0" || !part.starts_with('0');
            part.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
            canonical.then(|| part.parse::<u64>().ok()).flatten()
        });
        let version = Self { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? };
        parts.next().is_none().then_some(version)
    }
}

impl FromStr for DatasetVersion {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::parse_parts(text, '.').ok_or_else(|| InvalidName {
            text: text.to_owned(),
            what: "dataset version",
            rule: "it must be three numbers such as 1.0.0",
        })
    }
}

impl TryFrom<String> for DatasetVersion {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<DatasetVersion> for String {
    fn from(version: DatasetVersion) -> String {
        version.to_string()
    }
}

impl fmt::Display for DatasetVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A dataset as a person or a query names it: `eth_mainnet` (its latest version) or
/// `eth_mainnet__1_0_0`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DatasetRef {
    /// The dataset's name.
    pub name: DatasetName,
    /// Its version; the latest where there is none.
    pub version: Option<DatasetVersion>,
}

impl TryFrom<String> for DatasetRef {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<DatasetRef> for String {
    fn from(reference: DatasetRef) -> Self {
        reference.to_string()
    }
}

impl FromStr for DatasetRef {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let versioned = text
            .rsplit_once("__")
            .and_then(|(name, version)| Some((name, DatasetVersion::parse_parts(version, '_')?)));
        Ok(match versioned {
            Some((name, version)) => Self { name: name.parse()?, version: Some(version) },
            None => Self { name: text.parse()?, version: None },
        })
    }
}

impl fmt::Display for DatasetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{}__{}", self.name, version.underscored()),
            None => self.name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_identifiers_and_paths() {
        for good in ["a", "_x", "eth_mainnet", "a1", &"a".repeat(63)] {
            assert!(good.parse::<DatasetName>().is_ok(), "{good}");
        }
        for bad in ["", "1a", "A", "a-b", "a b", "a/b", "..", "é", "a\0", "a\"", &"a".repeat(64)] {
            assert!(bad.parse::<DatasetName>().is_err(), "{bad}");
        }
        for bad in ["", "..", "/x", "-a", "a/b"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
        assert!("arbitrum-one".parse::<Network>().is_ok());
    }

    #[test]
    fn a_reference_may_carry_a_version() {
        let reference: DatasetRef = "eth__main__1_20_3".parse().expect("a reference");
        assert_eq!(reference.name.as_str(), "eth__main");
        assert_eq!(reference.version, Some(DatasetVersion { major: 1, minor: 20, patch: 3 }));
        assert_eq!(reference.to_string(), "eth__main__1_20_3");
        let plain: DatasetRef = "eth__main".parse().expect("a reference");
        assert_eq!((plain.name.as_str(), plain.version), ("eth__main", None));
    }

    #[test]
    fn versions_are_three_numbers() {
        let version = |text: &str| text.parse::<DatasetVersion>().expect("a version");
        assert!(version("1.0.10") > version("1.0.9"));
        for bad in ["", "1", "1.0", "1.0.0.0", "01.0.0", "1.0.x", "1.0.-1", "1.0.+1"] {
            assert!(bad.parse::<DatasetVersion>().is_err(), "{bad}");
        }
    }
}
