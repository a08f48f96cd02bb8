"""llama.cpp's server: the executable `llama-server` in this folder, which `ggufrun serve` runs."""
