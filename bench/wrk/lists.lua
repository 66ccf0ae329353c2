-- Lists of many sessions in turn. Argument: a file of lines "SESSION LEASE_ID".
dofile("report.lua")

local requests, count = {}, 0

function init(args)
  for i, stream in ipairs(read_streams(args[1])) do
    requests[i] = "GET /streams HTTP/1.1\r\nHost: bench\r\nSession-Id: " .. stream.session .. "\r\n\r\n"
  end
end

function request()
  count = count % #requests + 1
  return requests[count]
end
