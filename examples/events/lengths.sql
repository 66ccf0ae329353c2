-- How long streams played, in minutes: one that expired until its last heartbeat.
SELECT platform, count(*) AS streams,
    round(median(seconds) / 60, 1) AS median, round(quantile_cont(seconds, 0.9) / 60, 1) AS longest_tenth
FROM (
    SELECT platform, date_diff('second', started_at,
        CASE reason WHEN 'expired' THEN last_heartbeat_at ELSE time END) AS seconds
    FROM events
    WHERE type = 'stream.ended'
)
GROUP BY platform
ORDER BY platform;
