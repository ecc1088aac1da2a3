"""What a run shows of itself: collapse gauge and throughput."""
