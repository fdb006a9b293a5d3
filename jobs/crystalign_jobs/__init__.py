"""The batch stages on Ray, one module each, and the `crystalign` command."""
