"""Methods from outside: in a Python file that the user names, or in an installed package.

Code is run because the user names its file or installs its package, and never because an adapter,
a table or another file of data asks for it.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from medept.errors import InputError, SettingsError
from medept.methods.base import METHODS, AdaptedEncoder

GROUP = "medept.methods"
"""The entry points by which a package offers methods; the name of each is its method's."""


class Plugin(BaseModel):
    """Where a method from outside comes from.

    Args:
        name: of the file, the installed package or the module.
        version: of the package; None for a file.
        sha256: of the file; None for an installed package.

    >>> print(Plugin(name="block_scale.py", sha256="5f" * 32))
    block_scale.py (SHA-256 5f5f5f5f5f5f...)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(max_length=200)
    version: str | None = Field(default=None, max_length=200)
    sha256: str | None = Field(default=None, max_length=64)

    def __str__(self) -> str:
        sha256 = f"(SHA-256 {self.sha256[:12]}...)" if self.sha256 else None
        return " ".join(filter(None, (self.name, self.version, sha256)))


LOADED: dict[str, Plugin] = {}
"""The files (absolute paths) and modules that :func:`load_plugin` has loaded."""

_PLACES: dict[str, str] = {}
"""The same by the name of the module that a file became, or of the package of a module."""


def load_plugin(file_or_module: str | Path) -> Plugin:
    """Make the methods of a Python file or a module available under their names.

    A file that is loaded already is loaded again only if it has changed. Load files that you trust:
    all that is in them is run.

    Args:
        file_or_module: a file such as ``block_scale.py``, or the name of a module that can be
            imported, such as ``my_package.methods``.

    Raises:
        SettingsError: if it cannot be loaded, defines no method, or one whose name is taken.

    >>> load_plugin("block_scale.py")
    Traceback (most recent call last):
    medept.errors.SettingsError: block_scale.py: no plugin can be read here (No such file or ...
    """
    if names_file(file_or_module):
        return _load_file(Path(file_or_module))
    name = str(file_or_module)
    package = _top(name)
    with _registering(name):
        import_module(name)
        method, *_ = _methods_of(package)
    LOADED[name] = plugin_of(method) or Plugin(name=name)
    _PLACES[package] = name
    return LOADED[name]


def names_file(file_or_module: str | Path) -> bool:
    """Whether a plugin is named by its file, and not as a module.

    >>> names_file("block_scale.py"), names_file("my_package.methods")
    (True, False)
    """
    path = Path(file_or_module)
    return path.suffix == ".py" or len(path.parts) > 1


def _load_file(file: Path) -> Plugin:
    if file.suffix != ".py":
        raise SettingsError(f"{file}: a plugin is a Python file, whose name ends in .py")
    try:
        path = file.resolve()
        source = path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"{file}: no plugin can be read here ({why}); give the file that defines the method"
        ) from error
    place = str(path)
    plugin = Plugin(name=path.name, sha256=hashlib.sha256(source).hexdigest())
    if LOADED.get(place) == plugin:
        return plugin
    name = f"medept_plugin_{path.stem}_{hashlib.sha256(place.encode()).hexdigest()[:8]}"
    spec = spec_from_file_location(name, path)
    assert spec is not None
    module = module_from_spec(spec)
    with _registering(place):
        if place in LOADED:  # as it was before it changed
            for method in _methods_of(name):
                del METHODS[method.name]
        sys.modules[name] = module
        exec(compile(source, place, "exec"), vars(module))  # the very bytes that were hashed
        _methods_of(name)
    LOADED[place], _PLACES[name] = plugin, place
    return plugin


def _top(module: str) -> str:
    return module.partition(".")[0]


def _methods_of(package: str) -> list[type[AdaptedEncoder]]:
    """The registered methods that a package, or a file as a module, defines: at least one."""
    found = [method for method in METHODS.values() if _top(method.__module__) == package]
    if not found:
        raise SettingsError(
            "it defines no method: derive a class that has a `name` from "
            "medept.methods.AdaptedEncoder"
        )
    return found


@contextmanager
def _registering(where: str) -> Iterator[None]:
    """Within it, code from outside runs; if it fails, its methods are not registered."""
    before = dict(METHODS)
    try:
        yield
    except (Exception, SystemExit) as error:
        METHODS.clear()
        METHODS.update(before)
        if isinstance(error, InputError):
            raise SettingsError(f"{where}: {error}") from error
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == where]
        line = f", line {lines[-1]}" if lines else ""
        raise SettingsError(
            f"{where}{line}: it cannot be imported ({type(error).__name__}: {error}); mend it, "
            "or install what it needs"
        ) from error


def load_packaged(name: str) -> None:
    """Import the installed package that offers this method, if there is one.

    Raises:
        SettingsError: if it cannot be imported, or several packages offer it.
    """
    points = list(entry_points(group=GROUP, name=name))
    packages = [point.dist.name if point.dist else point.value for point in points]
    if len(points) > 1:
        raise SettingsError(
            f"several packages offer a method {name!r} ({', '.join(packages)}): uninstall all but "
            "one"
        )
    for point, package in zip(points, packages, strict=True):
        where = f"the package {package}"
        with _registering(where):
            point.load()
            if name not in METHODS:
                raise SettingsError(
                    f"its entry point {name!r} registers no method of that name; report it to its "
                    "authors, or uninstall it"
                )


def packaged() -> set[str]:
    """The names of the methods that installed packages offer."""
    return {point.name for point in entry_points(group=GROUP)}


def plugin_of(method: type[AdaptedEncoder]) -> Plugin | None:
    """Where a method comes from; None if it ships with medept."""
    package = _top(method.__module__)
    if package == "medept":
        return None
    place = _PLACES.get(package)
    if place is not None and names_file(place):
        return LOADED[place]
    return _installed(package, method.name) or _imported(method.__module__)


@cache
def _installed(package: str, method: str) -> Plugin | None:
    """The installed package with this module; None where it is importable and not installed."""
    for point in entry_points(group=GROUP, name=method):
        if point.dist and _top(point.module) == package:
            return Plugin(name=point.dist.name, version=point.dist.version)
    with suppress(PackageNotFoundError):
        return Plugin(name=package, version=version(package))
    return None


def _imported(module: str) -> Plugin:
    """A module of the user's own: a script, a notebook, or a file that was imported."""
    file = Path(getattr(sys.modules.get(module), "__file__", None) or "")
    if not file.is_file():
        return Plugin(name=module)
    return Plugin(name=file.name, sha256=hashlib.sha256(file.read_bytes()).hexdigest())


def to_load(method: type[AdaptedEncoder]) -> dict[str, Plugin]:
    """What another process has to load for a method, by file or module: nothing for most."""
    place = _PLACES.get(_top(method.__module__))
    return {} if place is None else {place: LOADED[place]}


def missing(method: str, plugin: Plugin) -> str:
    """What is missing where a saved method is not registered, and what to do about it."""
    if plugin.version:
        return (
            f"its method {method!r} comes from the package {plugin}, which is not installed here: "
            "install it if you trust it"
        )
    return (
        f"its method {method!r} comes from the plugin {plugin}, which is not loaded: if you trust "
        "it, load its file first with medept.load_plugin (plugin= of a command)"
    )
