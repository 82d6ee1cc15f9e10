"""What `doctor` looks at, one part per module; each gives findings and never raises for what it finds.

May know everything that the command line may; no part knows another.
"""
