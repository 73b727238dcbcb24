"""Words the captions of a scene: what is in it, and how its objects stand to each other."""

# What one object is to another, and what the other then is to it.
OPPOSITES = {
    "above": "below",
    "below": "above",
    "to the left of": "to the right of",
    "to the right of": "to the left of",
}

CAPTIONS_PER_SCENE = 5

# By the number of objects, a, b and c in the scene's order. {a_b} says how a stands to b. No two
# wordings of a scene are equal, and none is longer than 19 words, so that twenty generated tokens
# hold any caption and its end.
WORDINGS = {
    1: (
        "{a} alone",
        "{a} on a light background",
        "{a} and nothing else",
        "there is {a} in the picture",
        "the picture shows {a}",
        "only {a} can be seen",
        "a picture of {a}",
    ),
    2: (
        "{a} {a_b} {b}",
        "{b} {b_a} {a}",
        "{a} is {a_b} {b}",
        "{b} is {b_a} {a}",
        "there is {a} and {b}",
        "the picture shows {a} and {b}",
        "{a} and {b} on a light background",
        "a picture of {a} {a_b} {b}",
    ),
    3: (
        "{a} {a_b} {b} and also {c}",
        "{c} {c_b} {b} and also {a}",
        "{a} and also {b} {b_c} {c}",
        "there is {a} and {b} and {c}",
        "the picture shows {a} and {b} and {c}",
        "{a} with {b} and {c}",
        "a picture of {a} and {b} and {c}",
    ),
}


def offset(first, second):
    """How far the centre of the box `second` lies below and to the right of that of `first`.

    Args:
        first: `(y_min, x_min, y_max, x_max)`.
        second: Likewise.

    Returns:
        `(down, right)`, two floats in the boxes' unit.
    """
    down = (second[0] + second[2] - first[0] - first[2]) / 2
    right = (second[1] + second[3] - first[1] - first[3]) / 2
    return down, right


def relation(first, second):
    """Says where the box `first` is with respect to `second`.

    The axis along which the centres are further apart decides. On a tie it is the vertical one.

    Args:
        first: `(y_min, x_min, y_max, x_max)`.
        second: Likewise.

    Returns:
        str, a key of `OPPOSITES`.

    Example:
    ```python
    from keras_showattend.datasets.shape_scenes.wording import relation

    relation((0, 0, 10, 10), (30, 5, 40, 15))  # "above"
    ```
    """
    down, right = offset(first, second)
    if abs(down) >= abs(right):
        return "above" if down > 0 else "below"
    return "to the left of" if right > 0 else "to the right of"


def write_captions(rng, objects):
    """Words five captions of a scene, each in another way.

    Args:
        rng: `numpy.random.Generator`, chooses the wordings.
        objects: list of one to three `SceneObject`.

    Returns:
        list of `CAPTIONS_PER_SCENE` different str, lowercase, words separated by single spaces.
    """
    parts = {}
    named = list(zip("abc", objects, strict=False))
    for letter, item in named:
        parts[letter] = item.phrase
        for other_letter, other in named:
            if other is not item:
                parts[f"{letter}_{other_letter}"] = relation(item.box, other.box)
    wordings = WORDINGS[len(objects)]
    chosen = rng.choice(len(wordings), size=CAPTIONS_PER_SCENE, replace=False)
    return [wordings[i].format(**parts) for i in chosen]
