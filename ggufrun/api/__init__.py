"""The Python API: what ``import ggufrun`` offers, on the same workflows as the command line. Prints nothing."""
