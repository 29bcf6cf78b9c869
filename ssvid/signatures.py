"""Source of a function or class -> its parameters and the comment of each.

The comment of a parameter is its help text. It is written once, where the parameter is declared.
"""

import ast
import functools
import inspect
import io
import textwrap
import tokenize
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

Parameters = dict[str, inspect.Parameter]
SOURCES: dict[Callable[..., Any], str] = {}  # of entries that were not imported (ssvid.outlines)
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Receiver(NamedTuple):
    """A function that receives the `**keywords` of another."""

    entry: Callable[..., Any]
    fixed: frozenset[str]  # its parameters that the call sets, so that no keyword may


def parameters_of(entry: Callable[..., Any]) -> Parameters:
    """The parameters of its signature and of the functions that receive its `**keywords`."""
    parameters = {}
    for name, parameter in read_parameters(entry).items():
        if parameter.kind not in VARIADIC:
            parameters[name] = parameter
    for receiver in find_receivers(entry):
        for name, parameter in parameters_of(receiver.entry).items():
            if name not in receiver.fixed:
                parameters.setdefault(name, parameter)
    return parameters


def read_parameters(entry: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of its own signature. An annotation that is a text is read if it can be."""
    try:
        return inspect.signature(entry, eval_str=True).parameters
    except NameError:  # it names what is imported for type checkers alone
        return inspect.signature(entry).parameters


def find_receivers(entry: Callable[..., Any]) -> list[Receiver]:
    """The functions and classes that it calls with its `**keywords`.

    They are in its file's namespace, or are the class above it, as `super().__init__`.
    """
    keywords = []
    for name, parameter in read_parameters(entry).items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            keywords.append(name)
    if not keywords:
        return []
    module = None if entry in SOURCES else inspect.getmodule(entry)
    namespace = entry.__globals__ if module is None else vars(module)
    receivers = {}
    for node in ast.walk(parse_source(entry)[0]):
        if isinstance(node, ast.Call) and passes_on(node, keywords[0]):
            called = namespace.get(ast.unparse(node.func))
            if inspect.isclass(entry) and ast.unparse(node.func) == "super().__init__":
                called = entry.__mro__[1]
            if inspect.isclass(called) or inspect.isfunction(called):
                fixed = list(inspect.signature(called).parameters)[: len(node.args)]
                for keyword in node.keywords:
                    fixed += [keyword.arg] if keyword.arg else []
                receivers[ast.unparse(node.func)] = Receiver(called, frozenset(fixed))
    return list(map(receivers.__getitem__, sorted(receivers)))


def passes_on(call: ast.Call, name: str) -> bool:
    """Whether `**name` is among the arguments of a call."""
    for keyword in call.keywords:
        if keyword.arg is None and ast.unparse(keyword.value) == name:
            return True
    return False


def comments_of(entry: Callable[..., Any]) -> dict[str, str]:
    """Parameter -> its comment.

    The entry's comments override those of base classes and receivers.
    """
    bases = entry.__mro__[-2::-1] if inspect.isclass(entry) else (entry,)
    comments: dict[str, str] = {}
    for receiver in find_receivers(entry):
        comments |= comments_of(receiver.entry)
    for base in bases:
        comments |= dict(read_comments(base))
    return comments


def read_comments(entry: Callable[..., Any]) -> Iterator[tuple[str, str]]:
    """Each parameter or field with its comment: at the end of its lines, or on lines above it."""
    tree, comments, alone = parse_source(entry)
    for name, first, last in find_declarations(tree.body[0]):
        lines = [line for line in range(first, last) if line in comments and line not in alone]
        above = first - 1
        while above in alone:
            lines.insert(0, above)
            above -= 1
        if lines:
            yield name, " ".join(comments[line] for line in lines)


def find_declarations(node: ast.AST) -> Iterator[tuple[str, int, int]]:
    """(name, first line, line after) of each parameter of a function.

    Of a class: of its annotated fields and of the parameters of its `__init__`.
    """
    if isinstance(node, ast.ClassDef):
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign):
                last = statement.end_lineno or statement.lineno
                yield ast.unparse(statement.target), statement.lineno, last + 1
            elif isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                yield from find_declarations(statement)
    elif isinstance(node, ast.FunctionDef):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        # A parameter ends where the next one begins, and the last one where the body begins.
        lines_after = [argument.lineno for argument in arguments[1:]]
        lines_after.append(node.body[0].lineno)
        for argument, line_after in zip(arguments, lines_after, strict=False):
            yield argument.arg, argument.lineno, line_after


@functools.cache
def parse_source(entry: Callable[..., Any]) -> tuple[ast.Module, dict[int, str], set[int]]:
    """Its syntax tree, line -> comment, and the lines that hold nothing but a comment."""
    source = textwrap.dedent(SOURCES.get(entry) or inspect.getsource(entry))
    comments: dict[int, str] = {}
    alone: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
            if not token.line[: token.start[1]].strip():
                alone.add(token.start[0])
    return ast.parse(source), comments, alone
