"""Programs to read and to start from; the service needs none of them."""
