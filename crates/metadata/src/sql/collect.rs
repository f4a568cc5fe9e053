//! Statements of the collector that are the same on both databases.

/// Lets scans of the location `$1` at a moment before `$2` know that segments were collected.
pub(crate) const RAISE_COLLECTED: &str =
    "UPDATE locations SET collected_seq = $2 WHERE id = $1 AND collected_seq < $2";

/// `$1` objects at most that are to be deleted.
pub(crate) const DOOMED: &str = "
    SELECT o.name AS object_name, l.revision_id, l.id AS location_id, l.table_name, l.url, l.schema
    FROM doomed_objects o JOIN locations l ON l.id = o.location_id
    ORDER BY o.location_id, o.name LIMIT $1";
