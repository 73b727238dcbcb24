"""Where Keras's steps on JAX keep the values of variables: in a state that they pass, not in the variables."""

import keras


def with_state_of_jax(model, state, function):
    """Calls `function` in a step of Keras's, so that the model's variables have their values on JAX too.

    Args:
        model: `keras.Model` whose `train_step` or `predict_step` this is.
        state: What the step got before its batch: nothing, `[]`, except on JAX. There it is `[values]`, of the
            trainable and the non-trainable variables and, in training, those of the optimizer and the metrics.
        function: Function without arguments. It may change variables that are not trainable, such as random states.

    Returns:
        `(result, state)`: what `function` returned, and the state after it, in the form of `state`.
    """
    if not state:
        return function(), state
    ((trainable, non_trainable, *others),) = state
    groups = [(model.trainable_variables, trainable), (model.non_trainable_variables, non_trainable)]
    if others:
        groups.append((model.optimizer.variables, others[0]))
    pairs = [pair for variables, values in groups for pair in zip(variables, values, strict=True)]
    with keras.StatelessScope(pairs) as scope:
        result = function()
    non_trainable = [scope.get_current_value(variable) for variable in model.non_trainable_variables]
    return result, [(trainable, non_trainable, *others)]
