"""SERVE: models over HTTP. A front in this process, and a child process of llama.cpp's server for each loaded model."""
