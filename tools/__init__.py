"""What a checkout needs besides the package: setting up, the engine's build, measuring."""
