-- Times are RFC 3339 in UTC, written by SQLite's clock. Block numbers are below 2^63.

CREATE TABLE datasets (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT NOT NULL,
    version     TEXT NOT NULL,
    kind        TEXT NOT NULL,
    network     TEXT,
    manifest    TEXT NOT NULL,
    created_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    removed_at  TEXT
) STRICT;

CREATE UNIQUE INDEX datasets_by_name ON datasets (name, version) WHERE removed_at IS NULL;

CREATE TABLE providers (
    name     TEXT PRIMARY KEY,
    kind     TEXT NOT NULL,
    network  TEXT NOT NULL,
    config   TEXT NOT NULL,
    origin   TEXT NOT NULL CHECK (origin IN ('file', 'api'))
) STRICT;

CREATE TABLE revisions (
    id             BLOB PRIMARY KEY CHECK (length(id) = 16),
    dataset_id     INTEGER NOT NULL REFERENCES datasets (id),
    state          TEXT NOT NULL CHECK (state IN ('building', 'active', 'retired')),
    created_at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    activated_seq  INTEGER,
    retired_seq    INTEGER,
    retired_at     TEXT,
    CHECK ((state = 'retired') = (retired_at IS NOT NULL))
) STRICT;

CREATE INDEX revisions_by_dataset ON revisions (dataset_id);
CREATE UNIQUE INDEX one_building_revision ON revisions (dataset_id) WHERE state = 'building';
CREATE UNIQUE INDEX one_active_revision ON revisions (dataset_id) WHERE state = 'active';

-- One table of one revision: a folder of the object store.
CREATE TABLE locations (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    revision_id  BLOB NOT NULL REFERENCES revisions (id),
    ordinal      INTEGER NOT NULL,
    table_name   TEXT NOT NULL,
    url          TEXT NOT NULL,
    -- The columns as JSON.
    schema       TEXT NOT NULL,
    UNIQUE (revision_id, ordinal),
    UNIQUE (revision_id, table_name)
) STRICT;

-- A segment is seen by a scan at sequence S if added_seq <= S and it was not replaced by then.
CREATE TABLE segments (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    location_id     INTEGER NOT NULL REFERENCES locations (id),
    start_block     INTEGER NOT NULL CHECK (start_block >= 0),
    end_block       INTEGER NOT NULL CHECK (end_block >= start_block),
    prev_hash       BLOB NOT NULL CHECK (length(prev_hash) = 32),
    hash            BLOB NOT NULL CHECK (length(hash) = 32),
    file_name       TEXT,
    size_bytes      INTEGER,
    row_count       INTEGER,
    e_tag           TEXT,
    object_version  TEXT,
    added_seq       INTEGER NOT NULL,
    replaced_seq    INTEGER CHECK (replaced_seq > added_seq),
    CHECK ((file_name IS NULL) = (size_bytes IS NULL) AND (file_name IS NULL) = (row_count IS NULL))
) STRICT;

-- The live segments of a location are disjoint, so at most one begins at a block.
CREATE UNIQUE INDEX live_segments ON segments (location_id, start_block) WHERE replaced_seq IS NULL;
CREATE INDEX replaced_segments ON segments (location_id, replaced_seq) WHERE replaced_seq IS NOT NULL;

-- Apart from the segments, so that listing those stays cheap.
CREATE TABLE footers (
    segment_id  INTEGER PRIMARY KEY REFERENCES segments (id) ON DELETE CASCADE,
    footer      BLOB NOT NULL
) STRICT;

-- AUTOINCREMENT never gives an id twice: the id is the fence.
CREATE TABLE leases (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    revision_id   BLOB NOT NULL REFERENCES revisions (id),
    start_block   INTEGER NOT NULL CHECK (start_block >= 0),
    end_block     INTEGER NOT NULL CHECK (end_block >= start_block),
    holder        TEXT NOT NULL,
    created_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    heartbeat_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    ended_at      TEXT
) STRICT;

CREATE INDEX held_leases ON leases (revision_id) WHERE ended_at IS NULL;

-- Names of objects that were about to be uploaded and that no commit has taken up.
CREATE TABLE recorded_objects (
    location_id  INTEGER NOT NULL REFERENCES locations (id),
    name         TEXT NOT NULL,
    lease_id     INTEGER NOT NULL REFERENCES leases (id),
    PRIMARY KEY (location_id, name)
) STRICT, WITHOUT ROWID;

-- One row: the sequence number of the newest commit.
CREATE TABLE commit_counter (
    only_row  INTEGER PRIMARY KEY CHECK (only_row = 1),
    sequence  INTEGER NOT NULL
) STRICT;

INSERT INTO commit_counter (only_row, sequence) VALUES (1, 0);

CREATE TABLE finality (
    network           TEXT PRIMARY KEY,
    head_number       INTEGER NOT NULL CHECK (head_number >= 0),
    head_hash         BLOB NOT NULL CHECK (length(head_hash) = 32),
    finalized_number  INTEGER CHECK (finalized_number >= 0),
    finalized_hash    BLOB CHECK (length(finalized_hash) = 32),
    updated_at        TEXT NOT NULL,
    CHECK ((finalized_number IS NULL) = (finalized_hash IS NULL))
) STRICT;
