"""Shared by all jobs at run time: work in the background, and signals."""
