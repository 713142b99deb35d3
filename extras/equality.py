r"""Is an answer equal to its reference? One rule: extract, normalise, compare.

A wrong answer that passes for right would be paid for. So what is not surely equal is different.

1. Extract. The last \boxed or \fbox that is not empty counts, with boxes that a comma or "and"
   joins to it. Else the last of these: <answer>...</answer>, a "####" line that is a value or the
   last line, "the answer is ...", "Answer: ...". Else the whole text, or its last formula or
   number. A value that is denied ("not 5") or a part ("3 to 5") is no answer. What is cut off in
   a box or a tag is none either.
2. Normalise. Unicode, LaTeX and markdown get one spelling. Case stays. A comma inside a number
   goes ("1,234"), but not inside brackets.
3. Compare, by the first of these that decides:
   text      Equal texts are equal. Words ignore case; symbols, units and abbreviations do not.
   choice    "B", "(B)", "B) 5" and "B: text" are the choice B.
   unit      A reference without a unit leaves it free. A unit in the reference has to be met,
             except degrees and dollars. 50% is 50/100; it also meets a bare reference above 1.
   number    Numbers are exact fractions: 0.333 is not 1/3.
   words     Other texts with words, dates, times, ranges and numbers of another base differ.
   brackets  (1, 2) and [1, 2) keep their order; \{1, 2\} and a bare list "1, 2" do not.
   formula   Two formulas are equal if they have equal values wherever they are real. x1 is a name.

The last two need algebra, by the parser of math-verify and by sympy. They may hang, so verify.py
runs them in processes with a deadline.
"""

import json
import re
import unicodedata
from fractions import Fraction

TAIL = 20_000  # characters at the end of a solution in which an answer is looked for
LONGEST = 1000  # characters of an answer that is compared as more than a text


# ---- 1. extract ----

BEHIND_NO_ANSWER = re.compile(r"^\W*(?:is|was)(?:n['’]t| not| wrong| incorrect)|(?<!\^)(?<!\^\{)\d")
BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*")
BETWEEN_BOXES = re.compile(r"(?:,|;|,?(?:\\text\{)?(?:and|or)\}?)")  # without blanks
ANSWER_TAG = re.compile(r"<answer>(.*?)(</answer>|\Z)", re.DOTALL)
HASHES = re.compile(r"^.*(?<!#)####(?!#)[ \t]*(.*)$", re.MULTILINE)
PHRASE = re.compile(
    r"\b(?:answers?|(?:correct|right) (?:option|choice))\b(?!\s+(?:choices|options))"
    r"(?:[^\n.:=]{0,60}?(?:\b(?:is|are|be|equals)\b|[:=])(?:[\s*_:]|\Z)[\s*_:]*|[\s*_]*\n\s*(?=\S))"
    r"(?:(?:therefore|thus|hence|then|clearly|simply|exactly|indeed|equal to)\b[,:]?\s*)?"
    r"(?=((?:(?!</)[^\n]){0,300}))",  # a line may hold several
    re.IGNORECASE,
)
END_OF_CLAUSE = re.compile(  # "A. B." is no end
    r"[.?;](?!\s+\(?[A-J](?:[).,;]|$))(?=\s|$)"
    r"|[,\s](?:because|since|so|which|where|when|as)\b|, not\b"
)
# Before a value, in its clause: it is denied, or it is a part of something larger
NOT_ANSWER = re.compile(
    r"\b(?:not|cannot|never|nor|neither|than|except|\w+n['’]t)\b"
    r"(?:(?!\b(?:and|so|but|hence|thus|therefore)\b)[^.,;:!?=\n])*$"
    r"|\d\W?(?: \w+)?,? (?:and|or|to|in|out of)[ $]*$|\d[,;]?[ $]+$"
    r"|(?:[\d)}]|\b[A-Za-z])\s*[-+*/×÷]\s*$"
    r"|\S\s*(?:[<>≤≥≠≈~]|!=|\\(?:neq?|leq?|geq?|lt|gt|approx|sim))\s*$"
    r"|(?:[}^_]|\\\w*(?:frac|sqrt|binom))\{$",
    re.IGNORECASE,
)
# Words that make another number of the one before them
SCALES = "hundred thousand million billion trillion dozen".split()
LAST_NUMBER = re.compile(
    r"(?<![\w^_.,:/\\])[-−+]?[$€£]?(?:\d+\s(?=\d+/\d))?"
    r"\.?\d+(?:[-.,:/]\d+)*(?:[eE][-+]?\d+)?(?![\w^\\])"
    rf"(?:\s*(?:\\?%|°|(?:[ap]\.?m|{'|'.join(SCALES)}|and a half)\b))?",
    re.ASCII,
)
LAST_FORMULA = re.compile(r"\$\$?([^$\n]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)


def candidates(text):
    """The readings of a solution, of which one has to fit: the stated answer if there is one."""
    text = text.strip()
    stated = stated_answer(text)
    if stated is not None or BOX.search(text):
        return [stated or ""]
    value = split_unit(normalise(text))[0]
    if is_formula(value) and not re.search(r"(?<![\\A-Za-z])[A-Za-z]{2}", value):
        return [text, text.rpartition("=")[2]]
    tail, readings = text[-TAIL:], [text]
    numbers, formulas = (list(kind.finditer(tail)) for kind in (LAST_NUMBER, LAST_FORMULA))
    last = max([*numbers[-1:], *formulas[-1:]], key=lambda match: match.end(), default=None)
    # A digit behind it belongs to something that is no number, such as 4x
    if last is None or BEHIND_NO_ANSWER.search(tail[last.end() :]) or denied(tail, last):
        return readings
    if last.re is LAST_FORMULA:
        return [*readings, last[last.lastindex].rpartition("=")[2]]
    line = tail[last.start() : last.start() + 300].partition("\n")[0]
    return [*readings, last[0], END_OF_CLAUSE.split(line, maxsplit=1)[0]]


def denied(text, match, group=0):
    """Whether what stands before a value says that it is not the answer, as in "not 5"."""
    return NOT_ANSWER.search(text[max(0, match.start(group) - 200) : match.start(group)])


def stated_answer(text):
    """What a text marks as its answer; None without a mark, "" where it is cut off."""
    box = boxed_answer(text)
    if box is not None:
        return box
    text = text[-TAIL:].rstrip()
    statements = [(-1, None)]
    for match in ANSWER_TAG.finditer(text):
        statements.append((match.start(), match[1] if match[2] else ""))
    for match in HASHES.finditer(text):
        if match[1].strip() and (match.end() == len(text) or is_value(match[1])):
            statements.append((match.start(), match[1]))
    for match in PHRASE.finditer(text):
        value = END_OF_CLAUSE.split(match[1], maxsplit=1)[0]
        if (value or match.end() == len(text)) and not denied(text, match, 1):
            statements.append((match.start(), value))
    _, last = max(statements, key=lambda statement: statement[0])
    if last is None:
        return None
    inner = stated_answer(last)  # "#### The answer is 5"
    return last.strip() if inner is None else inner


def is_value(text):
    """Whether a line is a number, a formula or a choice, so that it is no heading."""
    text = normalise(text)
    return bool(choice(text)) or is_formula(split_unit(text)[0])


def boxed_answer(text):
    """The last box that is not empty, and those joined to it; None without one, "" if cut off."""
    contents, next_start = [], None
    for match in reversed(list(BOX.finditer(text))):
        content, end = braced(text, match.end())
        if end is None:
            return ", ".join(contents)
        between = "".join(text[end:next_start].strip("$ \n\t").split()) if contents else ""
        is_joined = BETWEEN_BOXES.fullmatch(between)
        if contents and not is_joined:
            break
        if content.strip():
            next_start = match.start()
            if content.strip() not in contents:
                contents.insert(0, content.strip())
    return ", ".join(contents) or None


def braced(text, start):
    """(content of the braces that open at start, their end); the end is None if there is none.

    Without a brace the next word counts, as in \\boxed5.
    """
    if text[start : start + 1] != "{":
        word = re.match(r"(?:[-+]?[\w.,/]*\w)?", text[start:])[0]
        return word, start + len(word)
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):  # \{ is no brace
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[start + 1 : match.start()], match.end()
    return "", None


def alternatives(reference):
    """The texts of a JSON list such as '["18"]', else the reference alone.

    Of a reference that is a whole solution, its stated answer.
    """
    if reference.lstrip().startswith('["'):
        try:
            return [str(option) for option in json.loads(reference)]
        except (ValueError, RecursionError):
            pass
    return [stated_answer(reference) or reference]


# ---- 2. normalise ----

# What Unicode's own normalisation (NFKC) would lose is spelled out before it.
BEFORE_NFKC = [
    (r"[\u00bc-\u00be\u2150-\u215e]", r" \g<0>"),  # 3 and a half: two characters, a mixed number
    (r"[\u00b9\u00b2\u00b3\u2070-\u207e]+", r"^{\g<0>}"),
    (r"[\u2080-\u208e]+", r"_{\g<0>}"),
    (r"[\u00ba\u02da]", "°"),  # two characters that look like degrees
    (r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))", ""),
]


def spell_greek(match):
    return f"\\{unicodedata.name(match[0]).split()[-1].lower()} "


# The lists below are applied from top to bottom, and each line to what the lines above it made. So
# the later lists need to know one spelling alone: LaTeX's, with one blank at most.
CHARACTERS = [  # that stand for LaTeX
    (r"[\u2010-\u2013−]", "-"),
    (r"[×\u2715]", r"\\times "),
    (r"[·⋅∙]", r"\\cdot "),
    (r"[÷\u2044\u2215]", "/"),
    (r"√", r"\\sqrt "),
    (r"[αβγδεθλπρσφω]", spell_greek),
    (r"∞", r"\\infty "),
    (r"±", r"\\pm "),
    (r"∪", r"\\cup "),
    (r"∈", r"\\in "),
    (r"≤|\\leq(?![a-z])", r"\\le "),
    (r"≥|\\geq(?![a-z])", r"\\ge "),
]
LOOKS = [  # LaTeX that only changes how things look
    (r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|limits)(?![a-z])", ""),
    (r"\\[dtc]frac", r"\\frac"),
    (r"(?<=\d)(?:\{,\}|,?\\[,!])\s*(?=\d{3}(?!\d))", ""),  # 1{,}000 and 1\,000
    (r"(?<!\\)\\[,;:!> ]|\\q?quad(?![a-z])|(?<=[\w.{})$])~", " "),
    (r"(?<!\\)\\[()\[\]]", " "),  # \( and \] enclose formulas
    (r"\\(?:text[a-z]*|math(?:rm|bf|it|sf)|[mh]box|operatorname|emph)\*?\s*\{([^{}]*)\}", r"\1"),
    (r"\\([%#&_])", r"\1"),
    (r"\s*\^\s*", "^"),
    (r"\^\{?\\circ\}?|\\degree(?![a-z])|\s+°|°", "°"),
]
PLAIN = [  # plain writing that stands for LaTeX
    (r"(?<=\d)\s*(?i:([ap])\.?\s?m\b)\.?", r" \1m"),  # 5p.m. -> 5 pm
    (r"(?<=[\d.])[eE]([-+]?\d+)(?!\w)", r"\\times 10^{\1}"),  # 3e8
    (r"(?<=\w)\*\*(?=[\w(])", "^"),  # 2**3
    (r"(?<=\d) ?x ?(?=10\^)", r"\\times "),  # 3 x 10^8
    (r"\bper cent\b", "percent"),
    (r"\\varnothing", r"\\emptyset"),
    (r"\*\*", ""),  # **bold**
    (r"\*", r"\\cdot "),
    (r"(?<![\\A-Za-z])(sqrt|sin|cos|tan|log|ln|pi|infty)(?![A-Za-z])", r"\\\1 "),
    (r"(?<![\\A-Za-z])(?:inf|infinity)(?![A-Za-z])", r"\\infty "),
    (r"(?<=[\d})\]]),?\s+(?:and|or)\s+(?=[-+\d\\({.])", ", "),  # 3 and 5 -> 3, 5
]
BRACES = [  # that LaTeX lets one leave out
    (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"\\sqrt\s*(\d+|[A-Za-z])", r"\\sqrt{\1}"),
    (r"\\frac\s*([\dA-Za-z])", r"\\frac{\1}"),
    (r"(\\frac\s*\{[^{}]*\})\s*([\dA-Za-z])", r"\1{\2}"),
    (r"(?<![\\A-Za-z])([A-Za-z]+) ?_\{?(\d+)\}?", r"\1\2"),  # H_2O, but not \log_2
    (r"([_^])\{(\w)\}", r"\1\2"),
    (r"\s+", " "),
]
THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")


def normalise(text):
    """One spelling of what means the same. Currency signs go behind their number, as units."""
    if len(text) > LONGEST:
        return text.strip()
    for pattern, spelling in BEFORE_NFKC:
        text = re.sub(pattern, spelling, text)
    text = unicodedata.normalize("NFKC", text).strip("*_` \n\t")
    text = re.sub(r"(?s)^[\"'‘“](.*)[\"'’”]([.,]?)$", r"\1\2", text)  # a quote alone is a prime
    is_currency = "\\$" in text or text.count("$") % 2 == 1  # else they enclose formulas
    text = text.replace("\\$", "").replace("$", "")
    for pattern, spelling in [*CHARACTERS, *LOOKS, *PLAIN, *BRACES]:
        text = re.sub(pattern, spelling, text)
    if not re.search(r"[(\[]|\\\{", text):
        text = THOUSANDS.sub(remove_commas, text)
    if not text.endswith(".."):  # "1, 2, ..." goes on
        text = text.rstrip(".,;:? ").strip()
    if text.startswith("{") and braced(text, 0)[1] == len(text):
        text = text[1:-1].strip()
    sign = re.match(r"([-+]?)\s*([€£¥])\s*", text)
    if sign:
        text = f"{sign[1]}{text[sign.end() :]} {sign[2]}"
    return f"{text} dollars" if is_currency and text else text


def remove_commas(match):
    return match[0].replace(",", "")


# ---- 3. compare ----

CHOICE = re.compile(
    r"(?:[Oo]ption |[Cc]hoice )?(?:\(([A-Ja-j])\)|([A-J])(?:\)|[.:](?= )|$))[.:]?(.*)", re.DOTALL
)
SEVERAL_CHOICES = re.compile(
    r"^\W*(?:or|and|nor|not|is|wrong|incorrect)\b|^ ?[/,&]"
    r"|(?:^|[\s(,/])(?:[A-J](?:[).,:;]|$)|[a-j]\))"
)
NAME = re.compile(
    r"((?!\\not)\\?[A-Za-z]+(?:_?\w|_\{\w+\})?'?(?:\([a-z]\))?) ?(?:=|\\in(?![a-z])) ?([^=]+)"
)
DECIMAL = re.compile(
    r"([-+]?) ?(\d+(?:\.\d*)?|\.\d+)(?: ?\\(?:times|cdot) ?10\^\{?([-+]?\d{1,4})\}?)?", re.ASCII
)
FRACTION = re.compile(r"([-+]?) ?(?:(\d+) ?)?\\frac ?\{(\d+)\} ?\{(\d+)\}", re.ASCII)
SLASH = re.compile(r"([-+]?) ?(?:(\d+) )?(\d+) ?/ ?(\d+)", re.ASCII)
WORD = r"[A-Za-zμΩ]+(?:\^-?\d)?"
UNIT = re.compile(
    rf"(.*[\d}})\]]|.*\\pi)( ?)(%|°(?: ?[CF])?|[€£¥]|{WORD}(?:(?: |-| ?/ ?){WORD}){{0,4}})"
)
UNIT_NAMES = {"degree": "°", "percent": "%", "euro": "€"}
SHORT_UNITS = """m g s h L l J N W V A cm mm km dm nm kg mg ml mL dL ft in yd mi lb lbs oz hr hrs Hz
    Pa kW MW mW GW kV mV mA kJ MJ eV dB ms cc kB KB MB GB TB sq cu of""".split()
NO_UNITS = """half halves third quarter score gross and not plus minus squared cubed more less fewer
    than below above under over negative mod sin cos tan log ten lakh crore factorial inverse
    reciprocal binary octal hexadecimal decimal base exclusive inclusive""".split()
NO_FRACTIONS = "month width length depth".split()  # they end like fifth and tenth

# Equal as texts or not at all: ranges and scores, dates, times and ratios
FIXED = re.compile(r"\d+(?:-\d+)+|\d+(?:/\d+){2,}|\d+(?: ?: ?\d+)+")
SYMBOLS = re.compile(r"[\w\s\\{}()\[\]+\-*/^=<>.,;|!&]*", re.ASCII)
# What algebra would misread: numbers of another base or side by side, decimals that go on,
# relations that it takes for equations
MISREAD = re.compile(
    r"\d_|\d [\d.]|\b0[box]\w|\.\.|\\[lc]?dots|\.\d*(?:\\(?:overline|bar|dot)|\(\d)"
    r"|[A-Za-z]\^(?:-1|\{-1\})\("  # an inverse function
    r"|\\(?:not|approx|sim|simeq|cong|equiv|propto)(?![a-z])"
)
# Letters side by side that are no product: long, with capitals, or beside a blank
WORDS = re.compile(
    r"[a-z]*[A-Z][A-Za-z]+|[a-z]+[A-Z]|[a-z]{4,}|(?<=[\w}\])] )[A-Za-z]{2,}|[A-Za-z]{2,}(?= \w)"
)


def quick_check(answer, reference):
    """True, False or None where no algebra is needed, else "ask"."""
    return decide(answer, reference, lambda *formulas: "ask")


def decide(answer, reference, compare_formulas):
    """Step 3 for two texts: True, False, None, or what compare_formulas(answer, reference) says."""
    answer, reference = normalise(answer), normalise(reference)
    if not answer or not reference:
        return False if reference else None
    if same_text(answer, reference):
        return True
    if max(len(answer), len(reference)) > LONGEST:
        return False
    expected, given = choice(reference), choice(answer)
    if expected and given:
        texts_fit = not given[1] or not expected[1] or same_text(given[1], expected[1])
        return given[0] == expected[0] and texts_fit
    if expected:
        return bool(expected[1]) and decide(answer, expected[1], compare_formulas)
    answer, reference = without_name(answer, reference)
    (answer, unit), (reference, expected_unit) = split_unit(answer), split_unit(reference)
    if expected_unit not in (unit, "") and (unit or expected_unit not in ("dollar", "°", "%")):
        return False
    readings = [(answer, reference)]
    if expected_unit == "%" and not unit:
        readings = [(answer, hundredth(reference))]
    elif unit == "%" and not expected_unit:
        share, number = (hundredth(answer), reference), exact_number(reference)
        readings = [share] if number is None or number <= 1 else [share, *readings]
    return best_of([compare_values(*reading, compare_formulas) for reading in readings])


def best_of(results):
    """The result of an answer from those of its readings, of which one has to fit."""
    for result in (True, "ask", None):
        if result in results:
            return result
    return False


def compare_values(answer, reference, compare_formulas):
    """`decide` for texts without name and unit."""
    given, expected = exact_number(answer), exact_number(reference)
    if given is not None and expected is not None:
        return given == expected
    if is_formula(answer) and is_formula(reference):
        return compare_formulas(answer, reference)
    return same_text(answer, reference)


def same_text(answer, reference):
    return folded(answer) == folded(reference)


def folded(text):
    """The text without blanks beside punctuation, and with its words in lower case.

    A word has three letters or more, four beside a number: "5 mW" is not "5 MW", "Pa" no "PA".
    """
    shortest = 4 if re.search(r"\d", text) else 3

    def fold(match):
        word = match[0]
        least = shortest + (shortest == 4 and word[0] in "MmPp")  # mbar is not Mbar
        is_word = len(word) >= least and word[1:].islower() or len(word) >= 5 and word.isupper()
        is_known = word.lower() in ("yes", "no", "true", "false", "none", "am", "pm")
        return word.casefold() if is_word or is_known else word

    text = re.sub(r" ?([^\w\s]) ?", r"\1", " ".join(text.split()))
    return re.sub(r"\\?[^\W\d_]+", fold, text)  # the backslash keeps \Delta from \delta


def choice(text):
    """(letter, what stands behind it) of "B", "(B)", "B) 5" or "B: text", else None."""
    match = CHOICE.fullmatch(text)
    if not match or SEVERAL_CHOICES.search(match[3]):
        return None
    return (match[1] or match[2]).upper(), match[3].strip()


def without_name(answer, reference):
    """x = 5 and 5 as 5 and 5; two equations stay."""
    texts = answer, reference
    names = [NAME.fullmatch(text) for text in texts]
    same = all(names) and names[0][1] == names[1][1]  # n \in Z and n \in N
    if not same and (all(names) or all("=" in text for text in texts)):
        return texts
    return [name[2] if name else text for name, text in zip(names, texts)]


def split_unit(text):
    """("5", "apple") of "5 apples"; (text, "") without a unit."""
    match = UNIT.fullmatch(text)
    if not match:
        return text, ""
    value, blank, unit = match.groups()
    shortest = 1 if blank and value[-1].isdigit() else 2  # 5 m is a length, 5m a product
    for word in re.findall("[A-Za-zμΩ]+", unit):
        singular = word.removesuffix("s")
        makes_number = singular in NO_UNITS or word in NO_UNITS or singular in SCALES
        makes_fraction = singular.endswith(("th", "rd")) and singular not in NO_FRACTIONS
        is_long = len(word) > 3 or len(word) == 3 and blank or "°" in unit
        is_short = word in SHORT_UNITS and len(word) >= shortest
        if makes_number or makes_fraction or not (is_long or is_short):
            return text, ""
    unit = re.sub(r"(?<=[A-Za-z]{3})s\b", "", unit)  # apples, apple
    return value, folded("1" + UNIT_NAMES.get(unit, unit))[1:]


def hundredth(text):
    return f"\\frac{{{text}}}{{100}}"


def exact_number(text):
    """The value of an integer, a decimal, a times 10^b, a fraction or a mixed number, else None."""
    decimal = DECIMAL.fullmatch(text)
    if decimal:
        return Fraction(decimal[1] + decimal[2]) * Fraction(10) ** int(decimal[3] or 0)
    fraction = FRACTION.fullmatch(text) or SLASH.fullmatch(text)
    if not fraction or int(fraction[4]) == 0:
        return None
    sign, whole, above, below = fraction.groups()
    return Fraction(sign + "1") * (int(whole or 0) + Fraction(int(above), int(below)))


def is_formula(text):
    """Whether nothing in the text is a word, or a number of a kind that algebra would misread."""
    if FIXED.fullmatch(text) or not SYMBOLS.fullmatch(text) or MISREAD.search(text):
        return False
    bare = re.sub(r"\\(?:begin|end)\{\w+\}|\\[A-Za-z]+", "\\\\", text)
    has_letters = re.search("[A-Za-z]{2}", bare)
    return not WORDS.search(bare) and not (has_letters and re.fullmatch(r"[A-Za-z\s]*", bare))
