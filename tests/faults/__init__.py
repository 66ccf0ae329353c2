"""The promises under faults, load and abuse, with real processes: `make test-faults`."""
