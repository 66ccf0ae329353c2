-- Peak of concurrent streams: how many accounts reached 1, 2, 3 ...
SELECT peak, count(*) AS accounts
FROM (SELECT account, max(active) AS peak FROM events WHERE type = 'stream.started' GROUP BY account)
GROUP BY peak
ORDER BY peak;
