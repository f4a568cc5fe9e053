-- Where a provider's endpoint is near to.
ALTER TABLE providers ADD COLUMN region TEXT;

-- A worker is a name; the fence says which process has it now.
CREATE TABLE workers (
    node_id       TEXT PRIMARY KEY,
    fence         INTEGER NOT NULL,
    version       TEXT NOT NULL,
    region        TEXT,
    started_at    TEXT NOT NULL,
    heartbeat_at  TEXT NOT NULL,
    ended_at      TEXT
) STRICT;

CREATE TABLE jobs (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset_id   INTEGER NOT NULL REFERENCES datasets (id),
    descriptor   TEXT NOT NULL,
    status       TEXT NOT NULL CHECK (status IN ('SCHEDULED', 'RUNNING', 'COMPLETED', 'FAILED',
                                                 'STOP_REQUESTED', 'STOPPING', 'STOPPED')),
    error        TEXT,
    revision_id  BLOB REFERENCES revisions (id),
    end_block    INTEGER CHECK (end_block >= 0),
    node_id      TEXT,
    created_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    updated_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

CREATE UNIQUE INDEX one_live_job ON jobs (dataset_id)
    WHERE status IN ('SCHEDULED', 'RUNNING', 'STOP_REQUESTED', 'STOPPING');

-- What is left to do of the live jobs: a task that is done is deleted.
CREATE TABLE tasks (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id        INTEGER NOT NULL REFERENCES jobs (id),
    kind          TEXT NOT NULL CHECK (kind IN ('head', 'range')),
    start_block   INTEGER CHECK (start_block >= 0),
    end_block     INTEGER CHECK (end_block >= start_block),
    -- A head task waits for the ranges of its job.
    is_waiting    INTEGER NOT NULL DEFAULT 0,
    -- Grows with each claim.
    fence         INTEGER NOT NULL DEFAULT 0,
    node_id       TEXT,
    worker_fence  INTEGER,
    attempts      INTEGER NOT NULL DEFAULT 0,
    not_before    TEXT,
    created_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    CHECK ((kind = 'range') = (start_block IS NOT NULL AND end_block IS NOT NULL)),
    CHECK ((node_id IS NULL) = (worker_fence IS NULL))
) STRICT;

CREATE INDEX tasks_by_job ON tasks (job_id);
CREATE INDEX held_tasks ON tasks (node_id) WHERE node_id IS NOT NULL;
