"""What a type annotation asks for, in the words of error messages."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mtlkit.registry import did_you_mean

NAMES: dict[Any, str] = {int: "an integer", float: "a number", bool: "true or false", NoneType: "null"}
NAMES |= dict.fromkeys((str, Path), "text") | dict.fromkeys((list, tuple, Sequence, Iterable), "a list")
NAMES |= dict.fromkeys((dict, Mapping), "a mapping")


def annotation_in_words(annotation: Any, tasks: Sequence[str] = ()) -> str:
    """What an annotation asks for, in words. Where there are `tasks`, a mapping is by their names.

    >>> from mtlkit.typed import Count
    >>> annotation_in_words(tuple[Count, Count] | None)
    '[an integer >= 1, an integer >= 1] or null'
    >>> annotation_in_words(dict[str, float], ("depth", "normals"))
    'a mapping of task names to values, each a number, such as {depth: 1.0, normals: 1.0}'
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return f"{annotation_in_words(args[0])} {args[1]}"
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(annotation_in_words(arg, tasks) for arg in args))
    if origin is tuple and args[-1] is not Ellipsis:
        return f"[{', '.join(map(annotation_in_words, args))}]"
    if origin in (list, tuple, Sequence, Iterable):
        return f"a list, each item {annotation_in_words(args[0])}"
    if origin in (dict, Mapping) and args[1] in (int, float):
        example = ", ".join(f"{name}: {args[1](1)}" for name in tasks[:2] or ("NAME",))
        what = "task names" if tasks else "names"
        return f"a mapping of {what} to values, each {annotation_in_words(args[1])}, such as {{{example}}}"
    if origin in (dict, Mapping) and args[1] is Any:
        return "a mapping of names to values, such as {NAME: VALUE}"
    return NAMES.get(origin or annotation, str(annotation))


def hint_for(value: Any, annotation: Any) -> str:
    """Returns what else a message can say: the words of a `Literal` close to a misspelt one, or the annotation's text.

    The text is the last part of an annotation such as `Annotated[Positive, "It is in metres."]`.
    """
    if get_origin(annotation) is Annotated and isinstance(text := get_args(annotation)[-1], str):
        return text
    if get_origin(annotation) is Literal:
        words = [word for word in get_args(annotation) if isinstance(word, str)]
        texts = [text for text in (value if isinstance(value, list | tuple) else [value]) if isinstance(text, str)]
        return next((hint for text in texts if text not in words and (hint := did_you_mean(text, words))), "")
    return next((hint for inner in get_args(annotation) if (hint := hint_for(value, inner))), "")
