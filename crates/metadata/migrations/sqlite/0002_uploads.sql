-- The store's id of an upload in parts: one that was never completed is ended by it.
ALTER TABLE recorded_objects ADD COLUMN upload TEXT;
