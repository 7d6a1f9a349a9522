"""The search page; started by `perception-search app`."""
