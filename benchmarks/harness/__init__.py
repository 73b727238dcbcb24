"""What the benchmark scripts share: sizes and batches, timing, the floor, and reports."""
