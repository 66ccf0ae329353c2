"""What `make test-deploy` runs."""
