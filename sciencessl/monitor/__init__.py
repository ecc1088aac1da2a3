"""What a run shows of itself: monitors of collapse, and throughput."""
