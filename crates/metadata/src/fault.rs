//! What can go wrong below the store, before the database's name is added to it.

use sqlx::error::DatabaseError;

use crate::{
    error::{CommitError, MetadataError},
    model::LeaseId,
};

/// Why the work of a transaction did not succeed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The driver or the database said no.
    Sql(sqlx::Error),
    /// A row holds what it cannot hold.
    Corrupt(String),
    /// The database can only be read.
    ReadOnly,
    /// What is asked for contradicts what is stored.
    Refused(String),
    /// A dataset would be made of one that is not registered.
    Dependency(String),
    /// The lease that it is asked for under has ended.
    LeaseEnded(LeaseId),
    /// What is asked for has been collected.
    Expired,
    /// The schema is not this program's.
    Schema(String),
}

/// Why a commit did not happen.
#[derive(Debug)]
pub(crate) enum CommitFault {
    /// The commit contradicts what is stored.
    Commit(CommitError),
    /// The store failed.
    Store(Fault),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<CommitError> for CommitFault {
    fn from(error: CommitError) -> Self {
        Self::Commit(error)
    }
}

impl From<Fault> for CommitFault {
    fn from(fault: Fault) -> Self {
        Self::Store(fault)
    }
}

impl From<sqlx::Error> for CommitFault {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// A refusal in words.
pub(crate) fn refused<T>(why: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Refused(why.into()))
}

impl Fault {
    /// Whether the server has closed the connection.
    pub(crate) fn is_cut_off(&self) -> bool {
        match self {
            Self::Sql(sqlx::Error::Io(error)) => error.kind() != std::io::ErrorKind::TimedOut,
            // Ended by an administrator, or by a crash of the server.
            Self::Sql(sqlx::Error::Database(refusal)) => {
                refusal.code().is_some_and(|code| code == "57P01" || code == "57P02")
            }
            _ => false,
        }
    }

    /// The error for the caller, about the database of that name.
    pub(crate) fn of(self, database: &str) -> MetadataError {
        match self {
            Self::Sql(error) => classify(database, error),
            Self::Corrupt(what) => MetadataError::Corrupt { database: database.to_owned(), what },
            Self::ReadOnly => MetadataError::ReadOnly { database: database.to_owned() },
            Self::Refused(why) => MetadataError::Refused(why),
            Self::Dependency(why) => MetadataError::Dependency(why),
            Self::LeaseEnded(lease) => MetadataError::LeaseEnded(lease),
            Self::Expired => MetadataError::Expired,
            Self::Schema(why) => MetadataError::Schema(why),
        }
    }
}

impl CommitFault {
    /// The error for the caller, about the database of that name.
    pub(crate) fn of(self, database: &str) -> CommitError {
        match self {
            Self::Commit(error) => error,
            Self::Store(fault) => CommitError::Store(fault.of(database)),
        }
    }
}

/// What an error of the driver means to the caller.
fn classify(database: &str, error: sqlx::Error) -> MetadataError {
    let code = match &error {
        sqlx::Error::Database(refusal) => Code::of(refusal.as_ref()),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => Code::Busy,
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Code::Damaged,
        _ => Code::Other,
    };
    let database = database.to_owned();
    match code {
        Code::Busy => MetadataError::Unavailable { database, source: error },
        Code::Damaged => MetadataError::Corrupt { database, what: damage(&error) },
        Code::ReadOnly => MetadataError::ReadOnly { database },
        Code::Full => MetadataError::Refused(format!(
            "there is no space left for the metadata database {database}; make room and run the same command again"
        )),
        Code::Other => MetadataError::Failed { database, source: error },
    }
}

fn damage(error: &sqlx::Error) -> String {
    let said = match error {
        sqlx::Error::Database(refusal) => refusal.message().to_owned(),
        other => other.to_string(),
    };
    format!(
        "{said}; restore a backup of it, or move it away and run `nozzle restore --dataset NAME`, which rebuilds it from the files"
    )
}

/// The few kinds of codes that a caller can tell apart.
#[derive(Debug, PartialEq, Eq)]
enum Code {
    Busy,
    Damaged,
    Full,
    ReadOnly,
    Other,
}

impl Code {
    fn of(refusal: &dyn DatabaseError) -> Self {
        let code = refusal.code().unwrap_or_default();
        // SQLSTATEs have five characters, SQLite's extended result codes are small numbers.
        match code.parse::<u32>() {
            Ok(number) if code.len() < 5 => Self::of_sqlite(number),
            _ => Self::of_postgres(&code),
        }
    }

    fn of_sqlite(extended: u32) -> Self {
        match extended & 0xff {
            5 | 6 => Self::Busy,
            11 | 26 => Self::Damaged,
            8 => Self::ReadOnly,
            13 => Self::Full,
            _ => Self::Other,
        }
    }

    fn of_postgres(state: &str) -> Self {
        match state {
            // Read-only transaction, insufficient privilege.
            "25006" | "42501" => Self::ReadOnly,
            // Serialisation, deadlock, too many connections, a lock or a cancelled statement,
            // an idle transaction ended.
            "40001" | "40P01" | "53300" | "55P03" | "57014" | "25P03" => Self::Busy,
            "XX001" | "XX002" => Self::Damaged,
            "53100" => Self::Full,
            // Connections, shutting down, starting up.
            _ if state.starts_with("08") || state.starts_with("57P") => Self::Busy,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_what_the_caller_does_next() {
        for (extended, expected) in [
            (5, Code::Busy),
            (517, Code::Busy),
            (26, Code::Damaged),
            (267, Code::Damaged),
            (1544, Code::ReadOnly),
            (13, Code::Full),
        ] {
            assert_eq!(Code::of_sqlite(extended), expected, "{extended}");
        }
        for (state, expected) in [
            ("57P01", Code::Busy),
            ("08006", Code::Busy),
            ("25006", Code::ReadOnly),
            ("23505", Code::Other),
            ("53100", Code::Full),
        ] {
            assert_eq!(Code::of_postgres(state), expected, "{state}");
        }
    }
}
