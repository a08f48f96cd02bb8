"""Work that several commands share, as it is seen at a terminal: bars, tables, results. ``workflows`` does the work."""
