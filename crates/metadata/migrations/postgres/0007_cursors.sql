-- Where the source's stream goes on behind the last block: of one table of each cut.
ALTER TABLE segments ADD COLUMN source_cursor TEXT;
