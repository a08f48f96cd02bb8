"""What differs between two releases of the engine, of all that ggufrun uses of it: see docs/engine-releases.md."""
