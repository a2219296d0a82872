-- The tables of a storage. Sequences, epochs and times are integers; contents are opaque bytes,
-- and so are names: what a database takes for text depends on its encoding.
-- The schema and flashq.meta are there already: they say which migrations have been made.

ALTER TABLE flashq.meta ADD COLUMN uuid bytea, ADD COLUMN shard_count integer;

-- A checkpoint is a generation, named by its shard's epoch and a number. Here each one that begins
-- gets the shard's next ordinal. Of each page the newest ordinal counts that is neither below
-- floor_ordinal, nor above current_ordinal, nor void_ordinal.
CREATE TABLE flashq.shards (
    shard integer PRIMARY KEY,
    epoch bigint NOT NULL,
    incarnation bigint NOT NULL,
    reserved bigint NOT NULL,
    checkpoint_seq bigint NOT NULL,
    floor_ordinal bigint NOT NULL,
    current_ordinal bigint NOT NULL,
    current_epoch bigint NOT NULL,
    current_generation bigint NOT NULL,
    -- the generation that is being written; 0 for none
    building_ordinal bigint NOT NULL,
    building_epoch bigint NOT NULL,
    building_generation bigint NOT NULL,
    building_slices bigint NOT NULL,
    -- one that was given up and is not swept away yet; 0 for none
    void_ordinal bigint NOT NULL,
    -- how many rows of pages the shard has, the sum over what names them, and the row's checksum
    pieces bigint NOT NULL,
    pieces_sum bigint NOT NULL,
    checksum bigint NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 25);

CREATE TABLE flashq.log (
    shard integer NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    epoch bigint NOT NULL,
    checksum bigint NOT NULL,
    records bytea NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, first_seq)
);

-- Page -1 holds the keyed parts, by name; other pages have no name. A large content is cut into
-- pieces. An empty content says that the page is gone.
CREATE TABLE flashq.pages (
    shard integer NOT NULL,
    page bigint NOT NULL,
    part bytea NOT NULL,
    ordinal bigint NOT NULL,
    piece integer NOT NULL,
    checksum bigint NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (shard, page, part, ordinal, piece)
);

CREATE TABLE flashq.coordinator (
    name bytea PRIMARY KEY,
    content bytea NOT NULL
) WITH (fillfactor = 50);

-- To compress what is read once and deleted soon costs more than it saves: 7.9 against 4.8 million
-- jobs a second.
ALTER TABLE flashq.log ALTER COLUMN records SET STORAGE EXTERNAL;
ALTER TABLE flashq.pages ALTER COLUMN content SET STORAGE EXTERNAL;

-- Both tables are written and deleted all the time: what is deleted has to be free again at the
-- next look, however much else there is.
ALTER TABLE flashq.log SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 10000,
    toast.autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE flashq.pages SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 10000,
    toast.autovacuum_vacuum_cost_delay = 0
);
