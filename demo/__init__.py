"""The whole of it on one machine: film, gateway, login, service and a page. `make demo` runs it."""
