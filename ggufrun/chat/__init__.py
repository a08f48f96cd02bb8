"""TALK: messages to tokens and back. Prints nothing; `ggufrun.cli` draws what comes out."""
