-- The lines of EVENTS=1 as a table. Variable `file`: their path; a pattern such as '*.events' reads
-- many. A line that came twice counts once, and a torn one not at all.
CREATE TABLE events AS
SELECT DISTINCT ON (id) type, time, data.*
FROM read_json(
    getvariable('file'),
    format = 'newline_delimited',
    ignore_errors = true,
    columns = {
        id: 'VARCHAR',
        type: 'VARCHAR',
        time: 'TIMESTAMP',
        data: 'STRUCT(
            account VARCHAR, stream_id VARCHAR, plan VARCHAR, platform VARCHAR, active INTEGER,
            "limit" INTEGER, rule VARCHAR, reason VARCHAR, started_at TIMESTAMP,
            last_heartbeat_at TIMESTAMP)'
    }
)
WHERE id IS NOT NULL;
