-- Times are by the server's clock. Block numbers are below 2^63.

CREATE TABLE datasets (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        TEXT NOT NULL,
    version     TEXT NOT NULL,
    kind        TEXT NOT NULL,
    network     TEXT,
    manifest    TEXT NOT NULL,
    created_at  TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    removed_at  TIMESTAMPTZ
);

CREATE UNIQUE INDEX datasets_by_name ON datasets (name, version) WHERE removed_at IS NULL;

CREATE TABLE providers (
    name     TEXT PRIMARY KEY,
    kind     TEXT NOT NULL,
    network  TEXT NOT NULL,
    config   TEXT NOT NULL,
    origin   TEXT NOT NULL CHECK (origin IN ('file', 'api'))
);

CREATE TABLE revisions (
    id             UUID PRIMARY KEY,
    dataset_id     BIGINT NOT NULL REFERENCES datasets (id),
    state          TEXT NOT NULL CHECK (state IN ('building', 'active', 'retired')),
    created_at     TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    activated_seq  BIGINT,
    retired_seq    BIGINT,
    retired_at     TIMESTAMPTZ,
    CHECK ((state = 'retired') = (retired_at IS NOT NULL))
);

CREATE INDEX revisions_by_dataset ON revisions (dataset_id);
CREATE UNIQUE INDEX one_building_revision ON revisions (dataset_id) WHERE state = 'building';
CREATE UNIQUE INDEX one_active_revision ON revisions (dataset_id) WHERE state = 'active';

-- One table of one revision: a folder of the object store.
CREATE TABLE locations (
    id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    revision_id  UUID NOT NULL REFERENCES revisions (id),
    ordinal      BIGINT NOT NULL,
    table_name   TEXT NOT NULL,
    url          TEXT NOT NULL,
    -- The columns as JSON.
    schema       TEXT NOT NULL,
    UNIQUE (revision_id, ordinal),
    UNIQUE (revision_id, table_name)
);

-- A segment is seen by a scan at sequence S if added_seq <= S and it was not replaced by then.
CREATE TABLE segments (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    location_id     BIGINT NOT NULL REFERENCES locations (id),
    start_block     BIGINT NOT NULL CHECK (start_block >= 0),
    end_block       BIGINT NOT NULL CHECK (end_block >= start_block),
    prev_hash       BYTEA NOT NULL CHECK (octet_length(prev_hash) = 32),
    hash            BYTEA NOT NULL CHECK (octet_length(hash) = 32),
    file_name       TEXT,
    size_bytes      BIGINT,
    row_count       BIGINT,
    e_tag           TEXT,
    object_version  TEXT,
    added_seq       BIGINT NOT NULL,
    replaced_seq    BIGINT CHECK (replaced_seq > added_seq),
    CHECK ((file_name IS NULL) = (size_bytes IS NULL) AND (file_name IS NULL) = (row_count IS NULL))
);

-- The live segments of a location are disjoint, so at most one begins at a block.
CREATE UNIQUE INDEX live_segments ON segments (location_id, start_block) WHERE replaced_seq IS NULL;
CREATE INDEX replaced_segments ON segments (location_id, replaced_seq) WHERE replaced_seq IS NOT NULL;

-- Apart from the segments, so that listing those stays cheap.
CREATE TABLE footers (
    segment_id  BIGINT PRIMARY KEY REFERENCES segments (id) ON DELETE CASCADE,
    footer      BYTEA NOT NULL
);

-- An identity never gives an id twice: the id is the fence.
CREATE TABLE leases (
    id            BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    revision_id   UUID NOT NULL REFERENCES revisions (id),
    start_block   BIGINT NOT NULL CHECK (start_block >= 0),
    end_block     BIGINT NOT NULL CHECK (end_block >= start_block),
    holder        TEXT NOT NULL,
    created_at    TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at  TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    ended_at      TIMESTAMPTZ
);

CREATE INDEX held_leases ON leases (revision_id) WHERE ended_at IS NULL;

-- Names of objects that were about to be uploaded and that no commit has taken up.
CREATE TABLE recorded_objects (
    location_id  BIGINT NOT NULL REFERENCES locations (id),
    name         TEXT NOT NULL,
    lease_id     BIGINT NOT NULL REFERENCES leases (id),
    PRIMARY KEY (location_id, name)
);

-- One row: the sequence number of the newest commit.
CREATE TABLE commit_counter (
    only_row  BIGINT PRIMARY KEY CHECK (only_row = 1),
    sequence  BIGINT NOT NULL
);

INSERT INTO commit_counter (only_row, sequence) VALUES (1, 0);

CREATE TABLE finality (
    network           TEXT PRIMARY KEY,
    head_number       BIGINT NOT NULL CHECK (head_number >= 0),
    head_hash         BYTEA NOT NULL CHECK (octet_length(head_hash) = 32),
    finalized_number  BIGINT CHECK (finalized_number >= 0),
    finalized_hash    BYTEA CHECK (octet_length(finalized_hash) = 32),
    updated_at        TIMESTAMPTZ NOT NULL,
    CHECK ((finalized_number IS NULL) = (finalized_hash IS NULL))
);
