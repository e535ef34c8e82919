"""Builds a configuration from files and words, one after the other.

There is one rule: the options of a class belong to that class. If a file or a word names another class, in any form,
the new class starts with its own defaults, and the options that were set for the previous class are dropped.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mtlkit.config.sections import SECTIONS, Section, section_at
from mtlkit.plain_text import short
from mtlkit.registry import suggest
from mtlkit.typed import Source

KeyPath = tuple[Any, ...]  # the keys that lead to a value: ("task", "depth", "type")
#: The place of the balancer that every experiment starts with. Options that were set beside it stay when another
#: balancer is named, because they are meant for that balancer.
START = "configs/config.yaml"
GROUPS = ("balancer", "data", "model", "task")  #: the keys whose value may be text that chooses a file or a class


class Draft:
    """Values that are being put together, and the place (a file, a word) that each value came from.

    Args:
        find: for a group and a name, returns the file with that name: its place, the path of its keys and its values.
            Returns None if there is no such file.
        names: for a group, returns the names of its files.
    """

    def __init__(
        self, find: Callable[[str, str], tuple[str, KeyPath, Any] | None], names: Callable[[str], list[str]]
    ) -> None:
        self.values: dict[str, Any] = {}
        self.places: dict[KeyPath, str] = {}
        self._find, self._names = find, names

    def source(self, default: str) -> Source:
        """Returns the places of the values, for messages."""
        return Source(default, {_dotted(path): place for path, place in self.places.items()})

    def put(self, path: KeyPath, value: Any, place: str, *, add: bool = False) -> None:
        """Sets a value. A mapping is merged with the present value. Any other value replaces it.

        Text at a section, such as `balancer: NAME`, is a choice. With `add`, the present tasks stay.
        Raises `ValueError` for a choice that does not exist.
        """
        # `put` interprets choices, and `_put` sets values as they are. A value of a file may be a choice, too, so the
        # two call each other.
        if not path:
            for key, item in value.items():
                self.put((key,), item, place)
        elif path == ("task",) and (isinstance(value, str) or _is_names(value)):
            self._choose_tasks([value] if isinstance(value, str) else value, place, add)
        elif path[0] in GROUPS and len(path) == 1 and isinstance(value, str):
            self._choose(path[0], value, place)
        else:
            self._put(path, value, place)

    def put_default(self, path: KeyPath, value: Any, place: str, stays: Callable[[str], bool]) -> None:
        """Sets a value, except where the present one stays because of the place that it came from."""
        kept = path in self.places and stays(self.places[path])
        if isinstance(value, Mapping) and not (kept and not isinstance(self._at(path), Mapping)):
            for key, item in value.items():
                self.put_default((*path, key), item, place, stays)
        elif not kept:
            self.put(path, value, place)

    def remove(self, path: KeyPath, place: str) -> None:
        """Removes a key. Raises `ValueError` if it does not exist."""
        container: Any = self.values
        for key in path:
            around, found = container, _key(container, key)
            if found is None:
                known = container if isinstance(container, Mapping) else ()
                raise ValueError(f"{place}: the key {_dotted(path)!r} does not exist. {suggest(str(key), known)}")
            container = container[found]
        del around[found]
        self._forget(path)

    def _put(self, path: KeyPath, value: Any, place: str) -> None:
        section, around = section_at(path), section_at(path[:-1])
        # `encoder: lenet` is short for `encoder: {name: lenet}`. After this line there is only the long form.
        if section and isinstance(value, str):
            value = {section.naming: value}
        if isinstance(value, list) and (inner := section_at((*path, 0))):
            value = [{inner.naming: item} if isinstance(item, str) else item for item in value]
        container, key = self._container(path, place)
        # Before the new name is written: only now it can be compared with the previous one.
        if around and key == around.naming and isinstance(value, str):
            self._make_way(container, path[:-1], around, value)
        if isinstance(value, Mapping):
            if not isinstance(container[key], dict):
                container[key] = {}
            self.places[path] = place
            for name in sorted(value, key=lambda name: section is None or name != section.naming):  # name first
                self.put((*path, name), value[name], place)
            return
        # Other lists are replaced, but plug-ins add up: a word must not take away the modules that the experiment
        # needs.
        if path == ("plugins",) and isinstance(value, list) and isinstance(container[key], list):
            value = [*container[key], *(module for module in value if module not in container[key])]
        self._forget(path)  # the keys below it are gone with the old value, so a message must not name their places
        container[key] = value
        self.places[path] = place

    def _container(self, path: KeyPath, place: str) -> tuple[Any, Any]:
        """Returns the container of the last key of the path, and that key. Creates what does not exist yet."""
        container: Any = self.values
        for end, key in enumerate(path, 1):
            found = _key(container, key)
            if isinstance(container, list) and found is None:
                problem = f"there is no entry {key!r}, the list has {len(container)}, counted from 0"
                raise Source(place).error(_dotted(path[:end]), problem)
            if found is None:
                container[key] = None
            around, last = container, key if found is None else found
            if end < len(path) and not isinstance(around[last], dict | list):
                around[last] = {}
                self.places.setdefault(path[:end], place)
            container = around[last]
        return around, last

    def _make_way(self, values: dict[str, Any], path: KeyPath, section: Section, name: str) -> None:
        """Removes the options of the previous class if the section now names another class."""
        # Classes are compared, not names: two timm models are of one class, so its options stay.
        before = values.get(section.naming)
        if self.places.get((*path, section.naming)) == START:
            return
        if isinstance(before, str) and section.class_of(before) != section.class_of(name):
            for key in values.keys() - section.kept:
                del values[key]
                self._forget((*path, key))

    def _choose(self, group: str, name: str, place: str) -> None:
        """Replaces the chosen file of a group by configs/GROUP/NAME.yaml. Without such a file, the name is a class."""
        section, file = SECTIONS[(group,)], self._find(group, name)
        if file is None:
            if not section.knows(name):
                hint = section.suggest(name, self._names(group))
                raise ValueError(f"{group}: there is no {short(name)!r} (in {short(place)}). {hint}")
            self._put((group,), {section.naming: name}, place)
            return
        origin, path, values = file
        # Values of the previous file go, and values that the user set stay: the place of each value tells them apart.
        chosen = [path for path, place in self.places.items() if place.startswith(f"configs/{group}/")]
        for known in chosen:
            # Mappings stay, because the user's values may be in them; the name is overwritten below.
            if known[1:] != (section.naming,) and not isinstance(self._at(known), dict):
                self.remove(known, place)
        self._put(path, values, origin)
        self.places[(group,)] = self.places[(group, section.naming)] = place

    def _choose_tasks(self, names: Sequence[str], place: str, add: bool) -> None:
        """Keeps exactly these tasks: tasks that exist already, or tasks of configs/task/NAME.yaml."""
        there = self.values.get("task")
        before: dict[str, Any] = there if isinstance(there, dict) else {}
        # A new mapping, so that the tasks get the order of the names: reports list them in this order.
        tasks, new = dict(before) if add else {}, []
        for name in names:
            file = None if name in before else self._find("task", name)
            if name not in before and file is None:
                known = {*before, *self._names("task")}
                raise ValueError(f"task: there is no {short(name)!r} (in {short(place)}). {suggest(name, known)}")
            if file is None:
                tasks[name] = before[name]
                continue
            origin, path, values = file
            for task, settings in values.items() if len(path) == 1 else [(path[1], values)]:
                tasks[task] = before.get(task, {})
                if task not in before:
                    new.append((task, settings, origin))
        for name in before.keys() - tasks.keys():
            self._forget(("task", name))
        self.values["task"] = tasks
        self.places[("task",)] = place
        if not tasks:
            del self.values["task"]  # the later check reports that it is missing
        # Only now, because `_put` writes into `self.values`, which must have all the tasks already.
        for task, settings, origin in new:
            self._put(("task", task), settings, origin)

    def _at(self, path: KeyPath) -> Any:
        value: Any = self.values
        for key in path:
            value = value[_key(value, key)]
        return value

    def _forget(self, path: KeyPath) -> None:
        """Forgets the place of a key and of all keys below it."""
        for known in [known for known in self.places if known[: len(path)] == path]:
            del self.places[known]


def _key(container: Any, key: Any) -> Any:
    """Returns the key in a mapping, or the index in a list (given as text). Returns None if it does not exist."""
    if isinstance(container, list) and str(key).isdigit() and int(key) < len(container):
        return int(key)
    return key if isinstance(container, dict) and key in container else None


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))
