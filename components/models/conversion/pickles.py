"""Reads `.pth` files without running what is in them, and tells a refused one from a damaged one."""

import pickle
import pickletools
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from components.errors import UserError

HARMLESS = ("torch", "collections", "_codecs", "numpy")
"""Packages that a file of tensors names; what of them may be called is decided by torch's own list."""
_NAMED = re.compile(r"GLOBAL (\S+) was not an allowed|GLOBAL (\S+) whose module")
_IMPORT = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*")
_FORBIDDEN = ("reduce for unrecognized", "Can only create new object", "Can only build")


def load_pickle(path: Path, shown: str) -> Any:
    """Content of a file that `torch.save` wrote: tensors, numbers, texts and containers of them, nothing else.

    Args:
        path: an existing file.
        shown: its name, for messages.

    Raises:
        UserError: refused if the file asks for code; damaged if it does not read whole.
    """
    if zipfile.is_zipfile(path):
        _check_archive(path, shown)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged stream can fail in any operation of the unpickler
        named = _asked_for(path, str(error))
        if named is not None:
            raise _refused(shown, named) from None
        broken = isinstance(error, pickle.UnpicklingError) or not str(error)
        raise _damaged(shown, "no readable pickle" if broken else str(error).splitlines()[0][:120]) from None


def _asked_for(path: Path, message: str) -> str | None:
    """What a file that was not loaded wanted to call; None: nothing, so it is damaged."""
    if found := _NAMED.search(message):
        return found[1] or found[2]
    wanted = (one.replace(" ", ".") for one in _names(path) if _IMPORT.fullmatch(one))  # noise reads as opcodes, too
    foreign = next((one for one in wanted if one.split(".")[0] not in HARMLESS), None)
    if foreign is not None:
        return foreign
    return "an unusual object" if any(part in message for part in _FORBIDDEN) else None


def _names(path: Path) -> Iterator[str]:
    """What the pickles of a file import, as "module name": read and not run, as far as they can be read."""
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                yield from _imports(file)
            return
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".pkl"):
                    with archive.open(name) as file:
                        yield from _imports(file)
    except (zipfile.BadZipFile, OSError):
        return


def _imports(file: IO[bytes]) -> Iterator[str]:
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("GLOBAL", "INST"):
                yield str(argument)
            elif opcode.name == "STACK_GLOBAL" and len(texts) > 1:
                yield " ".join(texts[-2:])
            elif isinstance(argument, str):
                texts.append(argument)
    except (ValueError, pickle.UnpicklingError, UnicodeDecodeError):
        return


def _check_archive(path: Path, shown: str) -> None:
    """torch does not compare the checksums of tensors: a flipped bit would become a wrong weight."""
    try:
        with zipfile.ZipFile(path) as archive:
            script = any(Path(name).name == "constants.pkl" for name in archive.namelist())
            bad = None if script else archive.testzip()
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        RuntimeError,
    ) as error:  # also: encrypted, unknown method
        raise _damaged(shown, str(error)) from None
    if script:
        raise _refused(shown, "a compiled TorchScript program")
    if bad is not None:
        raise _damaged(shown, f"checksum of {bad}")


def _refused(shown: str, named: str) -> UserError:
    return UserError(
        f"{shown}: refused, because it asks for {named}, and loading weights runs no code",
        remedy="fetch the weights from those who made them, as safetensors or as a plain state dict",
    )


def _damaged(shown: str, reason: str) -> UserError:
    return UserError(f"{shown}: damaged ({reason})", remedy="fetch the file again")
