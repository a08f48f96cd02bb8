"""``python -m ggufrun``."""

from ggufrun.cli.app import main

if __name__ == "__main__":
    main()
