"""Look through a pickle before it is read: nothing in it may take memory or stack out of proportion.

CPython's unpickler makes room for whatever place in its memo a pickle names, and computes the hash of tuples in
tuples by recursion: five bytes cost gigabytes, and a megabyte ends the process. Knows nothing of what the
pickle means.
"""

from __future__ import annotations

import pickletools
from typing import Any

DEEPEST = 200  # values in values that can't be changed, as tuples are
_PUTS = frozenset(["PUT", "BINPUT", "LONG_BINPUT"])
_GETS = frozenset(["GET", "BINGET", "LONG_BINGET"])
_FROZEN = frozenset(
    ["TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET", "REDUCE"]
)  # what has a hash of its parts
_MARK = -1


def next_pickle(stream: Any) -> bytes:
    """The bytes of the pickle at the stream's place, which is then behind it. ValueError for a hostile one.

    stream: bytes in memory with `read`, `readline`, `seek` and `tell`, as BytesIO and mmap have them.
    """
    began = stream.tell()
    stack: list[int] = []  # how deep each value is, or _MARK
    memo: dict[int, int] = {}
    argument: Any
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        name = opcode.name
        if name in _PUTS or name == "MEMOIZE":
            place = len(memo) if argument is None else argument
            if place > number:
                raise ValueError(f"a pickle with place {place} in its memo after {number} steps")
            memo[place] = stack[-1]
        elif name in _GETS:
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name != "DUP":
            parts = _taken(stack, opcode)
            depth = 1 + max(parts, default=0) if name in _FROZEN else 0
            if depth > DEEPEST:
                raise ValueError(f"a pickle with more than {DEEPEST} tuples in each other")
            stack += [depth] * len(opcode.stack_after)
        else:
            stack.append(stack[-1])
    end = stream.tell()
    stream.seek(began)
    data = stream.read(end - began)
    stream.seek(end)
    return data


def _taken(stack: list[int], opcode: Any) -> list[int]:
    """Take from the stack what the opcode takes."""
    wanted = list(opcode.stack_before)
    parts = []
    if pickletools.markobject in wanted:
        while (part := stack.pop()) != _MARK:
            parts.append(part)
        wanted = wanted[: wanted.index(pickletools.markobject)]
    for _ in wanted:
        parts.append(stack.pop())
    return parts
