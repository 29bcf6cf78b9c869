"""source of a function or class -> its parameters, those it hands on, and the comment beside each.

The comment beside a parameter says what it is, so it is written once: where it is declared.
"""

import ast
import functools
import inspect
import io
import textwrap
import tokenize
from collections.abc import Callable, Iterator
from typing import Any

Parameters = dict[str, inspect.Parameter]
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def parameters_of(entry: Callable[..., Any]) -> Parameters:
    """Those of its signature, then those of what it hands its `**keywords` on to."""
    parameters: Parameters = {}
    for part in (entry, *receivers(entry)):
        for name, parameter in inspect.signature(part).parameters.items():
            if parameter.kind not in VARIADIC:
                parameters.setdefault(name, parameter)
    return parameters


def receivers(entry: Callable[..., Any]) -> list[Callable[..., Any]]:
    """The functions and classes, known to its file, to which it hands its `**keywords`."""
    parameters = inspect.signature(entry).parameters.values()
    keywords = [p.name for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
    if not keywords:
        return []
    calls = [node for node in ast.walk(parse_source(entry)[0]) if isinstance(node, ast.Call)]
    names = {ast.unparse(c.func) for c in calls if (None, keywords[0]) in map(handed, c.keywords)}
    parts = [vars(inspect.getmodule(entry)).get(name) for name in sorted(names)]
    return [part for part in parts if inspect.isclass(part) or inspect.isfunction(part)]


def handed(keyword: ast.keyword) -> tuple[str | None, str]:
    return keyword.arg, ast.unparse(keyword.value)


def comments_of(entry: Callable[..., Any]) -> dict[str, str]:
    """parameter -> the comment beside it; the entry's own over its base classes' and receivers'."""
    bases = entry.__mro__[-2::-1] if inspect.isclass(entry) else (entry,)
    comments: dict[str, str] = {}
    for part in receivers(entry):
        comments |= comments_of(part)
    for part in bases:
        comments |= dict(comments_in(part))
    return comments


def comments_in(part: Callable[..., Any]) -> Iterator[tuple[str, str]]:
    """Each parameter or field with its comment: at the end of its lines, or on lines above it."""
    tree, comments, alone = parse_source(part)
    for name, first, last in declarations(tree.body[0]):
        lines = [line for line in range(first, last) if line in comments and line not in alone]
        above = first - 1
        while above in alone:
            lines.insert(0, above)
            above -= 1
        if lines:
            yield name, " ".join(comments[line] for line in lines)


def declarations(node: ast.AST) -> Iterator[tuple[str, int, int]]:
    """name, first line, line after: each parameter of a function, each field of a class."""
    if isinstance(node, ast.ClassDef):
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign):
                last = statement.end_lineno or statement.lineno
                yield ast.unparse(statement.target), statement.lineno, last + 1
            elif isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                yield from declarations(statement)
    elif isinstance(node, ast.FunctionDef):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        starts = [argument.lineno for argument in arguments[1:]]
        for argument, after in zip(arguments, [*starts, node.body[0].lineno], strict=False):
            yield argument.arg, argument.lineno, after


@functools.cache
def parse_source(part: Callable[..., Any]) -> tuple[ast.Module, dict[int, str], set[int]]:
    """Its syntax tree, the comment of each line that has one, and the lines that hold no more."""
    source = textwrap.dedent(inspect.getsource(part))
    comments: dict[int, str] = {}
    alone: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
            if not token.line[: token.start[1]].strip():
                alone.add(token.start[0])
    return ast.parse(source), comments, alone
