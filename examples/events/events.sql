-- The lines of EVENTS=1 as tables. Variable `file`: their path; a pattern such as '*.events' reads many.
CREATE TABLE events AS
SELECT type, time, data.*
FROM read_json(
    getvariable('file'),
    format = 'newline_delimited',
    columns = {
        type: 'VARCHAR',
        time: 'TIMESTAMP',
        data: 'STRUCT(
            account VARCHAR, stream_id VARCHAR, plan VARCHAR, platform VARCHAR, active INTEGER,
            "limit" INTEGER, rule VARCHAR, reason VARCHAR, started_at TIMESTAMP,
            last_heartbeat_at TIMESTAMP)'
    }
);
