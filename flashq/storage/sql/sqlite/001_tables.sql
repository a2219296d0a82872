-- The tables of a storage. Sequences, epochs and times are integers; contents are opaque bytes,
-- and so are names: what a database takes for text depends on its encoding.

CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    uuid BLOB NOT NULL,
    shard_count INTEGER NOT NULL
);

-- A checkpoint is a generation, named by its shard's epoch and a number. Here each one that begins
-- gets the shard's next ordinal. Of each page the newest ordinal counts that is neither below
-- floor_ordinal, nor above current_ordinal, nor void_ordinal.
CREATE TABLE shards (
    shard INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    reserved INTEGER NOT NULL,
    checkpoint_seq INTEGER NOT NULL,
    floor_ordinal INTEGER NOT NULL,
    current_ordinal INTEGER NOT NULL,
    current_epoch INTEGER NOT NULL,
    current_generation INTEGER NOT NULL,
    -- the generation that is being written; 0 for none
    building_ordinal INTEGER NOT NULL,
    building_epoch INTEGER NOT NULL,
    building_generation INTEGER NOT NULL,
    building_slices INTEGER NOT NULL,
    -- one that was given up and is not swept away yet; 0 for none
    void_ordinal INTEGER NOT NULL,
    -- how many rows of pages the shard has, the sum over what names them, and the row's checksum
    pieces INTEGER NOT NULL,
    pieces_sum INTEGER NOT NULL,
    checksum INTEGER NOT NULL
);

CREATE TABLE log (
    shard INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    records BLOB NOT NULL,
    PRIMARY KEY (shard, first_seq)
);

-- Page -1 holds the keyed parts, by name; other pages have no name. A large content is cut into
-- pieces. An empty content says that the page is gone.
CREATE TABLE pages (
    shard INTEGER NOT NULL,
    page INTEGER NOT NULL,
    part BLOB NOT NULL,
    ordinal INTEGER NOT NULL,
    piece INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (shard, page, part, ordinal, piece)
);

CREATE TABLE coordinator (
    name BLOB NOT NULL PRIMARY KEY,
    content BLOB NOT NULL
);
