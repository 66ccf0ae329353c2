-- Refusals by hour, plan and limit; 'streams' is the number of all streams.
SELECT date_trunc('hour', time) AS hour, plan, coalesce(rule, 'streams') AS refused_by, count(*) AS refusals
FROM events
WHERE type = 'stream.refused'
GROUP BY ALL
ORDER BY ALL;
