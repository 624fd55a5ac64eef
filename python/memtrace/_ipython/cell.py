"""Runs the code of a cell with a tracker around it, and nothing else of IPython inside.

The ``with`` statement is put around the cell's statements when they are parsed already. So lines keep their numbers and
strings their indentation, other magics work, and the value of the last expression is shown as ever.
"""

from __future__ import annotations

import ast
from typing import Any

# What the cell calls its tracker, for as long as it runs.
_NAME = "__memtrace_cell__"


class _Cell:
    """The tracker, whether it began, and the value of the last expression."""

    def __init__(self, tracker: Any) -> None:
        self.tracker = tracker
        self.has_begun = False
        self.value: Any = None

    def take(self) -> Any:
        value, self.value = self.value, None
        return value


class _WithTracker(ast.NodeTransformer):
    """Encloses the body of a module."""

    def __init__(self) -> None:
        self.has_run = False

    def visit_Module(self, module: ast.Module) -> ast.Module:
        # Magics in the cell run modules of their own.
        if self.has_run or not module.body:
            return module
        self.has_run = True
        body = list(module.body)
        end = []
        last = body[-1]
        if isinstance(last, ast.Expr):
            # CELL.value = EXPRESSION, and behind the tracker: CELL.take()
            store = ast.Assign(targets=[_of_cell("value", ast.Store())], value=last.value)
            body[-1] = ast.copy_location(store, last)
            end = [ast.copy_location(ast.Expr(ast.Call(_of_cell("take", ast.Load()), [], [])), last)]
        begin = ast.Assign(targets=[_of_cell("has_begun", ast.Store())], value=ast.Constant(True))
        body.insert(0, ast.copy_location(begin, body[0]))
        with_tracker = ast.With(items=[ast.withitem(_of_cell("tracker", ast.Load()), None)], body=body)
        module.body = [ast.copy_location(with_tracker, body[0]), *end]
        return ast.fix_missing_locations(module)


def _of_cell(attribute: str, context: ast.expr_context) -> ast.Attribute:
    return ast.Attribute(ast.Name(_NAME, ast.Load()), attribute, context)


def run(shell: Any, code: str, tracker: Any) -> bool:
    """Runs it as a cell. Returns whether anything was recorded; what it raises IPython has shown."""
    transformer = _WithTracker()
    recorded = shell.user_ns[_NAME] = _Cell(tracker)
    # The last one, as others may add statements at the top of a cell.
    shell.ast_transformers.append(transformer)
    try:
        shell.run_cell(code)
    finally:
        if transformer in shell.ast_transformers:
            shell.ast_transformers.remove(transformer)
        shell.user_ns.pop(_NAME, None)
    return recorded.has_begun
