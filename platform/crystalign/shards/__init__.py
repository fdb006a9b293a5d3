"""The on-disk format: schema, writer, manifest, splits and the deterministic order of samples."""
