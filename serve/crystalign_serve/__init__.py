"""The encoders and the index as a service: deployments, HTTP API, client and web page."""
