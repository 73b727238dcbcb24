"""Where the model looked at each word, as pictures for papers and as a page to explore, and how training went."""

from keras_showattend.visualization.page import attention_page as attention_page
from keras_showattend.visualization.plots import plot_attention as plot_attention
from keras_showattend.visualization.plots import plot_captions as plot_captions
from keras_showattend.visualization.plots import plot_history as plot_history
