-- The queries of the PostgreSQL storage, by name. sqlite/queries.sql has the same names.
-- The connection's search_path is the schema.

-- name: meta
SELECT uuid, shard_count FROM meta WHERE uuid IS NOT NULL

-- name: make_meta
UPDATE meta SET uuid = %(uuid)s, shard_count = %(shard_count)s

-- name: confirm
UPDATE meta SET shard_count = shard_count

-- name: make_shard
INSERT INTO shards VALUES (%(shard)s, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

-- name: shards
SELECT shard, epoch, incarnation, reserved, checkpoint_seq, floor_ordinal, current_ordinal,
    current_epoch, current_generation, building_ordinal, building_epoch, building_generation,
    building_slices, void_ordinal, pieces, pieces_sum, checksum
FROM shards ORDER BY shard

-- name: shard
SELECT shard, epoch, incarnation, reserved, checkpoint_seq, floor_ordinal, current_ordinal,
    current_epoch, current_generation, building_ordinal, building_epoch, building_generation,
    building_slices, void_ordinal, pieces, pieces_sum, checksum
FROM shards WHERE shard = %(shard)s

-- name: set_shard
UPDATE shards SET epoch = %(epoch)s, incarnation = %(incarnation)s, reserved = %(reserved)s,
    checkpoint_seq = %(checkpoint_seq)s, floor_ordinal = %(floor)s, current_ordinal = %(current)s,
    current_epoch = %(current_epoch)s, current_generation = %(current_generation)s,
    building_ordinal = %(building)s, building_epoch = %(building_epoch)s,
    building_generation = %(building_generation)s, building_slices = %(building_slices)s,
    void_ordinal = %(void)s, pieces = %(pieces)s, pieces_sum = %(pieces_sum)s,
    checksum = %(checksum)s, changed_at = now()
WHERE shard = %(shard)s

-- name: last_sequences
SELECT shard, (
    SELECT last_seq FROM log WHERE log.shard = shards.shard ORDER BY first_seq DESC LIMIT 1
)
FROM shards ORDER BY shard

-- name: log_bytes
SELECT shard, sum(octet_length(records))::bigint FROM log JOIN shards USING (shard)
WHERE last_seq > checkpoint_seq
GROUP BY shard

-- name: gaps
SELECT shard, previous, first_seq FROM (
    SELECT shard, first_seq,
        coalesce(lag(last_seq) OVER (PARTITION BY shard ORDER BY first_seq), checkpoint_seq)
            AS previous
    FROM log JOIN shards USING (shard)
    WHERE last_seq > checkpoint_seq
) AS chain
WHERE first_seq > previous + 1
ORDER BY shard, first_seq LIMIT 1

-- name: parts
SELECT name, content FROM coordinator

-- name: put_part
INSERT INTO coordinator (name, content) VALUES (%(name)s, %(content)s)
ON CONFLICT (name) DO UPDATE SET content = excluded.content

-- name: drop_part
DELETE FROM coordinator WHERE name = %(name)s

-- name: append
INSERT INTO log (shard, first_seq, last_seq, epoch, checksum, records)
SELECT * FROM unnest(
    %(shards)s::integer[], %(first_seqs)s::bigint[], %(last_seqs)s::bigint[], %(epochs)s::bigint[],
    %(checksums)s::bigint[], %(records)s::bytea[]
)

-- name: copy_log
COPY log (shard, first_seq, last_seq, epoch, checksum, records) FROM STDIN (FORMAT BINARY)

-- name: add_page
INSERT INTO pages (shard, page, part, ordinal, piece, checksum, content)
VALUES (%(shard)s, %(page)s, %(part)s, %(ordinal)s, %(piece)s, %(checksum)s, %(content)s)

-- name: drop_ordinal
DELETE FROM pages WHERE shard = %(shard)s AND ordinal = %(ordinal)s
RETURNING shard, page, part, ordinal, piece, checksum

-- name: probe
SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean, EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND pid = pg_backend_pid()
        AND (classid::bigint << 32 | objid::bigint) = %(key)s
)

-- name: place
SELECT pg_is_in_recovery(), EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (classid::bigint << 32 | objid::bigint) = ANY (%(keys)s)
    GROUP BY pid HAVING count(*) = 2
)

-- name: piece_keys
SELECT shard, page, part, ordinal, piece, checksum FROM pages
ORDER BY shard, page, part, ordinal, piece

-- name: page_sizes
SELECT page, part, ordinal, sum(octet_length(content))
FROM pages AS mine
WHERE shard = %(shard)s AND page >= %(page)s AND ordinal = (
    SELECT max(ordinal) FROM pages AS same
    WHERE same.shard = mine.shard AND same.page = mine.page AND same.part = mine.part
        AND same.ordinal BETWEEN %(floor)s AND %(current)s AND same.ordinal <> %(void)s
)
GROUP BY page, part, ordinal
ORDER BY page, part
LIMIT %(limit)s

-- name: page_pieces
SELECT page, part, ordinal, checksum, content FROM pages
WHERE shard = %(shard)s AND page BETWEEN %(first)s AND %(last)s
    AND ordinal BETWEEN %(floor)s AND %(current)s AND ordinal <> %(void)s
ORDER BY page, part, ordinal, piece

-- name: log_sizes
SELECT first_seq, octet_length(records) FROM log
WHERE shard = %(shard)s AND first_seq >= %(first)s AND last_seq > %(checkpoint_seq)s
ORDER BY first_seq
LIMIT %(limit)s

-- name: log_blobs
SELECT first_seq, last_seq, checksum, records FROM log
WHERE shard = %(shard)s AND first_seq BETWEEN %(first)s AND %(last)s AND last_seq > %(checkpoint_seq)s
ORDER BY first_seq

-- name: trim_log
DELETE FROM log WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM log
    WHERE shard = %(shard)s AND first_seq <= %(checkpoint_seq)s AND last_seq <= %(checkpoint_seq)s
    ORDER BY first_seq LIMIT %(limit)s
))

-- name: cut_log
DELETE FROM log WHERE shard = %(shard)s AND last_seq > %(last)s

-- name: sweep_end
SELECT page FROM pages WHERE shard = %(shard)s AND page >= %(page)s ORDER BY page LIMIT 1 OFFSET %(rows)s

-- name: sweep_superseded
DELETE FROM pages AS mine
WHERE shard = %(shard)s AND page BETWEEN %(first)s AND %(last)s AND (
    ordinal = %(void)s OR ordinal < %(floor)s OR ordinal < (
        SELECT max(ordinal) FROM pages AS same
        WHERE same.shard = mine.shard AND same.page = mine.page AND same.part = mine.part
            AND same.ordinal BETWEEN %(floor)s AND %(current)s AND same.ordinal <> %(void)s
    )
)
RETURNING shard, page, part, ordinal, piece, checksum

-- name: sweep_gone
DELETE FROM pages
WHERE shard = %(shard)s AND page BETWEEN %(first)s AND %(last)s AND ordinal <= %(current)s
    AND octet_length(content) = 0
RETURNING shard, page, part, ordinal, piece, checksum
