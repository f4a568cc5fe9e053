-- Where a provider's endpoint is near to.
ALTER TABLE providers ADD COLUMN region TEXT;

-- A worker is a name; the fence says which process has it now.
CREATE TABLE workers (
    node_id       TEXT PRIMARY KEY,
    fence         BIGINT NOT NULL,
    version       TEXT NOT NULL,
    region        TEXT,
    started_at    TIMESTAMPTZ NOT NULL,
    heartbeat_at  TIMESTAMPTZ NOT NULL,
    ended_at      TIMESTAMPTZ
);

CREATE TABLE jobs (
    id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dataset_id   BIGINT NOT NULL REFERENCES datasets (id),
    descriptor   TEXT NOT NULL,
    status       TEXT NOT NULL CHECK (status IN ('SCHEDULED', 'RUNNING', 'COMPLETED', 'FAILED',
                                                 'STOP_REQUESTED', 'STOPPING', 'STOPPED')),
    error        TEXT,
    revision_id  UUID REFERENCES revisions (id),
    end_block    BIGINT CHECK (end_block >= 0),
    node_id      TEXT,
    created_at   TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    updated_at   TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);

CREATE UNIQUE INDEX one_live_job ON jobs (dataset_id)
    WHERE status IN ('SCHEDULED', 'RUNNING', 'STOP_REQUESTED', 'STOPPING');

-- What is left to do of the live jobs: a task that is done is deleted.
CREATE TABLE tasks (
    id            BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id        BIGINT NOT NULL REFERENCES jobs (id),
    kind          TEXT NOT NULL CHECK (kind IN ('head', 'range')),
    start_block   BIGINT CHECK (start_block >= 0),
    end_block     BIGINT CHECK (end_block >= start_block),
    -- A head task waits for the ranges of its job.
    is_waiting    BOOLEAN NOT NULL DEFAULT FALSE,
    -- Grows with each claim.
    fence         BIGINT NOT NULL DEFAULT 0,
    node_id       TEXT,
    worker_fence  BIGINT,
    attempts      BIGINT NOT NULL DEFAULT 0,
    not_before    TIMESTAMPTZ,
    created_at    TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    CHECK ((kind = 'range') = (start_block IS NOT NULL AND end_block IS NOT NULL)),
    CHECK ((node_id IS NULL) = (worker_fence IS NULL))
);

CREATE INDEX tasks_by_job ON tasks (job_id);
CREATE INDEX held_tasks ON tasks (node_id) WHERE node_id IS NOT NULL;
