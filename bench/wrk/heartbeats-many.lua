-- Heartbeats of many streams in each request. Arguments: a file of lines "SESSION LEASE_ID", how many.
dofile("report.lua")

local requests, count = {}, 0

function init(args)
  local items, each = {}, tonumber(args[2])
  for _, stream in ipairs(read_streams(args[1])) do
    items[#items + 1] = '{"lease_id":"' .. stream.id .. '"}'
    if #items == each then
      local body = '{"heartbeats":[' .. table.concat(items, ",") .. ']}'
      requests[#requests + 1] = "POST /heartbeats HTTP/1.1\r\nHost: bench\r\n" ..
        "Content-Type: application/json\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
      items = {}
    end
  end
end

function request()
  count = count % #requests + 1
  return requests[count]
end
