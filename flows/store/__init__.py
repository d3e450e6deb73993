"""What lies on disk: paths, records, shards, markers, manifest, and how to read them back."""
