"""Self-critical training: a captioner learns from the scores of captions that it samples itself."""

from keras_showattend.self_critical.rewards import CaptionReward as CaptionReward
from keras_showattend.self_critical.trainer import SelfCriticalTrainer as SelfCriticalTrainer
