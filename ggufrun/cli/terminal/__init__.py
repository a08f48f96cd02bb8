"""Console, tables, progress bars, units, and how errors are said."""
