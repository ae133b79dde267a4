#!/usr/bin/env python3
"""Fails where files of a crate import from each other in a circle, and names them.

A file imports from another what its paths name there: `crate::…`, `super::…`, `self::…` or `child::…`, in a `use` or
elsewhere. A name that a file only passes on (`pub use child::Name;`) is imported from where it is defined, and passing
it on is no import; nor is `mod child;`. What is compiled for tests alone (`#[cfg(test)]`) may look anywhere.

    python3 .ci/circles.py            checks CRATES
    python3 .ci/circles.py models     checks another
"""

import doctest
import re
import sys
from collections import defaultdict
from pathlib import Path

# The crates without a circle. Add one here when it has lost its last.
CRATES = ["benches", "engine", "server"]

ROOT = Path(__file__).resolve().parent.parent
NOISE = re.compile(r"""//[^\n]*|/\*.*?\*/|\bb?r(#*)".*?"\1|"(?:\\.|[^"\\])*"|'(?:\\[^']+|\\'|[^\\'])'""", re.DOTALL)
TOKEN = re.compile(r"\w+|::|\S")
TEST = TOKEN.findall("#[cfg(test)]")


def circles(sources):
    """The circles in a crate's sources, each as {file: files of the circle that it imports from}.

    Files are named by their module, the tuple of its path's segments; `()` is the crate's root.

    >>> circles({(): "mod a; mod b;", ("a",): "use crate::b::{self, B};", ("b",): "fn f() { super::a::g() }"})
    [{('a',): [('b',)], ('b',): [('a',)]}]
    >>> circles({(): "mod a; pub use a::A; fn f() -> A {}", ("a",): "use crate::f;"})
    [{(): [('a',)], ('a',): [()]}]
    >>> circles({(): "mod a; mod b; pub use a::A;", ("a",): "use crate::b::B;", ("b",): "use crate::A;"})
    [{('a',): [('b',)], ('b',): [('a',)]}]
    >>> circles({(): "pub mod a; use a::A;", ("a",): "mod m { use super::B; use crate::C; }"})
    [{(): [('a',)], ('a',): [()]}]
    >>> circles({(): "mod a; pub(crate) use a::A; // A", ("a",): "mod m { use super::B; use crate::C; }"})
    []
    >>> circles({(): "pub mod a; use a::A; #[cfg(test)] mod b;", ("a",): "#[cfg(test)] mod t { use crate::f; }",
    ...     ("b",): "use crate::f;"})
    []
    """
    imports = Crate(sources).imports()

    def reached(file):
        found, left = set(), [file]
        while left:
            new = imports[left.pop()] - found
            found |= new
            left += new
        return found

    reach = {file: reached(file) for file in imports}
    groups = {frozenset(b for b in reach[a] if a in reach[b]) for a in reach if a in reach[a]}
    return [{file: sorted(imports[file] & group) for file in sorted(group)} for group in sorted(groups, key=sorted)]


class Crate:
    """What the paths in a crate's files name, and the names that its modules have from elsewhere."""

    def __init__(self, sources):
        self.files, self.modules = set(sources), set(sources)
        self.names = defaultdict(dict)  # module -> name -> the path behind it
        self.paths = defaultdict(list)  # file -> [(module in the file, path)]
        for file, text in sources.items():
            self.read(file, TOKEN.findall(NOISE.sub(" ", text)))

    def read(self, file, tokens):
        module, outer, passed_on, mentioned, i = file, [], [], set(), 0
        while i < len(tokens):
            token, after = tokens[i], tokens[i + 1 : i + 3]
            if tokens[i : i + len(TEST)] == TEST:
                i = end_of_item(tokens, i + len(TEST))
            elif token == "mod" and after[1] == "{":
                outer.append(module)
                module += (after[0],)
                self.modules.add(module)
                i += 3
            elif token == "mod" and after[1] == ";":
                i += 3
            elif token == "use" and after[0] != "<":
                public = tokens[i - 1] in ("pub", ")")  # `pub(crate)` is too
                found, i = tree(tokens, i + 1)
                self.names[module].update({name: path for path, name in found})
                (passed_on if public else self.paths[file]).extend((module, path) for path, _ in found)
            elif after[:1] == ["::"] and token.isidentifier():
                found, i = tree(tokens, i)
                self.paths[file] += [(module, path) for path, _ in found]
                mentioned.add(token)
            else:
                if token == "{":
                    outer.append(module)
                elif token == "}":
                    module = outer.pop()
                mentioned.add(token)
                i += 1
        self.paths[file] += [(module, path) for module, path in passed_on if path[-1] in mentioned]

    def imports(self):
        found = defaultdict(set)
        for file, paths in self.paths.items():
            found[file] = {self.home(module, path) for module, path in paths} - {file, None}
        return found

    def home(self, module, path, hops=8):
        """The file that has what a path names; `None` outside the crate."""
        head, *rest = path
        if head == "crate":
            module = ()
        elif head == "super":
            module = module[:-1]
        elif head != "self":
            if module + (head,) not in self.modules and head not in self.names[module]:
                return None
            rest = path
        while rest and rest[0] == "super":
            module, rest = module[:-1], rest[1:]
        for i, name in enumerate(rest):
            if module + (name,) in self.modules:
                module += (name,)
            elif name in self.names[module] and hops:
                return self.home(module, self.names[module][name] + rest[i + 1 :], hops - 1)
            else:
                break
        while module not in self.files:
            module = module[:-1]
        return module


def tree(tokens, i):
    """The paths that begin at a token, each with the name that a `use` gives to it, and where they end."""
    if tokens[i] == "{":
        found, i = [], i + 1
        while tokens[i] != "}":
            inner, i = tree(tokens, i)
            found += inner
            i += tokens[i] == ","
        return found, i + 1
    if tokens[i + 1] == "::" and re.match(r"[\w{*]", tokens[i + 2]):
        head, (found, end) = tokens[i], tree(tokens, i + 2)
        # `head::self` is the head.
        joined = [([head] + path[path == ["self"] :], head if name == "self" else name) for path, name in found]
        return joined, end
    if tokens[i + 1] == "as":
        return [([tokens[i]], tokens[i + 2])], i + 3
    return [([tokens[i]], tokens[i])], i + 1


def end_of_item(tokens, i):
    """Where the item that begins at a token ends."""
    depth = 0
    while depth or tokens[i] not in (";", ",", "}"):
        depth += (tokens[i] in "{([") - (tokens[i] in "})]")
        i += 1
        if not depth and tokens[i - 1] == "}":
            return i
    return i + (tokens[i] != "}")


def sources(src):
    """The text of each file that is compiled into a crate's library, or into its program where it has no library."""
    root = next(src / name for name in ("lib.rs", "main.rs") if (src / name).exists())
    found = {(): root.read_text()}
    for path in src.rglob("*.rs"):
        module = path.relative_to(src).with_suffix("").parts
        if len(module) > 1 or module[0] not in ("lib", "main"):
            found[module[:-1] if module[-1] == "mod" else module] = path.read_text()
    return found


def main(crates):
    failed = bool(doctest.testmod().failed)
    for crate in crates:
        name = lambda module: "::".join(module) or "the root"
        for circle in circles(sources(ROOT / crate / "src")):
            failed = True
            print(f"{crate}: {len(circle)} files import from each other in a circle:")
            for file, others in circle.items():
                print(f"  {name(file)} imports from {', '.join(map(name, others))}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or CRATES))
