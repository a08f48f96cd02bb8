"""A conversation at a terminal: input, keyboard, screen, Markdown."""
