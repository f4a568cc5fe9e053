//! Which migrations a database has had, beside those that this program knows.

use sqlx::{FromRow, migrate::Migrator};

use crate::fault::Fault;

/// A migration that ran on the database.
#[derive(Debug, FromRow)]
pub(crate) struct Applied {
    version: i64,
    checksum: Vec<u8>,
}

/// The migrations that the database has not had, oldest first; none where it is current.
///
/// A database that had one that this program does not know, or knows otherwise, is refused.
pub(crate) fn missing(database: &str, known: &Migrator, applied: &[Applied]) -> Result<Vec<String>, Fault> {
    let newest = known.iter().map(|migration| migration.version).max().unwrap_or_default();
    if let Some(newer) = applied.iter().map(|applied| applied.version).find(|version| *version > newest) {
        return Err(Fault::Schema(format!(
            "the metadata database {database} is newer than this program: its schema is at {newer}, this program's at {newest}; run a newer nozzle"
        )));
    }
    let mut missing = vec![];
    for migration in known.iter() {
        match applied.iter().find(|applied| applied.version == migration.version) {
            None => missing.push(format!("{:04} {}", migration.version, migration.description)),
            Some(same) if same.checksum == *migration.checksum => {}
            Some(_) => return Err(foreign(database, migration.version)),
        }
    }
    match applied.iter().find(|applied| !known.version_exists(applied.version)) {
        Some(unknown) => Err(foreign(database, unknown.version)),
        None => Ok(missing),
    }
}

fn foreign(database: &str, version: i64) -> Fault {
    Fault::Schema(format!(
        "the metadata database {database} was not made by this program: its migration {version} is another one"
    ))
}

/// What is said of a database whose schema is not current and that is not to be migrated.
pub(crate) fn outdated(database: &str, missing: &[String], is_empty: bool) -> Fault {
    let found = if is_empty { "is empty".to_owned() } else { format!("lacks {}", missing.join(", ")) };
    Fault::Schema(format!("the metadata database {database} {found}: run `nozzle migrate`"))
}
