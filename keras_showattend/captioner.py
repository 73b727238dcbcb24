"""The whole captioner: features in, words and the places looked at out."""

import functools
import inspect

import keras
from keras import ops

from keras_showattend.captioner_inputs import (
    as_array,
    check_backbone_is_reached,
    check_x,
    checked_arrays,
    checked_grid,
    refuse_class_weight,
    teacher_forcing,
)
from keras_showattend.decoding import Greedy
from keras_showattend.export import export_captioner
from keras_showattend.generation import caption_images, generate_together, words_only
from keras_showattend.jax_state import with_state_of_jax
from keras_showattend.logitless import add_losses, can_be_logitless, is_logitless, logitless, logitless_training
from keras_showattend.losses import MaskedSparseCategoricalCrossentropy, doubly_stochastic_penalty, token_weights
from keras_showattend.metrics import TokenWeightedMean
from keras_showattend.ops import at_least_float32_dtype
from keras_showattend.scheduled_sampling import checked_probability, sample_inputs
from keras_showattend.validation import check_not_negative, check_positive_integer
from keras_showattend.version import __version__, naming_a_newer_version

_USE_LOGITS = ("call", "compute_loss", "compute_metrics")


@keras.saving.register_keras_serializable(package="keras_showattend")
class Captioner(keras.Model):
    """Learns to write captions for images, and shows where it looked at each word.

    Composes an encoder and a decoder; trains them by teacher forcing, decodes captions, and saves into one file
    all that captioning needs.

    Args:
        encoder: Layer, features `(N, L, D)` to `(N, L, E)`, such as `FeatureEncoder`.
        decoder: Layer, tokens and what the encoder returns to logits, such as `AttentionGRUDecoder`. One of your own
            has its `vocab_size`, `prepare(features)`, `initial_state(batch_size)`, whose first state may depend on a
            second argument `memory`, and `step(token, state, memory)`, which may leave the attention out; memory and
            state are nests of tensors. Where all of its memory has a row for each image, and `step` takes any number
            of rows, its class may say `memory_has_rows = True`: captions that have ended then leave a large batch.
            With `attention_penalty`, a call takes `return_attention_scores=True`.
        tokenizer: Optional `CaptionTokenizer`; then `generate` returns texts too, and no id is written that has no
            word, where the decoder's `vocab_size` is larger.
        feature_extractor: Optional `FeatureExtractor`; then images may stand where features do. Its backbone is
            frozen; `captioner.feature_extractor.trainable = True` before `compile` trains it with the rest, from
            images, its batch normalization still in inference mode. A small learning rate keeps what it knows.
        grid: Optional `(rows, columns)` of the locations, for plots; the feature extractor's where there is one.
        max_length: Positive int, the most tokens that `generate` and `predict` write, the end id included.
        attention_penalty: Float >= 0, weight of the doubly stochastic penalty
            `sum_l (target - sum_t a_tl)^2`, the mean over captions; padding steps do not count.
        attention_target: What the attention on each location should sum to over a caption: 1, as in the paper, or
            `"T/L"`, what a caption of T tokens can spread over L locations.
        scheduled_sampling: In training, the probability with which a word that the decoder reads is one that it
            predicts there itself: a float in [0, 1), or a `keras.optimizers.schedules.LearningRateSchedule` of the
            optimizer's iterations, such as `PolynomialDecay(0.0, 10_000, 0.25)`, which rises to 0.25 in 10,000
            batches. Above 0, a first pass without gradient or dropout makes the predictions: see
            `keras_showattend.scheduled_sampling.mix_predictions`.
        **kwargs: `name`, `dtype`, ... of `keras.Model`.

    Call arguments:
        inputs: A pair: features `(N, L, D)`, grid features `(N, H, W, D)` or, where there is a feature extractor,
            images `(N, H, W, 3)` with pixels 0 to 255; and tokens, int, `(N, T)` or `(N, G, T)`.
        training: Bool.

    Returns:
        Logits of the token after each token, `(N, T, V)` or `(N, G, T, V)`, float32 at least.

    `fit`, `evaluate` and `train_on_batch` take x (features or images) and y, the whole token ids, start and end
    included: `(N, T)`, or `(N, G, T)` for G captions an image, 0 where there is no token. The inputs `y[..., :-1]`
    and targets `y[..., 1:]` are made here. `sample_weight` is one number a caption, `(N,)` or `(N, G)`. The loss, by
    default `MaskedSparseCategoricalCrossentropy`, is a mean over real tokens, over a batch and over an epoch. (Under
    `tf.distribute` each device takes the mean over its own tokens, and a step the mean of these means, as with Keras's
    own weighted losses.)

    `quantize("int8")` makes integers of the kernels of the encoder's projection, the embeddings and the output layers,
    not of those of attention and GRU; `enable_lora` is for the same layers. A captioner is saved before it is
    quantized, not after: a file does not tell its parts of what they are made to be.

    Raises:
        ValueError: For arguments, features, images or tokens that do not fit, naming the argument and the rule.

    Example:
    >>> import keras_showattend, numpy as np
    >>> captioner = keras_showattend.Captioner(
    ...     keras_showattend.layers.FeatureEncoder(embed_dim=16),
    ...     keras_showattend.layers.AttentionGRUDecoder(vocab_size=9, embed_dim=8, units=16),
    ... )
    >>> captioner.compile(optimizer="adam")
    >>> features, tokens = np.ones((4, 49, 32), "float32"), np.array([[2, 4, 5, 3, 0]] * 4)
    >>> history = captioner.fit(features, tokens, verbose=0)
    >>> captioner.generate(features, max_length=6).attention.shape
    (4, 6, 49)

    Reference: Xu et al. 2015, arXiv 1502.03044, section 3.1; the penalty is equation 14. Training follows the 2018
    TensorFlow notebook "Image Captioning with Attention". Scheduled sampling is that of Bengio et al. 2015, arXiv
    1506.03099, in two passes.
    """

    def __init__(
        self,
        encoder,
        decoder,
        tokenizer=None,
        feature_extractor=None,
        grid=None,
        max_length=20,
        attention_penalty=0.0,
        attention_target=1.0,
        scheduled_sampling=0.0,
        **kwargs,
    ):
        # Pixels would be rounded before they are preprocessed; the parts cast for themselves.
        super().__init__(**{**kwargs, "autocast": False})
        if tokenizer is not None and len(tokenizer.vocabulary) > decoder.vocab_size:
            raise ValueError(
                "`tokenizer` must not have more words than the decoder's `vocab_size`. Received: "
                f"{len(tokenizer.vocabulary)} words, decoder.vocab_size={decoder.vocab_size}."
            )
        if attention_target != "T/L":
            attention_target = check_not_negative("attention_target", attention_target)
        self.encoder = encoder
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.feature_extractor = feature_extractor
        self.grid = checked_grid(grid, feature_extractor)
        self.max_length = check_positive_integer("max_length", max_length)
        self.attention_penalty = check_not_negative("attention_penalty", attention_penalty)
        self.attention_target = attention_target
        self.scheduled_sampling = checked_probability(scheduled_sampling, decoder.vocab_size)
        # Only where it is used: other captioners have no variable more than they had, and draw no seed.
        self._sampling_seed = keras.random.SeedGenerator() if self.scheduled_sampling else None
        self._compiled_searches = {}
        self._traced_ranks = {}

    def build(self, input_shape):
        x_shape, tokens_shape = (tuple(shape) for shape in input_shape)
        if self.takes_images(x_shape):
            if not self.feature_extractor.built:
                self.feature_extractor.build(x_shape)
            x_shape = self.feature_extractor.compute_output_shape(x_shape)
        if not self.encoder.built:
            self.encoder.build(x_shape)
        if not self.decoder.built:
            self.decoder.build(tokens_shape, self.encoder.compute_output_shape(x_shape))
        self.built = True

    def call(self, inputs, training=None):
        if not isinstance(inputs, list | tuple) or len(inputs) != 2:
            raise ValueError(
                "Calling a Captioner takes the pair [features, tokens]; `fit` takes x and y, and `generate` and "
                f"`predict` take features of a captioner that is built. Received: {type(inputs).__name__}."
            )
        x, tokens = inputs
        encoded = self._encode(x, training=training)
        # Inside `logitless` alone, where the decoder is one that can do without logits.
        options = {"return_hidden": True} if is_logitless() else {}
        if not self.attention_penalty:
            return self.decoder(tokens, encoded, training=training, **options)
        outputs, weights = self.decoder(tokens, encoded, return_attention_scores=True, training=training, **options)
        penalty = doubly_stochastic_penalty(tokens, weights, self.attention_target)
        self.add_loss(self.attention_penalty * penalty)
        return outputs

    def compute_output_shape(self, input_shape):
        _, tokens_shape = input_shape
        return (*tokens_shape, self.decoder.vocab_size)

    def compute_output_spec(self, inputs, training=None):
        # By a trace of `call`: the layer's own way would take the compute dtype for that of the logits.
        return keras.Operation.compute_output_spec(self, inputs, training=training)

    def takes_images(self, shape):
        """Whether an `x` of this shape is images for the feature extractor, and not features.

        Args:
            shape: Tuple, the shape of `x`.

        Returns:
            Bool.
        """
        return len(shape) == 4 and self.feature_extractor is not None

    def _encode(self, x, training=None):
        if self.takes_images(x.shape):
            x = self.feature_extractor(x)
        return self.encoder(x, training=training)

    # Training: the pair of inputs and targets is made from the raw batch, and Keras's own steps do the rest.

    def compile(self, optimizer="rmsprop", loss=None, **kwargs):
        """As `keras.Model.compile`; without a loss, it is `MaskedSparseCategoricalCrossentropy`.

        Metrics that take `sample_weight`, such as `keras_showattend.metrics.Perplexity`, belong in
        `weighted_metrics`.

        Args:
            optimizer: As in `keras.Model.compile`.
            loss: As in `keras.Model.compile`.
            **kwargs: The other arguments of `keras.Model.compile`. On TensorFlow without a GPU, `jit_compile=True`
                makes long trainings faster, once XLA has compiled each length T; Keras's own choice there is False.
        """
        if loss is None:
            dtype = at_least_float32_dtype(self.decoder.compute_dtype)
            loss = MaskedSparseCategoricalCrossentropy(dtype=dtype)
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
        # Past Keras's attribute tracking, as its own `compile` sets it: a built model takes no new variables.
        object.__setattr__(self, "_loss_tracker", TokenWeightedMean(name="loss"))
        training = logitless_training(loss, **kwargs)
        if training and not training.metrics and self._compile_metrics is not None:
            # Keras keeps those that were compiled before, and they may read anything.
            training = None
        object.__setattr__(self, "_logitless_training", training)

    def compile_from_config(self, config):
        """Compile as saved, optimizer state included; Keras does this only for models with its own `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, y=None, *args, **kwargs):
        """As `keras.Model.fit`: x is features or images, y the token ids, or x a data set of such pairs."""
        # Keras takes it by position too, as the tenth argument.
        refuse_class_weight(args[7] if len(args) > 7 else kwargs.get("class_weight"))
        x, y, kwargs = self._checked_arguments("train_function", x, y, **kwargs)
        if isinstance(kwargs.get("validation_data"), list | tuple):
            kwargs["validation_data"] = self._checked_batch("test_function", *kwargs["validation_data"])
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """As `keras.Model.evaluate`, with the x and y of `fit`."""
        x, y, kwargs = self._checked_arguments("test_function", x, y, **kwargs)
        return super().evaluate(x, y, *args, **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """As `keras.Model.train_on_batch`, with the x and y of `fit`."""
        refuse_class_weight(kwargs.get("class_weight"))
        x, y, sample_weight = self._checked_batch("train_function", x, y, sample_weight)
        return super().train_on_batch(x, y, sample_weight=sample_weight, **kwargs)

    def test_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """As `keras.Model.test_on_batch`, with the x and y of `fit`."""
        x, y, sample_weight = self._checked_batch("test_function", x, y, sample_weight)
        return super().test_on_batch(x, y, sample_weight=sample_weight, **kwargs)

    def train_step(self, *args):
        """One step of teacher forcing, with predictions where words are sampled; JAX passes its state first."""
        *state, data = args
        (x, tokens), targets, sample_weight = teacher_forcing(self, data)
        check_backbone_is_reached(self, x)
        if self.scheduled_sampling:
            seed, probability = self._sampling_seed, self.scheduled_sampling
            mix = functools.partial(sample_inputs, self, x, tokens, probability, seed)
            tokens, state = with_state_of_jax(self, state, mix)
        with logitless(self._trains_without_logits()):
            return super().train_step(*state, ((x, tokens), targets, sample_weight))

    def _trains_without_logits(self):
        # Others' methods may read logits.
        ours = all(getattr(getattr(self, name), "__func__", None) is getattr(Captioner, name) for name in _USE_LOGITS)
        return ours and self._logitless_training is not None and can_be_logitless(self)

    def test_step(self, *args):
        """One step of evaluation by teacher forcing."""
        *state, data = args
        return super().test_step(*state, teacher_forcing(self, data))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """As in `keras.Model`."""
        if not is_logitless():
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        return add_losses(self, self._logitless_training.count(self, y_pred, y, sample_weight))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """As in `keras.Model`; the loss of the batch counts by its real tokens."""
        self._loss_tracker.weigh(ops.sum(token_weights(y, sample_weight)))
        if is_logitless():
            # They have counted the batch with its loss; Keras wants to know them before it reads them.
            if self._compile_metrics is not None and not self._compile_metrics.built:
                self._compile_metrics.build(y, y_pred)
            return self.get_metrics_result()
        return super().compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def _symbolic_build(self, iterator=None, data_batch=None):
        # Keras builds from the raw batch, x alone; this model is built from the pair.
        if data_batch is None:
            _, _, batches = next(iter(iterator))
            data_batch = batches[0] if isinstance(batches, list | tuple) else next(batches)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data_batch)
        # For several devices TensorFlow gives the mean of their batches, in which ids are no integers any more.
        y = y if y is None else ops.cast(y, "int32")
        return super()._symbolic_build(data_batch=teacher_forcing(self, (x, y, sample_weight)))

    def _checked_arguments(self, step, x, y, **kwargs):
        x, y, sample_weight = self._checked_batch(step, x, y, kwargs.get("sample_weight"))
        return x, y, kwargs if sample_weight is None else {**kwargs, "sample_weight": sample_weight}

    def _checked_batch(self, step, x, y=None, sample_weight=None):
        """The arguments, lists made arrays; data sets pass, as their batches are checked by their shapes."""
        if y is None:
            return x, y, sample_weight
        x, y, sample_weight = checked_arrays(self, x, y, sample_weight)
        if step == "train_function":
            check_backbone_is_reached(self, x)
        self._forget_other_ranks(step, x, y)
        return x, y, sample_weight

    def _forget_other_ranks(self, step, *arrays):
        # TensorFlow would trace a step that has seen one rank, and now sees another, for an unknown rank.
        ranks = tuple(len(array.shape) for array in arrays)
        if self._traced_ranks.setdefault(step, ranks) != ranks:
            self._traced_ranks[step] = ranks
            setattr(self, step, None)

    @property
    def feature_width(self):
        """The width D of the features that the captioner is built for; None where it is not known."""
        projection = getattr(self.encoder, "projection", None)
        return projection.kernel.shape[0] if self.built and projection is not None else None

    def check_inference(self, x=None):
        """Check that the captioner can write captions, and for this `x`.

        Args:
            x: Optional, as in `generate`.

        Raises:
            ValueError: If the captioner is not built or `x` does not fit.
        """
        if not self.built:
            raise ValueError(
                "A captioner can write captions once it is built: call `fit`, or the captioner on a pair "
                "[features, tokens], before. Received: built=False."
            )
        if x is not None:
            check_x(self, x)

    # Captioning

    def generate(self, x, decoding="greedy", max_length=None, batch_size=None):
        """Write a caption for every image.

        Args:
            x: Features `(N, L, D)` or `(N, H, W, D)`, or images `(N, H, W, 3)` where there is a feature extractor.
            decoding: `"greedy"`, or a `Greedy`, a `BeamSearch` or a `Sampling` of `keras_showattend.decoding`, with
                their options. A search is compiled once for all calls with equal options, `max_length` and rank of `x`.
            max_length: Positive int, the most tokens to write, the end id included; None takes the captioner's.
            batch_size: Optional positive int, how many images to decode at a time; None decodes all at once.

        Returns:
            `Generation(tokens, scores, attention, texts)`, numpy arrays and a list of str: tokens `(N, max_length)`,
            with the end id and 0 after it; the captions' own log-probabilities `(N,)`; where the model looked at each
            token, `(N, max_length, L)`; texts where there is a tokenizer. With `BeamSearch(n_best=K)`, K > 1, an axis
            K follows N, and `texts` holds N lists of K str.

        Raises:
            ValueError: If the captioner is not built, `x` does not fit, or `decoding` is not known.

        Example:
        ```python
        search = keras_showattend.decoding.BeamSearch(width=3, length_penalty="average", n_best=3)
        generation = captioner.generate(store.features(store.image_ids), decoding=search)
        ```
        """
        return generate_together([self], x, decoding, max_length, batch_size)

    def caption(self, images, decoding="greedy", max_length=None, batch_size=64):
        """Captions for photographs.

        Args:
            images: List of paths, bytes of JPEG or PNG files, or uint8 arrays `(H, W, 3)` of any size; or one array
                `(N, H, W, 3)`.
            decoding: As in `generate`.
            max_length: As in `generate`.
            batch_size: How many images to hold and decode at a time.

        Returns:
            A list of N str; with `BeamSearch(n_best=K)`, K > 1, of N lists of K str.

        Raises:
            ValueError: If there is no feature extractor or no tokenizer, an image can't be read, or `decoding` is not
                known.
        """
        return caption_images(self, images, decoding, max_length, batch_size)

    def export(
        self,
        filepath,
        format="tf_saved_model",
        verbose=None,
        input_signature=None,
        decoding="greedy",
        max_length=None,
        **kwargs,
    ):
        """Write the captioner for programs that have neither Keras nor this package; TensorFlow backend only.

        `"tf_saved_model"` is the whole of `caption` and `generate` in one graph: image files (or features) in,
        captions out. With `served = tf.saved_model.load(filepath)`, an object to keep as long as it is called,
        `served.serve(x)` gives a dict of tensors by the names of `Generation`: `tokens`, `scores`, `attention` and,
        where there is a tokenizer, `texts`, a string for each caption. N may change from call to call.

        `"onnx"` and `"litert"` write a folder with the encoder and a single step of the decoder, a `vocabulary.txt`
        and a `README.md` that tells their inputs and outputs; these formats neither read image files nor search.
        The steps of LiteRT take one image at a time, and any number of captions of it.

        Args:
            filepath: Local path of the folder to write. An earlier export there is replaced, whole, by two renames.
            format: `"tf_saved_model"`, `"onnx"` (needs the extra `[onnx]`) or `"litert"`.
            verbose: Bool, whether to say when it is done; None is True, as in Keras.
            input_signature: Optional shape and dtype of `x`, a `keras.InputSpec` or `tf.TensorSpec`. Default: strings
                `(N,)`, the bytes of JPEG or PNG files, where there is a feature extractor (for ONNX and LiteRT: images
                `(N, height, width, 3)`, float32, of its `image_size`), and features `(N, L, D)`, float32, elsewhere.
                What `generate` takes is possible too, such as images `(None, None, None, 3)`, uint8. For LiteRT N is 1,
                and all sizes must be known: L from the captioner's `grid`, or from here.
            decoding: As in `generate`; `"tf_saved_model"` only. A `Sampling` without a seed draws the same sequence
                from its beginning in every process that loads the export.
            max_length: As in `generate`; `"tf_saved_model"` only.
            **kwargs: For Keras's exporter: `opset_version` for ONNX, the attributes of the converter for LiteRT.

        Files are read as `caption` reads them: colour, grey and CMYK, turned upright as EXIF says, PNG on white. A
        JPEG file's pixels are the same to the last bit, and resized ones within 0.005 of 255. Not read are other
        formats, and the orientation that a PNG file may have. A file that can't be read fails the call, and nothing
        else, with a `tf.errors.InvalidArgumentError`: it names the index of one that is no JPEG or PNG, or has too many
        pixels; what is broken inside has TensorFlow's own message.

        Raises:
            ValueError: If the backend is not TensorFlow (a saved captioner can be loaded with it), the captioner is
                not built, or an argument does not fit.
            FileExistsError: If something else than an export stands at `filepath`.
            ImportError: If a package is missing that the format needs.

        Example:
        ```python
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            captioner.export("served", max_length=6, verbose=False)
            served = tf.saved_model.load("served")
            served.serve(store.features(store.image_ids))["tokens"]  # int32, (N, 6)
        ```
        """
        export_captioner(self, filepath, format, verbose, input_signature, decoding, max_length, **kwargs)

    def predict(self, x, *args, **kwargs):
        """As `keras.Model.predict`: the tokens of greedy `generate`, int32 `(N, max_length)`."""
        self.check_inference()
        if hasattr(x, "shape") or isinstance(x, list | tuple):
            x = as_array("x", x)
            check_x(self, x)
            self._forget_other_ranks("predict_function", x)
        return super().predict(x, *args, **kwargs)

    def predict_step(self, *args):
        """The tokens of greedy `generate`; JAX passes its state before the batch."""
        *state, data = args
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        tokens, state = with_state_of_jax(self, state, lambda: self._greedy_tokens(x))
        return (tokens, state[0][1]) if state else tokens

    def _greedy_tokens(self, x):
        step, state = self.start_decoding(x)
        greedy = words_only(Greedy(), self.decoder, self.tokenizer)
        return greedy.decode(step, state, ops.shape(x)[0], self.max_length).tokens

    def start_decoding(self, x):
        """What a search of your own needs: the step function of `keras_showattend.decoding`, and its first state.

        Args:
            x: As in `generate`, a tensor or an array.

        Returns:
            `(step, state)`: `step(tokens, state)` gives `(logits, state, attention)` for N captions, or for a multiple
            of N, those of one image together; a state `(N, ...)`.

        Raises:
            ValueError: If the captioner is not built or `x` does not fit.

        Example:
        ```python
        features = store.features(store.image_ids)
        step, state = captioner.start_decoding(features)
        decoded = keras_showattend.decoding.greedy_search(step, state, batch_size=len(features), max_length=6)
        decoded.tokens  # int32, (N, 6)
        ```
        """
        memory, state = self.memory_and_state(x)
        return lambda token, state: self.decoder.step(token, state, memory), state

    def memory_and_state(self, x):
        """What `start_decoding` starts from, for programs that call the decoder's `step` themselves.

        Args:
            x: As in `generate`, a tensor or an array.

        Returns:
            `(memory, state)`, nests of tensors with N rows: what the decoder's `prepare` and `initial_state` return.

        Raises:
            ValueError: If the captioner is not built or `x` does not fit.
        """
        self.check_inference(x)
        memory = self.decoder.prepare(self._encode(x, training=False))
        # A decoder whose first state does not depend on the image need not take the memory.
        takes_memory = "memory" in inspect.signature(self.decoder.initial_state).parameters
        return memory, self.decoder.initial_state(ops.shape(x)[0], **({"memory": memory} if takes_memory else {}))

    # Saving

    def save_own_variables(self, store):
        """Save where the random numbers of training stand, so that it goes on with the next ones."""
        for name, state in self._random_states().items():
            store[name] = ops.convert_to_numpy(state)

    def load_own_variables(self, store):
        """Load what `save_own_variables` saved; random numbers that the saved captioner did not need stay."""
        saved = set(store.keys())
        for name, state in self._random_states().items():
            if name in saved:
                state.assign(store[name])

    def _random_states(self):
        """The states of the random numbers, by their names in a file: the dropout layers' are numbered."""
        own = {} if self._sampling_seed is None else {"scheduled_sampling": self._sampling_seed.state}
        known = {id(v) for v in (*self.non_trainable_weights, *own.values())}
        dropout = [v for v in self.non_trainable_variables if id(v) not in known]
        return {**{str(i): v for i, v in enumerate(dropout)}, **own}

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        parts = {"encoder": serialize(self.encoder), "decoder": serialize(self.decoder)}
        if self.built:
            # So that `build` builds them: weights of a part that comes built are not named after the captioner.
            for part in parts.values():
                part.pop("build_config", None)
        return {
            **super().get_config(),
            **parts,
            "tokenizer": serialize(self.tokenizer),
            "feature_extractor": serialize(self.feature_extractor),
            "grid": self.grid,
            "max_length": self.max_length,
            "attention_penalty": self.attention_penalty,
            "attention_target": self.attention_target,
            "scheduled_sampling": serialize(self.scheduled_sampling),
            "library_version": __version__,
        }

    @classmethod
    def from_config(cls, config):
        """Build the captioner and its parts from `get_config`."""
        # Older files have neither a version nor `scheduled_sampling`.
        version, config = config.get("library_version"), {k: v for k, v in config.items() if k != "library_version"}
        parts = ("encoder", "decoder", "tokenizer", "feature_extractor", "scheduled_sampling")
        with naming_a_newer_version(version):
            parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in parts if name in config}
            return cls(**{**config, **parts})
