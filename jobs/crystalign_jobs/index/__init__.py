"""The commands on an index: build, describe, verify, and change it while it is searched."""
