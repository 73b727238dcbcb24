"""Attention inside `keras.layers.RNN`, around any of Keras's cells: Xu et al.'s LSTM, for example.

    memory = keras.Input((None, 32))
    sequence = keras.Input((None, 16))
    states = AttentiveRNN(keras.layers.LSTMCell(64), attention_units=48)(sequence, memory)  # (B, T, 64)

For a GRU that writes tokens use `keras_showattend.layers.AttentionGRUDecoder`: it computes the same and trains faster.
"""

import keras
from keras import ops

from keras_showattend.layers import BahdanauAttention


class AttentionCell(keras.layers.Layer):
    """A cell that looks at a memory before each step of another cell.

        c_t = attention(h_{t-1}, memory);   h_t = cell([c_t, x_t], h_{t-1})

    Its states are those of the other cell, then the mask `(B, L)`, the memory `(B, L x D)` and its keys `(B, L x A)`,
    which every step passes on as they are: `keras.layers.RNN` has no other way to give a step what does not change,
    and with a mask takes states of rank 2 only.

    Args:
        cell: Cell of Keras, whose first state is the query.
        attention_units: Positive int `A`.
    """

    def __init__(self, cell, attention_units, **kwargs):
        super().__init__(**kwargs)
        if getattr(cell, "dropout", 0) or getattr(cell, "recurrent_dropout", 0):
            # `keras.layers.RNN` renews the masks of its own cell alone: this one's first mask would stay for ever.
            raise ValueError(f"`cell` must be without dropout. Received: dropout={cell.dropout}.")
        self.cell = cell
        self.attention = BahdanauAttention(attention_units, dtype=self.dtype_policy, name="attention")
        self.own_states = len(cell.state_size) if isinstance(cell.state_size, list | tuple) else 1
        self.state_size = self.output_size = cell.output_size

    def build(self, inputs_shape, memory_shape):
        self.memory_width = memory_shape[-1]
        self.attention.build((None, self.output_size), memory_shape)
        if not self.cell.built:  # as it is when it comes from a file
            self.cell.build((None, memory_shape[-1] + inputs_shape[-1]))

    def call(self, inputs, states, training=None):
        own, memory = states[: self.own_states], states[self.own_states :]
        mask, value, keys = memory
        locations = ops.shape(mask)  # (B, L)
        value = ops.reshape(value, (*locations, self.memory_width))
        keys = ops.reshape(keys, (*locations, self.attention.units))
        context = self.attention(own[0], value, projected_key=keys, value_mask=mask, training=training)
        output, own = self.cell(ops.concatenate([context, inputs], axis=-1), own, training=training)
        return output, [*own, *memory]


@keras.saving.register_keras_serializable(package="attention_cell")
class AttentiveRNN(keras.layers.Layer):
    """Reads a sequence and looks at a memory at every step.

    Args:
        cell: Cell of Keras: `GRUCell`, `LSTMCell`, `SimpleRNNCell`.
        attention_units: Positive int, the width of the attention's scoring space.

    Call arguments:
        sequence: Float, `(B, T, E)`.
        memory: Float, `(B, L, D)`.
        sequence_mask: Optional bool, `(B, T)`. Keras fills it in; a masked step leaves the state as it is.
        memory_mask: Optional bool, `(B, L)`; True = attend. Keras fills it in.

    Returns:
        The outputs of the cell, `(B, T, U)`.

    Raises:
        ValueError: If an argument has a wrong rank, or `memory_mask` does not fit `memory`.
    """

    def __init__(self, cell, attention_units, **kwargs):
        super().__init__(**kwargs)
        self.attention_units = attention_units
        self.rnn = keras.layers.RNN(
            AttentionCell(cell, attention_units, dtype=self.dtype_policy),
            return_sequences=True,
            dtype=self.dtype_policy,
        )
        self.supports_masking = True

    def build(self, sequence_shape, memory_shape):
        self.rnn.cell.build(sequence_shape, memory_shape)
        self.rnn.build(sequence_shape)

    def call(self, sequence, memory, sequence_mask=None, memory_mask=None, training=None):
        for name, x, rank in (("sequence", sequence, 3), ("memory", memory, 3), ("sequence_mask", sequence_mask, 2)):
            if x is not None and len(x.shape) != rank:
                raise ValueError(f"`{name}` must have rank {rank}. Received: {name}.shape={tuple(x.shape)}.")
        if memory_mask is not None and tuple(memory_mask.shape) != tuple(memory.shape[:2]):
            raise ValueError(
                "`memory_mask` must have the shape (B, L) of `memory`. Received: "
                f"memory_mask.shape={tuple(memory_mask.shape)}, memory.shape={tuple(memory.shape)}."
            )
        cell = self.rnn.cell
        start = cell.cell.get_initial_state(ops.shape(sequence)[0])
        if memory_mask is None:
            memory_mask = ops.ones(ops.shape(memory)[:2])
        # The keys are projected here once, not at every step.
        flat = [ops.reshape(x, (ops.shape(x)[0], -1)) for x in (memory, cell.attention.project_key(memory))]
        states = [*start, memory_mask, *flat]
        return self.rnn(sequence, initial_state=states, mask=sequence_mask, training=training)

    def compute_mask(self, sequence, previous_mask=None):
        return previous_mask

    def compute_output_shape(self, sequence_shape, memory_shape):
        return (*sequence_shape[:-1], self.rnn.cell.output_size)

    def get_config(self):
        return {
            **super().get_config(),
            "cell": keras.saving.serialize_keras_object(self.rnn.cell.cell),
            "attention_units": self.attention_units,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "cell": keras.saving.deserialize_keras_object(config["cell"])})
