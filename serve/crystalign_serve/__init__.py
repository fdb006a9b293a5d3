"""The search and prediction service: Ray Serve deployments, HTTP API, Python client and web page."""
