"""Straight runs without the price of the hook: primitives in place of their calls.

A hot function of the kernel calls dozens of primitives, each of which first asks whether
somebody explores. `@hot` marks such a function; `prepare()`, at the first boot of a process,
gives it two branches made of its one source: as it stands, for runs with a hook; and with
the bodies of the primitives it calls (`linux/kernel`, `linux/lib`, `linux/include`), minus
their hook, for runs without. What a function does is the same in both, and so is the order
in which it does it: `MMIGRATE_PLAIN=1` leaves all functions as they are written, and the
tests compare. The number that justifies this is `straight_move_pages_per_s` of
benchmarks/move_pages.py.

A call is replaced where its place allows it: an expression by an expression, a statement,
an assignment, or the beginning of a condition by statements. Everything else stays a call.
"""

from __future__ import annotations

import ast
import linecache
import os
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, Final, TypeGuard, TypeVar, cast

FLOORS: Final = ("mmigrate.linux.kernel.", "mmigrate.linux.lib.", "mmigrate.linux.include.")
LARGEST: Final = 40  # statements of a primitive that is put in place
DEEPEST: Final = 4  # primitives inside of primitives
SHORT: Final = 4  # statements that may stand in both branches of a condition
OFTEN: Final = 2  # uses from which on it pays to compute something once
RESULT: Final = "result of what is put in place"  # until it gets a name
COLD: Final = (
    "BUG",
    "note_lock_order",
    "_get_page_of_tail",
    "_put_page_of_tail",
)  # never worth a place

F = TypeVar("F", bound=Callable[..., Any])

_hot: list[FunctionType] = []
_small: set[FunctionType] = set()


def hot(function: F) -> F:
    """Mark a function of the kernel for `prepare()`."""
    assert isinstance(function, FunctionType)
    _hot.append(function)
    return function


def small(function: F) -> F:
    """Mark a hot function that others may have in place, like a primitive."""
    assert isinstance(function, FunctionType)
    _small.add(function)
    return hot(function)


def prepare() -> None:
    """Give all hot functions their straight branch; once a process."""
    if not _hot:
        return
    functions = list(_hot)
    _hot.clear()
    if os.environ.get("MMIGRATE_PLAIN"):
        return
    primitives: dict[FunctionType, _Primitive | None] = {}
    for function in functions:
        function.__code__ = _Branches(function, primitives).code()


class _Primitive:
    """A function that can stand in place of its call: its parameters and its body without
    hook, constants filled in, other globals under names of their own."""

    def __init__(self, function: FunctionType) -> None:
        definition = _definition(function)
        arguments = definition.args
        if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs:
            raise _StaysCall
        self.parameters = _parameters(definition)
        defaults = function.__defaults__ or ()
        names = self.parameters[len(self.parameters) - len(defaults) :]
        self.defaults: dict[str, Any] = dict(zip(names, defaults, strict=True))
        self.body = _task_by_name(_without_hook(definition.body))
        nodes = [node for statement in self.body for node in ast.walk(statement)]
        if _size(self.body) > LARGEST or any(isinstance(node, _UNFIT) for node in nodes):
            raise _StaysCall
        self.assigned = _assigned(self.body)
        self.globals: dict[str, Any] = {}
        rename = _Names(function, {*self.parameters, *self.assigned}, self.globals)
        self.body = [rename.visit(statement) for statement in self.body]

    @property
    def expression(self) -> ast.expr | None:
        """What it returns, if that is all it does."""
        only = self.body[0] if len(self.body) == 1 else None
        return only.value if isinstance(only, ast.Return) else None

    def bind(self, call: ast.Call) -> dict[str, ast.expr]:
        """Each parameter with its argument."""
        if any(isinstance(argument, ast.Starred) for argument in call.args):
            raise _StaysCall
        bound: dict[str, ast.expr] = dict(zip(self.parameters, call.args, strict=False))
        for keyword in call.keywords:
            if keyword.arg is None:
                raise _StaysCall
            bound[keyword.arg] = keyword.value
        for parameter in self.parameters:
            if parameter not in bound:
                default = self.defaults[parameter]
                if not _is_constant(default):
                    raise _StaysCall
                bound[parameter] = ast.Constant(default)
        return bound


class _StaysCall(Exception):
    """This call cannot be replaced by what it calls."""


_UNFIT: Final = (
    ast.For,
    ast.While,
    ast.Yield,
    ast.YieldFrom,
    ast.Await,
    ast.FunctionDef,
    ast.Lambda,
    ast.Global,
    ast.Nonlocal,
    ast.Try,
    ast.With,
    ast.NamedExpr,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
    ast.Delete,
)


class _Branches:
    """One hot function with both branches."""

    def __init__(
        self, function: FunctionType, primitives: dict[FunctionType, _Primitive | None]
    ) -> None:
        self.function = function
        self.primitives = primitives
        self.definition = _definition(function)
        self.locals = {
            *_parameters(self.definition),
            *_assigned(self.definition.body),
        }
        self.inside: list[_Primitive] = []  # what is being put in place

    def code(self) -> CodeType:
        definition = self.definition
        as_written = definition.body
        straight = _without_hook(_definition(self.function).body)
        constants = _Names(self.function, self.locals, None)
        straight = [constants.visit(statement) for statement in straight]
        straight = [_Truth().visit(statement) for statement in self.block(straight, 0)]
        test = ast.Compare(_attribute("sched", "hook"), [ast.Is()], [ast.Constant(None)])
        straight = _look_once(straight, set(_parameters(definition)) - _assigned(straight))
        definition.body = [ast.If(test, straight, as_written)]
        ast.copy_location(definition.body[0], definition)
        for node in ast.walk(test):
            ast.copy_location(node, definition)
        self.function.__globals__.setdefault("sched", _sched())
        definition.decorator_list = []
        definition.returns = None
        for argument in definition.args.args:
            argument.annotation = None
        # the values of defaults stay with the function object
        module = ast.Module([definition], [])
        compiled = compile(module, self.function.__code__.co_filename, "exec")
        return next(
            constant
            for constant in compiled.co_consts
            if isinstance(constant, CodeType) and constant.co_name == self.function.__name__
        )

    # --- statements ---

    def block(self, statements: list[ast.stmt], depth: int) -> list[ast.stmt]:
        return [new for old in statements for new in self.statement(old, depth)]

    def statement(self, statement: ast.stmt, depth: int) -> Iterator[ast.stmt]:
        """@statement with calls replaced, and what must come before it."""
        if depth > DEEPEST:
            yield statement
            return
        for field, value in ast.iter_fields(statement):
            if isinstance(value, ast.expr):
                setattr(statement, field, _Expressions(self, depth).visit(value))
        if isinstance(statement, ast.If):
            statement = self._split(statement)
        before, statement_ = self._first_call(statement, depth)
        yield from before
        if statement_ is None:
            return
        for field in ("body", "orelse", "finalbody"):
            inner = getattr(statement_, field, None)
            if isinstance(inner, list):
                setattr(statement_, field, self.block(inner, depth))
        for handler in getattr(statement_, "handlers", ()):
            handler.body = self.block(handler.body, depth)
        yield statement_

    def _split(self, statement: ast.If) -> ast.If:
        """`if a: if b:` for `if a and b:`, where @b begins with a call that can be replaced,
        and likewise for `or`."""
        test = statement.test
        if not isinstance(test, ast.BoolOp):
            return statement
        both = isinstance(test.op, ast.And)
        if _size(statement.orelse if both else statement.body) > SHORT:
            return statement
        for position in range(1, len(test.values)):
            asked = ast.If(_joined(test, test.values[position:]), [], [])
            holder, field = _evaluated_first(asked)
            call = getattr(holder, field)
            call = call[0] if isinstance(call, list) else call
            if isinstance(call, ast.Call) and self.primitive(call) is not None:
                break
        else:
            return statement
        inner = _place(asked, test)
        inner.body, inner.orelse = deepcopy(statement.body), deepcopy(statement.orelse)
        statement.test = _joined(test, test.values[:position])
        if both:
            statement.body = [inner]
        else:
            statement.orelse = [inner]
        return statement

    def _first_call(
        self, statement: ast.stmt, depth: int
    ) -> tuple[list[ast.stmt], ast.stmt | None]:
        """Replace the call that a statement begins with by statements before it; None if
        nothing is left of the statement."""
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            done = self.in_place(statement.value, None, depth)
            return (done, None) if done is not None else ([], statement)
        if not isinstance(statement, ast.Assign | ast.Return | ast.If):
            return [], statement
        holder, field = _evaluated_first(statement)
        call = getattr(holder, field)
        if isinstance(call, list):
            call = call[0]
        if not isinstance(call, ast.Call):
            return [], statement
        result = self.temporary("result", depth)
        if isinstance(statement, ast.Assign) and holder is statement:
            target = statement.targets[0]
            if len(statement.targets) == 1 and isinstance(target, ast.Name):
                done = self.in_place(call, target.id, depth)
                return ([], statement) if done is None else (done, None)
        done = self.in_place(call, result, depth)
        if done is None:
            return [], statement
        value: ast.expr = ast.copy_location(ast.Name(result, ast.Load()), call)
        if _assigns(done[-1], result):
            value = cast(ast.Assign, done.pop()).value
        if isinstance(getattr(holder, field), list):
            getattr(holder, field)[0] = value
        else:
            setattr(holder, field, value)
        if isinstance(statement, ast.If) and done:
            statement.body = self.block(statement.body, depth)
            statement.orelse = self.block(statement.orelse, depth)
            decided = _decided(done[-1], result, statement)
            if decided is None:
                return [*done, statement], None
            return [*done[:-1], decided], None
        return done, statement

    def in_place(self, call: ast.Call, result: str | None, depth: int) -> list[ast.stmt] | None:
        """The statements that do what @call does and leave its value in @result; None if it
        must stay a call."""
        primitive = self.primitive(call)
        if primitive is None or primitive in self.inside:
            return None
        try:
            bound = primitive.bind(call)
            body = _tail(primitive.body, None if result is None else RESULT)
        except _StaysCall:
            return None
        names: dict[str, ast.expr] = {RESULT: ast.Name(result or "", ast.Load())}
        statements: list[ast.stmt] = []
        for parameter, argument in bound.items():
            if parameter not in primitive.assigned and isinstance(
                argument, ast.Name | ast.Constant
            ):
                names[parameter] = argument
            else:
                temporary = self.temporary(parameter, depth)
                target = _place(ast.Name(temporary, ast.Store()), call)
                statements.append(_place(ast.Assign([target], argument), call))
                names[parameter] = ast.Name(temporary, ast.Load())
        for local in primitive.assigned:
            if local not in names:
                names[local] = ast.Name(self.temporary(local, depth), ast.Load())
        statements += [_copy(statement, names, call) for statement in body]
        self.function.__globals__.update(primitive.globals)
        self.inside.append(primitive)
        statements = self.block(statements, depth + 1)
        self.inside.pop()
        return statements

    # --- names and primitives ---

    def temporary(self, name: str, depth: int) -> str:
        """A name for a variable of what is put in place at @depth. What stands at the same
        depth comes one after the other, so it shares them: a call pays for each name."""
        return f"{name}_{depth}"

    def primitive(self, call: ast.Call) -> _Primitive | None:
        function = self._callee(call.func)
        if function is None or function.__name__ in COLD:
            return None
        if not function.__module__.startswith(FLOORS) and function not in _small:
            return None
        if function not in self.primitives:
            self.primitives[function] = None  # while it is looked at: no recursion
            with suppress(_StaysCall):
                self.primitives[function] = _Primitive(function)
        return self.primitives[function]

    def _callee(self, func: ast.expr) -> FunctionType | None:
        found: Any = None
        if isinstance(func, ast.Name) and func.id not in self.locals:
            found = self.function.__globals__.get(func.id)
        elif (
            isinstance(func, ast.Attribute)
            and isinstance(func.value, ast.Name)
            and func.value.id not in self.locals
        ):
            module = self.function.__globals__.get(func.value.id)
            found = getattr(module, func.attr, None) if isinstance(module, ModuleType) else None
        return found if isinstance(found, FunctionType) else None


class _Expressions(ast.NodeTransformer):
    """Replaces calls of primitives that only return an expression."""

    def __init__(self, branches: _Branches, depth: int) -> None:
        self.branches = branches
        self.depth = depth

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "has":
            absent = _place(ast.Attribute(node.func.value, "absent", ast.Load()), node)
            return _place(ast.Compare(node.args[0], [ast.NotIn()], [absent]), node)
        primitive = self.branches.primitive(node)
        expression = primitive.expression if primitive is not None else None
        if primitive is None or expression is None or self.depth > DEEPEST:
            return node
        try:
            bound = primitive.bind(node)
        except _StaysCall:
            return node
        uses = [n.id for n in ast.walk(expression) if isinstance(n, ast.Name)]
        hard = [name for name, argument in bound.items() if not _is_simple(argument)]
        if len(hard) > 1 or any(uses.count(name) != 1 for name in hard):
            return node
        self.branches.function.__globals__.update(primitive.globals)
        replaced = _copy(expression, bound, node)
        inner: ast.expr = _Expressions(self.branches, self.depth + 1).visit(replaced)
        return inner

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        return node  # runs later, perhaps with a hook


_KEPT: Final = (ModuleType, FunctionType, BuiltinFunctionType, type)  # globals that stay


class _Names(ast.NodeTransformer):
    """Fills in constants, and, where @aliases collects them, gives other globals names that
    no function has."""

    def __init__(
        self, function: FunctionType, own: set[str], aliases: dict[str, Any] | None
    ) -> None:
        self.own = own
        self.aliases = aliases
        self.module = function.__module__.replace(".", "_")
        self.values = dict(function.__globals__)
        if function.__closure__ is not None:
            cells = (cell.cell_contents for cell in function.__closure__)
            self.values.update(zip(function.__code__.co_freevars, cells, strict=True))
        self.free = set(function.__code__.co_freevars)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.own or node.id not in self.values:
            return node
        value = self.values[node.id]
        if _is_constant(value) and (node.id.isupper() or node.id in self.free or _flag(node.id)):
            return ast.copy_location(ast.Constant(value), node)
        if self.aliases is None:
            return node
        if not (node.id.isupper() or isinstance(value, _KEPT)):
            raise _StaysCall  # a variable of its module
        alias = f"{node.id}__{self.module}"
        self.aliases[alias] = value
        return ast.copy_location(ast.Name(alias, node.ctx), node)


class _HookIsNone(ast.NodeTransformer):
    """Takes out what is done only with a hook."""

    def __init__(self) -> None:
        self.names: set[str] = set()  # variables that hold the hook

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name) and (node.value.id, node.attr) == ("sched", "hook"):
            return ast.Constant(None)
        self.generic_visit(node)
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.names and isinstance(node.ctx, ast.Load):
            return ast.Constant(None)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.stmt | None:
        value: ast.expr = self.visit(node.value)
        target = node.targets[0]
        if _none(value) and not _none(node.value) and isinstance(target, ast.Name):
            self.names.add(target.id)
            return None
        self.generic_visit(node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
        """Annotations of variables mean nothing at run time."""
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign([node.target], self.visit(node.value)), node)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        if len(node.ops) == 1 and _none(node.left) and _none(node.comparators[0]):
            return ast.Constant(isinstance(node.ops[0], ast.Is))
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        value = node.operand.value if isinstance(node.operand, ast.Constant) else None
        if isinstance(node.op, ast.Not) and type(value) is bool:
            return ast.Constant(not value)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        value = node.test.value if isinstance(node.test, ast.Constant) else None
        if type(value) is bool:
            return node.body if value else node.orelse
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        decides = isinstance(node.op, ast.Or)
        values: list[ast.expr] = []
        for value in node.values:
            if isinstance(value, ast.Constant) and type(value.value) is bool:
                if value.value is decides:
                    values.append(value)
                    break
            else:
                values.append(value)
        if not values:
            return ast.Constant(not decides)
        if len(values) == 1:
            return values[0]
        node.values = values
        return node

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant) and type(node.test.value) is bool:
            return node.body if node.test.value else node.orelse
        if not node.body:
            node.body = [ast.Pass()]
        return node


def _look_once(statements: list[ast.stmt], fixed: set[str]) -> list[ast.stmt]:
    """The same with what cannot change during a call computed at its beginning, where it is
    wanted often: the running task, and the place of an address in a table."""
    wanted: dict[str, list[ast.expr]] = {}
    for statement in statements:
        for node in ast.walk(statement):
            if _of_running_task(node):
                wanted.setdefault(node.attr, []).append(node)
            elif _is_place(node, fixed):
                wanted.setdefault(ast.unparse(node), []).append(node)
    first: list[ast.stmt] = []
    replaced: dict[int, ast.expr] = {}
    for nodes in wanted.values():
        if len(nodes) > OFTEN:
            name = f"looked_{len(first)}"
            target = _place(ast.Name(name, ast.Store()), nodes[0])
            first.append(_place(ast.Assign([target], nodes[0]), nodes[0]))
            replaced |= {id(node): _place(ast.Name(name, ast.Load()), node) for node in nodes}
    return first + [_Replaced(replaced).visit(statement) for statement in statements]


def _of_running_task(node: ast.AST) -> TypeGuard[ast.Attribute]:
    """Whether it is `sched.task`, or `sched.task.held`: the same all through a call."""
    if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Load):
        return False
    if node.attr == "held":
        return _of_running_task(node.value) and node.value.attr == "task"
    return (
        node.attr == "task"
        and isinstance(node.value, ast.Name)
        and node.value.id.partition("__")[0] == "sched"
    )


def _task_by_name(statements: list[ast.stmt]) -> list[ast.stmt]:
    """The same without `task = sched.task`, and `sched.task` wherever `task` stood."""
    for position, statement in enumerate(statements):
        if isinstance(statement, ast.Assign) and _of_running_task(statement.value):
            rest = statements[:position] + statements[position + 1 :]
            target = statement.targets[0]
            if rest and isinstance(target, ast.Name) and target.id not in _assigned(rest):
                names: dict[str, ast.expr] = {target.id: statement.value}
                return _task_by_name([_copy(other, names, statement.value) for other in rest])
    return statements


def _is_place(node: ast.AST, fixed: set[str]) -> TypeGuard[ast.expr]:
    """Whether it is `address >> SHIFT & MASK` of an argument that stays as it is."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant)):
        return False
    shifted = node.left
    return (
        isinstance(shifted, ast.BinOp)
        and isinstance(shifted.op, ast.RShift)
        and isinstance(shifted.left, ast.Name)
        and shifted.left.id in fixed
        and isinstance(shifted.right, ast.Constant)
    )


class _Replaced(ast.NodeTransformer):
    """Puts in other expressions, found by identity."""

    def __init__(self, replaced: dict[int, ast.expr]) -> None:
        self.replaced = replaced

    def visit(self, node: ast.AST) -> Any:
        return self.replaced.get(id(node)) or super().visit(node)


class _Truth(ast.NodeTransformer):
    """`flags & bit` for `flags & bit != 0` where only its truth is asked for."""

    def visit_If(self, node: ast.If) -> ast.stmt:
        self.generic_visit(node)
        node.test = _truth(node.test)
        return node

    def visit_While(self, node: ast.While) -> ast.stmt:
        self.generic_visit(node)
        node.test = _truth(node.test)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        node.test = _truth(node.test)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not):
            node.operand = _truth(node.operand)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and _assigns(node, node.value.id):
            return _place(ast.Pass(), node.value)  # a variable to itself
        return node


def _truth(node: ast.expr) -> ast.expr:
    """An expression that is true when @node is."""
    if isinstance(node, ast.BoolOp):
        node.values = [_truth(value) for value in node.values]
    elif isinstance(node, ast.Compare) and isinstance(node.left, ast.BinOp):
        zero = node.comparators[0]
        if (
            isinstance(node.left.op, ast.BitAnd)
            and isinstance(zero, ast.Constant)
            and type(zero.value) is int
            and zero.value == 0
        ):
            if isinstance(node.ops[0], ast.NotEq):
                return node.left
            if isinstance(node.ops[0], ast.Eq):
                return _place(ast.UnaryOp(ast.Not(), node.left), node)
    return node


def _without_hook(statements: list[ast.stmt]) -> list[ast.stmt]:
    if statements and isinstance(statements[0], ast.Expr):
        if isinstance(statements[0].value, ast.Constant):
            statements = statements[1:]  # the docstring
    module: ast.Module = _HookIsNone().visit(ast.Module(statements, []))
    return module.body or [ast.Pass()]


def _tail(statements: list[ast.stmt], result: str | None) -> list[ast.stmt]:
    """The same statements with assignments to @result in place of `return`."""
    done: list[ast.stmt] = []
    for position, statement in enumerate(statements):
        if isinstance(statement, ast.Return):
            return done + _finish(statement.value, result)
        if not _returns(statement):
            done.append(statement)
            continue
        if not isinstance(statement, ast.If):
            raise _StaysCall
        rest = statements[position + 1 :]
        ends = _ends(statement.body), bool(statement.orelse) and _ends(statement.orelse)
        if not any(ends) and len(rest) > SHORT:
            raise _StaysCall
        first = statement.body if ends[0] else statement.body + rest
        second = statement.orelse if ends[1] else statement.orelse + rest
        done.append(
            ast.If(statement.test, _tail(first, result) or [ast.Pass()], _tail(second, result))
        )
        return done
    return done if done and _ends(done) else done + _finish(None, result)


def _assigns(statement: ast.stmt, name: str) -> bool:
    """Whether a statement does nothing but assign to @name."""
    target = statement.targets[0] if isinstance(statement, ast.Assign) else None
    return isinstance(target, ast.Name) and target.id == name


def _decided(first: ast.stmt, result: str, then: ast.If) -> ast.stmt | None:
    """@first, which leaves @result at each of its ends, with what @then makes of it there; None
    if @then asks for something else, or would be repeated too often."""
    test: ast.expr = then.test
    sides = {True: then.body, False: then.orelse}
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test = test.operand
        sides = {True: then.orelse, False: then.body}
    if not (isinstance(test, ast.Name) and test.id == result and isinstance(first, ast.If)):
        return None
    ends = list(_last(first))
    if any(not _assigns(end, result) and not _ends([end]) for end in ends):
        return None
    values = [cast(ast.Assign, end).value for end in ends if _assigns(end, result)]
    for side, statements in sides.items():
        uses = sum(not isinstance(v, ast.Constant) or bool(v.value) is side for v in values)
        if uses > 1 and _size(statements) > SHORT:
            return None
    return _settled([first], result, sides, then)[0]


def _last(statement: ast.stmt) -> Iterator[ast.stmt]:
    """The statements that may be the last ones of @statement."""
    if isinstance(statement, ast.If):
        for side in statement.body, statement.orelse:
            yield from _last(side[-1] if side else ast.Pass())
    else:
        yield statement


def _settled(
    statements: list[ast.stmt], result: str, sides: dict[bool, list[ast.stmt]], place: ast.If
) -> list[ast.stmt]:
    """The same @statements with one of the @sides in place of each assignment to @result."""
    *others, last = statements
    if isinstance(last, ast.If):
        last.body = _settled(last.body, result, sides, place)
        last.orelse = _settled(last.orelse, result, sides, place)
        return statements
    if not _assigns(last, result):
        return statements  # never goes on from here
    value = cast(ast.Assign, last).value
    yes, no = deepcopy(sides[True]), deepcopy(sides[False])
    if isinstance(value, ast.Constant):
        return others + ((yes if value.value else no) or [_place(ast.Pass(), place.test)])
    both = ast.If(value, yes or [_place(ast.Pass(), place.test)], no)
    return [*others, _place(both, place.test)]


def _size(statements: list[ast.stmt]) -> int:
    return sum(isinstance(node, ast.stmt) for s in statements for node in ast.walk(s))


def _finish(value: ast.expr | None, result: str | None) -> list[ast.stmt]:
    if result is not None:
        return [ast.Assign([ast.Name(result, ast.Store())], value or ast.Constant(None))]
    if value is None or isinstance(value, ast.Name | ast.Constant):
        return []
    return [ast.Expr(value)]


def _returns(statement: ast.stmt) -> bool:
    return any(isinstance(node, ast.Return) for node in ast.walk(statement))


def _ends(statements: list[ast.stmt]) -> bool:
    """Whether nothing behind these statements is ever reached."""
    last = statements[-1]
    if isinstance(last, ast.Return | ast.Raise):
        return True
    return (
        isinstance(last, ast.Expr)
        and isinstance(last.value, ast.Call)
        and isinstance(last.value.func, ast.Name)
        and last.value.func.id.partition("__")[0] == "BUG"
    )


def _evaluated_first(statement: ast.stmt) -> tuple[Any, str]:
    """Where the expression stands that a statement evaluates first."""
    holder: Any = statement
    field = "test" if isinstance(statement, ast.If) else "value"
    while True:
        here = getattr(holder, field)
        if isinstance(here, list):
            here = here[0]
        if isinstance(here, ast.UnaryOp):
            holder, field = here, "operand"
        elif isinstance(here, ast.BoolOp):
            holder, field = here, "values"
        elif isinstance(here, ast.Compare | ast.BinOp):
            holder, field = here, "left"
        else:
            return holder, field


def _joined(test: ast.BoolOp, values: list[ast.expr]) -> ast.expr:
    """Some of the values of @test, joined as they are there."""
    return values[0] if len(values) == 1 else _place(ast.BoolOp(test.op, values), test)


def _definition(function: FunctionType) -> ast.FunctionDef:
    """The source of a function, at its own lines."""
    code = function.__code__
    first = code.co_firstlineno
    last = max(position[1] or 0 for position in code.co_positions())
    lines = linecache.getlines(code.co_filename)[first - 1 : last]
    if not lines:
        raise _StaysCall  # there is no source
    definition = ast.parse("\n" * (first - 1) + textwrap.dedent("".join(lines))).body[0]
    if not isinstance(definition, ast.FunctionDef):
        raise _StaysCall
    return definition


def _parameters(definition: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in definition.args.args]


def _assigned(statements: list[ast.stmt]) -> set[str]:
    nodes = (node for statement in statements for node in ast.walk(statement))
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _is_simple(node: ast.expr) -> bool:
    """Whether it may be evaluated any number of times."""
    if isinstance(node, ast.Attribute):
        return _is_simple(node.value)
    return isinstance(node, ast.Name | ast.Constant)


def _is_constant(value: Any) -> bool:
    return value is None or type(value) in (bool, int, str)


def _flag(name: str) -> bool:
    """A constant of the kernel whose name is not all capitals, such as PG_lru."""
    return name.startswith(("PG_", "_PG_"))


def _none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _attribute(name: str, attribute: str) -> ast.Attribute:
    return ast.Attribute(ast.Name(name, ast.Load()), attribute, ast.Load())


N = TypeVar("N", bound=ast.AST)


def _copy(node: N, names: dict[str, ast.expr], place: ast.expr) -> N:
    """@node at the lines of @place, with expressions in place of @names."""
    if isinstance(node, ast.Name):
        new: Any = names.get(node.id, node)
        if isinstance(new, ast.Name):
            return cast(N, _place(ast.Name(new.id, node.ctx), place))
        return cast(N, _copy(new, {}, place))
    kind = type(node)
    copied = kind()
    for field in kind._fields:
        value = getattr(node, field, None)
        if isinstance(value, list):
            value = [_copy(v, names, place) if isinstance(v, ast.AST) else v for v in value]
        elif isinstance(value, ast.AST) and not isinstance(value, _WITHOUT_PLACE):
            value = _copy(value, names, place)
        setattr(copied, field, value)
    return _place(copied, place)


_WITHOUT_PLACE: Final = (ast.expr_context, ast.operator, ast.boolop, ast.unaryop, ast.cmpop)


def _place(node: N, place: ast.expr) -> N:
    """Give @node the lines of @place."""
    if isinstance(node, ast.stmt | ast.expr):
        node.lineno = place.lineno
        node.col_offset = place.col_offset
        node.end_lineno = place.end_lineno
        node.end_col_offset = place.end_col_offset
    return node


def _sched() -> ModuleType:
    from mmigrate.linux.kernel import sched

    return sched
