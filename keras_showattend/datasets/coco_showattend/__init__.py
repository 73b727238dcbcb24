"""COCO 2014's photographs with their captions, in Karpathy's splits or the official ones.

Importing this imports neither TensorFlow nor TensorFlow Datasets; calling `load_examples` or
`notebook_subset` imports both.
"""

from keras_showattend.datasets.coco_showattend.examples import load_examples, notebook_subset

__all__ = ["load_examples", "notebook_subset"]
