"""The ground floor: everything that touches C by hand. The native library, its log, its abrupt end, signals."""
