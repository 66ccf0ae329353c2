-- One start, twenty heartbeats, one stop, and again; what was started is what beats and stops later.
-- Arguments: a file of lines "SESSION LEASE_ID" to begin with, a word that no other run uses.
dofile("report.lua")

local BEATS = 20
local playing, first, last = {}, 1, 0
local word, sessions, step = nil, 0, 0

local function ask(method, path, header)
  return method .. " /streams" .. path .. " HTTP/1.1\r\nHost: bench\r\n" .. (header or "") ..
    "Content-Length: 0\r\n\r\n"
end

function init(args)
  playing, word = read_streams(args[1]), args[2]
  last = #playing
end

function request()
  step = step % (BEATS + 2) + 1
  if step == 1 then
    sessions = sessions + 1
    return ask("POST", "", "Session-Id: " .. word .. "-" .. sessions .. "\r\n")
  end
  if step == BEATS + 2 then
    local stream = playing[first]
    playing[first] = nil
    first = first + 1
    return ask("DELETE", "/" .. stream.id)
  end
  -- Only the younger half beats: no heartbeat is still under way when its stream is stopped.
  local stream = playing[math.random(math.floor((first + last) / 2), last)]
  return ask("POST", "/" .. stream.id .. "/heartbeat")
end

function response(status, headers, body)
  if status == 201 then
    last = last + 1
    playing[last] = { id = body:match('"lease_id":"([^"]+)"') }
  end
end
