"""What `make test-e2e` runs."""
