"""Programs that ask an independent truth, and record its answers in ``golden/``."""
