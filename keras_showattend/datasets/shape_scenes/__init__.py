"""Scenes of coloured shapes with captions, boxes and a measure of where attention points.

The package draws the pictures itself, so nothing is downloaded, and because the box of every
object is known, the share of attention that falls on the named object is a number.
"""

from keras_showattend.datasets.shape_scenes.drawing import Scene, SceneObject, draw_scene
from keras_showattend.datasets.shape_scenes.pointing import (
    Phrase,
    PointingReport,
    find_phrases,
    pointing_report,
)
from keras_showattend.datasets.shape_scenes.scenes import load_scenes

__all__ = [
    "Phrase",
    "PointingReport",
    "Scene",
    "SceneObject",
    "draw_scene",
    "find_phrases",
    "load_scenes",
    "pointing_report",
]
