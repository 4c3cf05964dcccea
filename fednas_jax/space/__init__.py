"""Width groups by probing: networks, masks, slices, and what widths cost."""
