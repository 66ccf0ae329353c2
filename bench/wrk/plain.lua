-- GET / for ever.
dofile("report.lua")
