-- For people: what each shard has in storage. docs/STORAGE.md has queries over these.

-- The log that a restart would replay, and what waits to be swept away.
CREATE VIEW flashq.log_sizes AS
SELECT shards.shard, shards.epoch, shards.checkpoint_seq,
    coalesce(max(log.last_seq), shards.checkpoint_seq) AS last_seq,
    count(log.shard) FILTER (WHERE log.last_seq > shards.checkpoint_seq) AS blobs,
    coalesce(sum(octet_length(log.records))
        FILTER (WHERE log.last_seq > shards.checkpoint_seq), 0) AS bytes,
    count(log.shard) FILTER (WHERE log.last_seq <= shards.checkpoint_seq) AS superseded_blobs,
    min(log.written_at) FILTER (WHERE log.last_seq > shards.checkpoint_seq) AS oldest_at,
    max(log.written_at) AS newest_at
FROM flashq.shards LEFT JOIN flashq.log USING (shard)
GROUP BY shards.shard, shards.epoch, shards.checkpoint_seq;

-- The pages of the current checkpoint.
CREATE VIEW flashq.current_pages AS
SELECT pages.shard, pages.page, pages.ordinal, sum(octet_length(pages.content)) AS bytes
FROM flashq.pages JOIN flashq.shards USING (shard)
WHERE pages.page >= 0 AND pages.ordinal = (
    SELECT max(same.ordinal) FROM flashq.pages AS same
    WHERE same.shard = pages.shard AND same.page = pages.page
        AND same.ordinal BETWEEN shards.floor_ordinal AND shards.current_ordinal
        AND same.ordinal <> shards.void_ordinal
)
GROUP BY pages.shard, pages.page, pages.ordinal
HAVING sum(octet_length(pages.content)) > 0;

-- How far the checkpoint is behind the log, and how old both are.
CREATE VIEW flashq.lags AS
SELECT log_sizes.shard, log_sizes.last_seq - log_sizes.checkpoint_seq AS entries_to_replay,
    log_sizes.bytes AS bytes_to_replay,
    now() - log_sizes.oldest_at AS oldest_age,
    now() - log_sizes.newest_at AS newest_age,
    shards.building_ordinal <> 0 AS checkpoint_under_way
FROM flashq.log_sizes JOIN flashq.shards USING (shard);
