"""Parse uploaded files in disposable processes with limited memory and time, so that a crash affects one request."""
