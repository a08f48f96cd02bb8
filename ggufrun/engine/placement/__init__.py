"""Where a model goes: devices, what a model takes in memory, and what fits."""
