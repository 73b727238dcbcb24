"""Whole captions against references: BLEU, ROUGE-L and CIDEr-D, in NumPy and plain Python.

The figures are those of pycocoevalcap 1.2, to the last digits. It is no dependency of the package because it puts
103 MB on the disk, nearly all of it Java programs and their data, and because its CIDEr-D counts the references anew
at each call: 1,700 captions a second where `CiderD` scores 70,000 (6,000 captions, four references each, one core).
The extra `[metrics]` installs it for METEOR and SPICE, which need Java.
"""

from keras_showattend.evaluation.bleu import bleu as bleu
from keras_showattend.evaluation.cider import CiderD as CiderD
from keras_showattend.evaluation.cider import cider_d as cider_d
from keras_showattend.evaluation.diversity import distinct_n as distinct_n
from keras_showattend.evaluation.diversity import diversity as diversity
from keras_showattend.evaluation.java_metrics import meteor as meteor
from keras_showattend.evaluation.java_metrics import spice as spice
from keras_showattend.evaluation.results import read_results as read_results
from keras_showattend.evaluation.results import write_results as write_results
from keras_showattend.evaluation.rouge import rouge_l as rouge_l
from keras_showattend.evaluation.scores import Scores as Scores
from keras_showattend.evaluation.summary import METRICS as METRICS
from keras_showattend.evaluation.summary import evaluate_captions as evaluate_captions
from keras_showattend.evaluation.tokenization import tokenize as tokenize
