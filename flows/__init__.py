"""The shell of hcoco: flows, sources, stores and views around the pure packages `augment` and `realism`."""
