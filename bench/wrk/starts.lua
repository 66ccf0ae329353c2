-- A start in a session of its own with each request. Arguments: a word that no other run uses, and
-- Stream-Attributes, if any.
dofile("report.lua")

local head, count = nil, 0

function init(args)
  local attributes = args[2] and "Stream-Attributes: " .. args[2] .. "\r\n" or ""
  head = "GET /watch HTTP/1.1\r\nHost: bench\r\n" .. attributes .. "Session-Id: " .. args[1] .. "-"
end

function request()
  count = count + 1
  return head .. count .. "\r\n\r\n"
end
