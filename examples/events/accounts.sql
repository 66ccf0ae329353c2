-- The accounts with the most refusals.
SELECT account, count(*) AS refusals, max("limit") AS "limit", max(time) AS latest
FROM events
WHERE type = 'stream.refused'
GROUP BY account
ORDER BY refusals DESC, account
LIMIT 20;
