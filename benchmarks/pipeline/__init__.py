"""The parts of `feature_pipeline.py`: extraction, size on disk, reading, training."""
