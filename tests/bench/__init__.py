"""Throughput, latency, memory and round trips, printed as ratios against ceilings measured in the same run."""
