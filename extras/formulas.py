"""The worker of verify.py: compares formulas by their values, with math-verify's parser and sympy.

python -m extras.formulas   reads [seconds, answer, reference] a line, writes true, false or null
"""

import json
import os
import re
import sys
from fractions import Fraction

from extras.equality import NAME, decide

START_DEADLINE = 120.0  # seconds for the imports, on a busy machine
MEMORY = 4 << 30  # bytes of address space: 9^(9^9) asks for more
POINTS = "3/7 19/8 31/5 -5/9 -23/7 -17/4".split()  # where formulas with variables are compared


def compare(answer, reference):
    """What `decide` says with algebra: True, False, or None if the reference cannot be read."""
    try:
        return decide(answer, reference, compare_formulas)
    except (Exception, RecursionError, MemoryError):
        return None


def compare_formulas(answer, reference):
    """Brackets part by part, equations by the difference of their sides, formulas by value."""
    (kind, given), (expected_kind, expected) = structure(answer), structure(reference)
    if kind == "equation" and expected_kind == "formula" and not re.search("[A-Za-z]", given[0]):
        kind, given = "formula", given[1:]  # 2 + 3 = 5
    if kind != expected_kind or len(given) != len(expected):
        return False
    if kind == "formula":
        return same_value(given[0], expected[0])
    if kind == "equation":
        difference, other = (f"({left})-({right})" for left, right in (given, expected))
        return same_value(difference, other) or same_value(f"-({difference})", other)
    if kind not in ("{}", "union", "names"):
        pairs = zip(given, expected)
        return all(decide(*pair, compare_formulas) for pair in pairs)
    for part in expected:
        fitting = [other for other in given if decide(other, part, compare_formulas)]
        if not fitting:
            return False
        given.remove(fitting[0])
    return True


def structure(text):
    """(kind, parts) of a formula.

    kind: brackets such as "(]", "{}" for sets and bare lists, "union", "equation", "formula", the
    row lengths of a matrix, or "names" for a list such as x = 1, y = 2.
    """
    matrix = re.fullmatch(r"\\begin\{[pb]?matrix\}(.*)\\end\{[pb]?matrix\}", text)
    if matrix:
        rows = [row.split("&") for row in matrix[1].split(r"\\") if row.strip()]
        return str([len(row) for row in rows]), [cell for row in rows for cell in row]
    union, bare, sides = split(text, r"\cup"), split(text, ",", ";"), split(text, "=")
    bracketed = re.fullmatch(r"(\(|\[|\\\{)(.*)(\)|\]|\\\})", text)
    inside = split(bracketed[2], ",", ";") if bracketed else []
    if len(union) > 1:
        return "union", union
    if len(bare) > 1:
        names = [NAME.fullmatch(part.strip()) for part in bare]
        if all(names) and len({name[1] for name in names}) > 1:
            return "names", bare
        return "{}", plus_and_minus(bare)
    if inside and bracketed[1] == r"\{":
        return "{}", plus_and_minus(inside)
    if len(inside) > 1 or inside and bracketed[1] + bracketed[3] != "()":
        return bracketed[1] + bracketed[3], inside
    if inside:
        return structure(inside[0].strip())
    if len(sides) == 2:
        return "equation", sides
    signs = plus_and_minus([text])
    return ("{}", signs) if len(signs) > 1 else ("formula", signs)


def split(text, *separators):
    """The parts between separators outside brackets; [] if a bracket closes that never opened."""
    depth, start, parts = 0, 0, []
    for match in re.finditer(r"\\[{}]|\\cup(?![a-z])|[()\[\]{},;=]", text):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(match[0][-1], 0)
        if depth < 0:
            return []
        if depth == 0 and match[0] in separators:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def plus_and_minus(parts):
    """Each part with \\pm as two."""
    both = []
    for part in parts:
        if "\\pm" in part:
            both += [part.replace("\\pm", "+"), part.replace("\\pm", "-")]
        else:
            both.append(part)
    return both


def same_value(answer, reference):
    """Whether two formulas are equal, by their values at POINTS if they have variables.

    Only points count at which one of the values is real: sqrt(1/n) and 1/sqrt(n) are equal. If
    there is none, all points count. Raises an error if the reference cannot be read.
    """
    from sympy import Expr, Rational
    from sympy.core.relational import Relational

    expected = parse_formula(reference)
    try:
        given = parse_formula(answer)
    except Exception:  # whatever the parser makes of a text without sense
        return False
    if given == expected:
        return True
    sides = given, expected
    if any(isinstance(side, Relational) for side in sides):
        return all(isinstance(side, Relational) for side in sides) and (
            given.canonical == expected.canonical
        )
    if not all(isinstance(side, Expr) and side.is_infinite is not True for side in sides):
        return False
    difference = given - expected
    symbols = sorted(difference.free_symbols, key=str)
    equal_where_real, equal = [], []
    for shift in range(len(POINTS) if symbols else 1):
        values = {}
        for index, symbol in enumerate(symbols):
            values[symbol] = Rational(POINTS[(index + shift) % len(POINTS)]) + index
        equal.append(vanishes(difference.subs(values)))
        if any(side.subs(values).evalf(20).is_real for side in sides):
            equal_where_real.append(equal[-1])
    return all(equal_where_real or equal)


def vanishes(difference):
    """Whether a number is 0: it has no digit that differs after 200 digits."""
    value = difference.evalf(15, maxn=200)
    if not value.is_number or value.is_finite is False:
        return False
    return all(part == 0 or part._prec == 1 for part in value.as_real_imag())


def parse_formula(text):
    """A sympy expression by math-verify's parser, with decimals as exact fractions."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from sympy import I, Symbol

    text = re.sub(r"(?<!\d)(?:\d*\.\d+|\d+\.)", as_fraction, text)
    text = re.sub(r"\\[A-Za-z]+|([A-Za-z])(\d+)", with_index, text)
    config = ConversionConfig(lowercase_symbols=False)
    formula = latex2sympy(text, is_real=False, normalization_config=None, conversion_config=config)
    return formula.doit().subs(Symbol("i", real=False), I)


def as_fraction(match):
    value = Fraction(match[0])
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def with_index(match):
    """x1 is a name, no product."""
    return f"{match[1]}_{{{match[2]}}}" if match[1] else match[0]


def serve():
    """A worker: reads [seconds, answer, reference] a line, writes true, false or null a line."""
    import logging
    import resource
    import signal

    signal.setitimer(signal.ITIMER_REAL, START_DEADLINE)
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)
    sys.setrecursionlimit(5000)
    try:
        import latex2sympy2_extended  # noqa: F401  a part of math-verify
    except ImportError as error:
        print(str(error), file=output, flush=True)
        return
    # With a broken installation every result would be None, and a training would not learn why.
    if compare("\\sqrt{16}/2", "x = 2") is not True:
        print("it finds 4/2 unequal to 2", file=output, flush=True)
        return
    print("ready", file=output, flush=True)
    for line in sys.stdin:
        timeout, answer, reference = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        verdict = compare(answer, reference)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(verdict), file=output, flush=True)


if __name__ == "__main__":
    serve()
