"""``make bench``: ggufrun against llama.cpp's own tools, side by side, written to docs/benchmarks.md.

Both sides of a comparison run in turn, page cache warm, thread counts equal; a row has the medians and the median of
the ratios of neighbouring runs. Seconds and peak memory are the operating system's account of the finished process.
"""
