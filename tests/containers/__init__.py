"""What `make test-containers` runs: the image and what surrounds it, without an engine."""
