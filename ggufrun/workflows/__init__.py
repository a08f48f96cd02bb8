"""What needs two rooms and prints nothing: functions that the command line and the Python API both stand on."""
