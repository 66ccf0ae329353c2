-- A start in a session of its own with each request. Argument: a word that no other run uses.
dofile("report.lua")

local head, count = nil, 0

function init(args)
  head = "GET /watch HTTP/1.1\r\nHost: bench\r\nSession-Id: " .. args[1] .. "-"
end

function request()
  count = count + 1
  return head .. count .. "\r\n\r\n"
end
