-- The queries of the SQLite storage, by name. postgres/queries.sql has the same names.

-- name: meta
SELECT uuid, shard_count FROM meta

-- name: make_meta
INSERT INTO meta (one, uuid, shard_count) VALUES (1, :uuid, :shard_count)

-- name: make_shard
INSERT INTO shards VALUES (:shard, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

-- name: shards
SELECT shard, epoch, incarnation, reserved, checkpoint_seq, floor_ordinal, current_ordinal,
    current_epoch, current_generation, building_ordinal, building_epoch, building_generation,
    building_slices, void_ordinal, pieces, pieces_sum, checksum
FROM shards ORDER BY shard

-- name: shard
SELECT shard, epoch, incarnation, reserved, checkpoint_seq, floor_ordinal, current_ordinal,
    current_epoch, current_generation, building_ordinal, building_epoch, building_generation,
    building_slices, void_ordinal, pieces, pieces_sum, checksum
FROM shards WHERE shard = :shard

-- name: set_shard
UPDATE shards SET epoch = :epoch, incarnation = :incarnation, reserved = :reserved,
    checkpoint_seq = :checkpoint_seq, floor_ordinal = :floor, current_ordinal = :current,
    current_epoch = :current_epoch, current_generation = :current_generation,
    building_ordinal = :building, building_epoch = :building_epoch,
    building_generation = :building_generation, building_slices = :building_slices,
    void_ordinal = :void, pieces = :pieces, pieces_sum = :pieces_sum,
    checksum = :checksum
WHERE shard = :shard

-- name: last_sequences
SELECT shard, (
    SELECT last_seq FROM log INDEXED BY sqlite_autoindex_log_1
    WHERE log.shard = shards.shard ORDER BY first_seq DESC LIMIT 1
)
FROM shards ORDER BY shard

-- name: log_bytes
SELECT shard, sum(length(records)) FROM log JOIN shards USING (shard)
WHERE last_seq > checkpoint_seq
GROUP BY shard

-- name: gaps
SELECT shard, previous, first_seq FROM (
    SELECT shard, first_seq,
        coalesce(lag(last_seq) OVER (PARTITION BY shard ORDER BY first_seq), checkpoint_seq)
            AS previous
    FROM log INDEXED BY sqlite_autoindex_log_1 JOIN shards USING (shard)
    WHERE last_seq > checkpoint_seq
)
WHERE first_seq > previous + 1
ORDER BY shard, first_seq LIMIT 1

-- name: parts
SELECT name, content FROM coordinator

-- name: put_part
INSERT INTO coordinator (name, content) VALUES (:name, :content)
ON CONFLICT (name) DO UPDATE SET content = excluded.content

-- name: drop_part
DELETE FROM coordinator WHERE name = :name

-- name: append
INSERT INTO log (shard, first_seq, last_seq, epoch, checksum, records)
VALUES (:shard, :first_seq, :last_seq, :epoch, :checksum, :records)

-- name: add_page
INSERT INTO pages (shard, page, part, ordinal, piece, checksum, content)
VALUES (:shard, :page, :part, :ordinal, :piece, :checksum, :content)

-- name: drop_ordinal
DELETE FROM pages WHERE shard = :shard AND ordinal = :ordinal
RETURNING shard, page, part, ordinal, piece, checksum

-- name: piece_keys
SELECT shard, page, part, ordinal, piece, checksum FROM pages INDEXED BY sqlite_autoindex_pages_1
ORDER BY shard, page, part, ordinal, piece

-- name: page_sizes
SELECT page, part, ordinal, sum(length(content))
FROM pages AS mine
WHERE shard = :shard AND page >= :page AND ordinal = (
    SELECT max(ordinal) FROM pages AS same
    WHERE same.shard = mine.shard AND same.page = mine.page AND same.part = mine.part
        AND same.ordinal BETWEEN :floor AND :current AND same.ordinal <> :void
)
GROUP BY page, part, ordinal
ORDER BY page, part
LIMIT :limit

-- name: page_pieces
SELECT page, part, ordinal, checksum, content FROM pages
WHERE shard = :shard AND page BETWEEN :first AND :last
    AND ordinal BETWEEN :floor AND :current AND ordinal <> :void
ORDER BY page, part, ordinal, piece

-- name: log_sizes
SELECT first_seq, length(records) FROM log
WHERE shard = :shard AND first_seq >= :first AND last_seq > :checkpoint_seq
ORDER BY first_seq
LIMIT :limit

-- name: log_blobs
SELECT first_seq, last_seq, checksum, records FROM log
WHERE shard = :shard AND first_seq BETWEEN :first AND :last AND last_seq > :checkpoint_seq
ORDER BY first_seq

-- name: trim_log
DELETE FROM log WHERE rowid IN (
    SELECT rowid FROM log
    WHERE shard = :shard AND first_seq <= :checkpoint_seq AND last_seq <= :checkpoint_seq
    ORDER BY first_seq LIMIT :limit
)

-- name: cut_log
DELETE FROM log WHERE shard = :shard AND last_seq > :last

-- name: sweep_end
SELECT page FROM pages WHERE shard = :shard AND page >= :page ORDER BY page LIMIT 1 OFFSET :rows

-- name: sweep_superseded
DELETE FROM pages AS mine
WHERE shard = :shard AND page BETWEEN :first AND :last AND (
    ordinal = :void OR ordinal < :floor OR ordinal < (
        SELECT max(ordinal) FROM pages AS same
        WHERE same.shard = mine.shard AND same.page = mine.page AND same.part = mine.part
            AND same.ordinal BETWEEN :floor AND :current AND same.ordinal <> :void
    )
)
RETURNING shard, page, part, ordinal, piece, checksum

-- name: sweep_gone
DELETE FROM pages
WHERE shard = :shard AND page BETWEEN :first AND :last AND ordinal <= :current
    AND length(content) = 0
RETURNING shard, page, part, ordinal, piece, checksum
