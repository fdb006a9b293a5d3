"""Shared by all jobs at run time: progress display, Ray tasks, driver lock, signals."""
