-- Which platform's and version's streams expire instead of being stopped.
SELECT platform, count(*) AS ends, round(avg(CAST(reason = 'expired' AS INTEGER)), 3) AS expired_share
FROM events
WHERE type = 'stream.ended'
GROUP BY platform
ORDER BY expired_share DESC, ends DESC, platform;
