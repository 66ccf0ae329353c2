"""What happened, from the events: `python -m examples.events --help`."""
