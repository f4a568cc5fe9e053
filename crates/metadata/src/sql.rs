//! The statements that are the same on both databases.
//!
//! A segment is seen at the moment `S` if `added_seq <= S AND (replaced_seq IS NULL OR
//! replaced_seq > S)`. The statements below ask for the two halves apart, each by an index of its
//! own: those that are live now, which are disjoint, and those that were replaced since `S`, which
//! are few. So a scan never passes over what was replaced before it and awaits collection.

pub(crate) mod collect;
pub(crate) mod jobs;

macro_rules! dataset_columns {
    () => {
        "d.id AS dataset_id, d.name, d.version, d.kind, d.network, d.manifest, \
         d.created_at AS dataset_created_at"
    };
}

pub(crate) use dataset_columns;

macro_rules! revision_columns {
    () => {
        "r.id AS revision_id, r.dataset_id, r.state, r.created_at AS revision_created_at, r.retired_at, \
         r.changed_seq"
    };
}

macro_rules! location_columns {
    () => {
        "l.revision_id, l.id AS location_id, l.table_name, l.url, l.schema"
    };
}

macro_rules! segment_columns {
    () => {
        "s.id AS segment_id, s.start_block, s.end_block, s.prev_hash, s.hash, s.file_name, \
         s.size_bytes, s.row_count, s.e_tag, s.object_version, s.added_seq, s.replaced_seq"
    };
}

pub(crate) use segment_columns;

/// What a scan selects from the segments of the location `$1` that share a block with `$2..=$3`
/// and are seen at `$4`. Of the live ones, which are disjoint, only one can begin below `$2` and
/// reach into the range: the one that begins last.
macro_rules! scan {
    ($columns:expr) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM segments s
              WHERE s.location_id = $1 AND s.replaced_seq IS NULL AND s.added_seq <= $4
                AND s.start_block <= $3 AND s.end_block >= $2
                AND s.start_block >= COALESCE(
                    (SELECT b.start_block FROM segments b
                     WHERE b.location_id = $1 AND b.replaced_seq IS NULL AND b.start_block <= $2
                     ORDER BY b.start_block DESC LIMIT 1), $2)
              UNION ALL
              SELECT ",
            $columns,
            " FROM segments s
              WHERE s.location_id = $1 AND s.replaced_seq > $4 AND s.added_seq <= $4
                AND s.start_block <= $3 AND s.end_block >= $2"
        )
    };
}

/// Registers a dataset `$1..=$5`; no row where the name and version are taken.
pub(crate) const INSERT_DATASET: &str =
    "INSERT INTO datasets (name, version, kind, network, manifest) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (name, version) WHERE removed_at IS NULL DO NOTHING RETURNING id";

/// The registered datasets.
pub(crate) const DATASETS: &str =
    concat!("SELECT ", dataset_columns!(), " FROM datasets d WHERE d.removed_at IS NULL");

/// The registered datasets of the name `$1`.
pub(crate) const DATASETS_BY_NAME: &str =
    concat!("SELECT ", dataset_columns!(), " FROM datasets d WHERE d.removed_at IS NULL AND d.name = $1");

/// Writes a provider `$1..=$6`.
pub(crate) const PUT_PROVIDER: &str =
    "INSERT INTO providers (name, kind, network, region, config, origin) VALUES ($1, $2, $3, $4, $5, $6)
     ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, network = excluded.network,
         region = excluded.region, config = excluded.config, origin = excluded.origin";

/// All providers.
pub(crate) const PROVIDERS: &str = "SELECT name, kind, network, region, config, origin FROM providers";

/// Removes the provider `$1`.
pub(crate) const DELETE_PROVIDER: &str = "DELETE FROM providers WHERE name = $1";

/// Makes a revision `$1` of the dataset `$2` in the state `$3`.
pub(crate) const INSERT_REVISION: &str = "INSERT INTO revisions (id, dataset_id, state, activated_seq)
     SELECT $1, $2, $3, CASE WHEN $3 = 'active' THEN sequence END FROM commit_counter";

/// Makes the location of the table `$3` of the revision `$1`, the `$2`th.
pub(crate) const INSERT_LOCATION: &str =
    "INSERT INTO locations (revision_id, ordinal, table_name, url, schema) VALUES ($1, $2, $3, $4, $5)";

/// Changes the columns of the location `$1` from `$2` to `$3`.
pub(crate) const CHANGE_SCHEMA: &str = "UPDATE locations SET schema = $3 WHERE id = $1 AND schema = $2";

/// The revisions of the dataset `$1`, oldest first.
pub(crate) const REVISIONS: &str = concat!(
    "SELECT ",
    revision_columns!(),
    " FROM revisions r WHERE r.dataset_id = $1 ORDER BY r.created_at, r.id"
);

/// The locations of the revisions of the dataset `$1`.
pub(crate) const LOCATIONS_OF_DATASET: &str = concat!(
    "SELECT ",
    location_columns!(),
    " FROM locations l JOIN revisions r ON r.id = l.revision_id WHERE r.dataset_id = $1
      ORDER BY l.revision_id, l.ordinal"
);

/// The locations of the revision `$1`.
pub(crate) const LOCATIONS: &str =
    concat!("SELECT ", location_columns!(), " FROM locations l WHERE l.revision_id = $1 ORDER BY l.ordinal");

/// The newest commit's sequence number.
pub(crate) const SEQUENCE: &str = "SELECT sequence FROM commit_counter";

/// The present moment in one statement, which is one moment on both databases: a row for each
/// location of each active revision. The manifest, which may be long, is in the first row of each
/// dataset only, and so marks it.
pub(crate) const SNAPSHOT: &str = "
    SELECT c.sequence,
           d.id AS dataset_id, d.name, d.version, d.kind, d.network,
           CASE WHEN COALESCE(l.ordinal, 0) = 0 THEN d.manifest END AS manifest,
           d.created_at AS dataset_created_at,
           r.id AS revision_id, r.state, r.created_at AS revision_created_at, r.changed_seq,
           l.id AS location_id, l.table_name, l.url, l.schema
    FROM commit_counter c
    LEFT JOIN datasets d ON d.removed_at IS NULL
    LEFT JOIN revisions r ON r.dataset_id = d.id AND r.state = 'active'
    LEFT JOIN locations l ON l.revision_id = r.id
    ORDER BY d.id, l.ordinal";

/// The segments of a scan, by their start, each with the moment before which some were collected.
pub(crate) const SEGMENTS: &str = concat!(
    scan!(concat!(
        segment_columns!(),
        ", (SELECT l.collected_seq FROM locations l WHERE l.id = $1) AS collected_seq"
    )),
    " ORDER BY start_block"
);

/// The moment before which segments of the location `$1` were collected.
pub(crate) const COLLECTED: &str = "SELECT collected_seq FROM locations WHERE id = $1";

/// The spans of a scan, by their start.
pub(crate) const SPANS: &str =
    concat!(scan!("s.start_block, s.end_block, s.prev_hash, s.hash"), " ORDER BY start_block");

/// Totals over a scan.
pub(crate) const TOTALS: &str = concat!(
    "SELECT COUNT(*) AS segments, COUNT(file_name) AS files,
            CAST(COALESCE(SUM(row_count), 0) AS BIGINT) AS row_count,
            CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) AS size_bytes,
            MIN(start_block) AS start_block, MAX(end_block) AS end_block
     FROM (",
    scan!("s.start_block, s.end_block, s.file_name, s.row_count, s.size_bytes"),
    ") seen"
);

/// The least and the greatest of what the live segments of the location `$1` were computed from.
pub(crate) const SOURCE_BOUNDS: &str =
    "SELECT (SELECT MIN(sources) FROM segment_sources WHERE location_id = $1) AS least,
            (SELECT MAX(sources) FROM segment_sources WHERE location_id = $1) AS greatest";

/// Half of the segments of the location `$1` that begin in `$3..=$4` and were computed from something else than
/// `$2`: what is less or greater than that is a range of the index, empty where all of them are of `$2`.
macro_rules! stale {
    ($than:literal) => {
        concat!(
            "SELECT ",
            segment_columns!(),
            " FROM segment_sources o JOIN segments s ON s.id = o.segment_id
              WHERE o.location_id = $1 AND o.sources ",
            $than,
            " $2 AND s.start_block >= $3 AND s.start_block <= $4"
        )
    };
}

/// The live segments that were computed from something else, by their start, `$5` at most.
pub(crate) const STALE: &str =
    concat!(stale!("<"), " UNION ALL ", stale!(">"), " ORDER BY start_block LIMIT $5");

/// The cursor of the live segment of the location `$1` that ends with the block `$2`, `$3`.
pub(crate) const CURSOR: &str = "SELECT s.source_cursor FROM segments s
     WHERE s.location_id = $1 AND s.replaced_seq IS NULL AND s.end_block = $2 AND s.hash = $3
       AND s.start_block = (SELECT MAX(b.start_block) FROM segments b
                            WHERE b.location_id = $1 AND b.replaced_seq IS NULL AND b.start_block <= $2)";

/// The segment `$1` with all that it belongs to.
pub(crate) const FILE: &str = concat!(
    "SELECT ",
    dataset_columns!(),
    ", ",
    location_columns!(),
    ", ",
    segment_columns!(),
    " FROM segments s
      JOIN locations l ON l.id = s.location_id
      JOIN revisions r ON r.id = l.revision_id
      JOIN datasets d ON d.id = r.dataset_id
      WHERE s.id = $1"
);

/// The locations above `$1`, or only `$2`, `$3` at most.
pub(crate) const LOCATION_RECORDS: &str = concat!(
    "SELECT ",
    dataset_columns!(),
    ", ",
    location_columns!(),
    ", r.state
      FROM locations l
      JOIN revisions r ON r.id = l.revision_id
      JOIN datasets d ON d.id = r.dataset_id
      WHERE ($1 IS NULL OR l.id > $1) AND ($2 IS NULL OR l.id = $2)
      ORDER BY l.id LIMIT $3"
);

/// What is stored of revisions now, given a statement that lists their ids. The linked run ends with the
/// first segment that the next one does not link to.
macro_rules! stored_at {
    ($revisions:expr) => {
        concat!(
            "SELECT l.revision_id, r.changed_seq, l.table_name, l.id AS location_id, COUNT(s.id) AS segments, COUNT(s.file_name) AS files,
                    CAST(COALESCE(SUM(s.row_count), 0) AS BIGINT) AS row_count,
                    CAST(COALESCE(SUM(s.size_bytes), 0) AS BIGINT) AS size_bytes,
                    MIN(s.start_block) AS start_block, MAX(s.end_block) AS end_block,
                    (SELECT e.end_block FROM segments e
                      WHERE e.location_id = l.id AND e.replaced_seq IS NULL AND NOT EXISTS (
                          SELECT 1 FROM segments n
                           WHERE n.location_id = l.id AND n.replaced_seq IS NULL
                             AND n.start_block = e.end_block + 1 AND n.prev_hash = e.hash)
                      ORDER BY e.start_block LIMIT 1) AS linked_until
               FROM locations l
               JOIN revisions r ON r.id = l.revision_id
               LEFT JOIN segments s ON s.location_id = l.id AND s.replaced_seq IS NULL
              WHERE l.revision_id IN ",
            $revisions,
            " GROUP BY l.revision_id, r.changed_seq, l.table_name, l.id ORDER BY l.id"
        )
    };
}
pub(crate) use stored_at;

/// The live segments with files of some locations, given a statement that lists the locations' ids, above
/// the segment `$2`, `$3` at most.
macro_rules! live_files {
    ($ids:expr) => {
        concat!(
            "SELECT s.location_id, ",
            crate::sql::segment_columns!(),
            " FROM segments s WHERE s.replaced_seq IS NULL AND s.file_name IS NOT NULL
               AND ($2 IS NULL OR s.id > $2) AND s.location_id IN ",
            $ids,
            " ORDER BY s.id LIMIT $3"
        )
    };
}
pub(crate) use live_files;

/// Grants a lease on `$2..=$3` of the revision `$1` to `$4`, which gives way where `$5` says so.
pub(crate) const INSERT_LEASE: &str =
    "INSERT INTO leases (revision_id, start_block, end_block, holder, yields)
     VALUES ($1, $2, $3, $4, $5) RETURNING id";

/// Records the object `$2` of the location `$1` under the lease `$3`; where it is recorded
/// already, gives the lease that it is recorded under.
pub(crate) const RECORD_OBJECT: &str =
    "INSERT INTO recorded_objects (location_id, name, lease_id) VALUES ($1, $2, $3)
     ON CONFLICT (location_id, name) DO UPDATE SET lease_id = recorded_objects.lease_id RETURNING lease_id";

/// Adds to the object `$2` of the location `$1` the id of its upload.
pub(crate) const RECORD_UPLOAD: &str =
    "UPDATE recorded_objects SET upload = $3 WHERE location_id = $1 AND name = $2";

/// Forgets the object `$2` of the location `$1`.
pub(crate) const FORGET_OBJECT: &str = "DELETE FROM recorded_objects WHERE location_id = $1 AND name = $2";

/// What is known of the network `$1`.
pub(crate) const FINALITY: &str =
    "SELECT head_number, head_hash, finalized_number, finalized_hash FROM finality WHERE network = $1";

/// Ids as one parameter: a JSON array, which both databases take apart.
pub(crate) fn id_list(ids: impl Iterator<Item = i64>) -> String {
    let ids: Vec<_> = ids.map(|id| id.to_string()).collect();
    format!("[{}]", ids.join(","))
}
