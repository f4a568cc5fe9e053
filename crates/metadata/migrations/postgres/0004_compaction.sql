-- A lease that gives way is a compaction's: a writer that wants its blocks ends it.
ALTER TABLE leases ADD COLUMN yields BOOLEAN NOT NULL DEFAULT FALSE;

CREATE INDEX ended_leases ON leases (ended_at) WHERE ended_at IS NOT NULL;

-- The collector goes by the time since when nobody needs a segment.
ALTER TABLE segments ADD COLUMN replaced_at TIMESTAMPTZ;

UPDATE segments SET replaced_at = clock_timestamp() WHERE replaced_seq IS NOT NULL;

CREATE INDEX collectable_segments ON segments (replaced_at) WHERE replaced_at IS NOT NULL;

-- The newest commit of its segments: whoever keeps revisions in order looks at those that have changed.
ALTER TABLE revisions ADD COLUMN changed_seq BIGINT NOT NULL DEFAULT 0;

-- A scan at an older moment than this one may lack segments that were collected.
ALTER TABLE locations ADD COLUMN collected_seq BIGINT NOT NULL DEFAULT 0;

-- Objects that nothing names any more and that are to be deleted.
CREATE TABLE doomed_objects (
    location_id  BIGINT NOT NULL REFERENCES locations (id),
    name         TEXT NOT NULL,
    PRIMARY KEY (location_id, name)
);
