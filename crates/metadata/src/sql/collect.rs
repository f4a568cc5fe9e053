//! Statements of the collector that are the same on both databases.

/// Lets scans of the location `$1` at a moment before `$2` know that segments were collected.
pub(crate) const RAISE_COLLECTED: &str =
    "UPDATE locations SET collected_seq = $2 WHERE id = $1 AND collected_seq < $2";

/// Every name of an object of the location `$1`.
pub(crate) const NAMED: &str = "
    SELECT file_name FROM segments WHERE location_id = $1 AND file_name IS NOT NULL
    UNION SELECT name FROM recorded_objects WHERE location_id = $1
    UNION SELECT name FROM doomed_objects WHERE location_id = $1";

/// `$3` objects at most that are to be deleted, behind `$2` of the location `$1`.
pub(crate) const DOOMED: &str = "
    SELECT o.name AS object_name, l.revision_id, l.id AS location_id, l.table_name, l.url, l.schema
    FROM doomed_objects o JOIN locations l ON l.id = o.location_id
    WHERE (o.location_id, o.name) > ($1, $2)
    ORDER BY o.location_id, o.name LIMIT $3";
