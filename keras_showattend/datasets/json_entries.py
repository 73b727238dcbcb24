"""Checks of lists of objects in JSON files that someone else wrote."""

_NAMES = {int: "integer", str: "string", list: "list"}


def check_entries(content, key, fields, rule):
    """Returns the list `content[key]`, whose entries all have the given fields.

    Args:
        content: What the JSON file holds.
        key: str, the name of the list.
        fields: dict from the name of each field to the types that it may have, a tuple of `int`,
            `str` and `list`.
        rule: str, how the message begins: what the file must be, and which file was received.

    Returns:
        A list of dicts.

    Raises:
        ValueError: If there is no such list, an entry is no object, or a field is missing or has
            another type.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{rule}whose top level is no object (type {type(content).__name__}).")
    if key not in content:
        raise ValueError(f'{rule}which has no "{key}"; its keys are {list(content)[:10]}.')
    if not isinstance(content[key], list):
        raise ValueError(f'{rule}whose "{key}" is no list (type {type(content[key]).__name__}).')
    for number, entry in enumerate(content[key]):
        if not isinstance(entry, dict):
            raise ValueError(f'{rule}where "{key}"[{number}] is no object: {entry!r:.100}.')
        for field, types in fields.items():
            if field not in entry:
                raise ValueError(f'{rule}where "{key}"[{number}] has no "{field}".')
            # Not isinstance: JSON's true is no integer.
            if type(entry[field]) not in types:
                raise ValueError(
                    f'{rule}where the "{field}" of "{key}"[{number}] is no '
                    f"{' or '.join(_NAMES[kind] for kind in types)}: {entry[field]!r:.100}."
                )
    return content[key]
