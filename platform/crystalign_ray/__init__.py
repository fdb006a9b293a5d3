"""Code on Ray that jobs and the service share: cluster sessions, resource plans, errors, internals."""
