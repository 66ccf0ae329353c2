"""MongoDB itself, in containers: `make test-mongo`. Needs Docker."""
