"""The core's commands: run, inspect, verify, doctor. Each imports what it needs when it is run."""
