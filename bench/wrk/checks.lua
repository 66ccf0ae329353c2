-- Checks of playback tokens in turn. Arguments: a file with a token a line, and the query if any.
dofile("report.lua")

local requests, count = {}, 0

function init(args)
  local path = "/playback/check" .. (args[2] or "")
  for token in io.lines(args[1]) do
    requests[#requests + 1] = "GET " .. path .. " HTTP/1.1\r\nHost: bench\r\n" ..
      "Playback-Token: " .. token .. "\r\n\r\n"
  end
end

function request()
  count = count % #requests + 1
  return requests[count]
end
