"""The on-disk format of datasets: schema, writer, manifest, splits and the deterministic order of samples."""
