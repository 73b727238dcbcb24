"""Feature stores computed by Apache Beam: by several processes of one machine, or by many machines."""

from keras_showattend.features.beam.building import build_store

__all__ = ["build_store"]
