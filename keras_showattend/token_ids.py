"""The ids that mean the same everywhere: in a tokenizer, a loss, a check and a search."""

PADDING, UNKNOWN, START, END = range(4)
