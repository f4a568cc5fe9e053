-- What the live segments of derived datasets were computed from: the ids of revisions, ascending, between commas.
-- Apart from the segments, so that those of raw datasets pay nothing for it.
CREATE TABLE segment_sources (
    segment_id   BIGINT PRIMARY KEY REFERENCES segments (id) ON DELETE CASCADE,
    location_id  BIGINT NOT NULL REFERENCES locations (id),
    sources      TEXT COLLATE "C" NOT NULL
);

-- Whether all segments of a location were computed from the same is told by the first and the last one.
CREATE INDEX sources_by_location ON segment_sources (location_id, sources);

-- Of what was stored before, nobody has written it down.
INSERT INTO segment_sources (segment_id, location_id, sources)
SELECT s.id, s.location_id, ''
FROM segments s
JOIN locations l ON l.id = s.location_id
JOIN revisions r ON r.id = l.revision_id
JOIN datasets d ON d.id = r.dataset_id
WHERE s.replaced_seq IS NULL AND d.kind IN ('manifest', 'sql');
