"""Where photographs and annotations come from: sources, catalogue, selection, pairing, masks."""
