-- What one run came to, as one line of JSON; bench/load.py reads it.
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"microseconds":%d,"p50_us":%d,"p99_us":%d,"max_us":%d,' ..
    '"bad_status":%d,"broken":%d,"timeouts":%d}\n',
    summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), latency.max,
    errors.status, errors.connect + errors.read + errors.write, errors.timeout))
end

-- The lines "SESSION LEASE_ID" of a file.
function read_streams(path)
  local streams = {}
  for line in io.lines(path) do
    local session, lease_id = line:match("^(%S+) (%S+)$")
    streams[#streams + 1] = { session = session, id = lease_id }
  end
  return streams
end
