-- What another limit would have refused, of all starts: by what was active at each start (as
-- stream_service_active_at_start says it), and played again, where a start that is refused holds no
-- slot later. What a lower limit than today's would refuse is right; above today's, a lower bound.
-- A stream whose end nothing noticed plays on here: the second figure is an upper bound by that.
WITH RECURSIVE
asked AS (
    SELECT account, type, stream_id, active + CAST(type = 'stream.refused' AS INTEGER) AS active,
        row_number() OVER (
            PARTITION BY account ORDER BY time, CAST(type <> 'stream.ended' AS INTEGER)
        ) AS step
    FROM events
    WHERE type IN ('stream.started', 'stream.refused', 'stream.ended')
),
limits AS (SELECT unnest(range(1, (SELECT max(active) FROM asked))) AS streams),
played AS (
    SELECT streams, account, CAST(0 AS BIGINT) AS step, CAST([] AS VARCHAR[]) AS playing, 0 AS refused
    FROM limits, (SELECT DISTINCT account FROM asked)
    UNION ALL
    SELECT
        streams,
        account,
        asked.step,
        CASE
            WHEN type = 'stream.ended' THEN list_filter(playing, lambda one: one <> stream_id)
            WHEN type = 'stream.started' AND len(playing) < streams THEN list_append(playing, stream_id)
            ELSE playing
        END,
        CAST(type <> 'stream.ended' AND len(playing) >= streams AS INTEGER)
    FROM played JOIN asked USING (account)
    WHERE asked.step = played.step + 1
),
replayed AS (SELECT streams, sum(refused) AS refused FROM played GROUP BY streams)
SELECT streams AS "limit",
    round(count(*) FILTER (active > streams) / count(*), 3) AS by_active_at_start,
    round(any_value(refused) / count(*), 3) AS played_again
FROM asked, replayed
WHERE type <> 'stream.ended'
GROUP BY streams
ORDER BY streams;
