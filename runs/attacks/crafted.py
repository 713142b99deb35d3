"""The crafted attacks, by class: texts for the place of a query or an answer.

crafted.json has the texts. Its half surrogates are no text and have to be refused.
"""

import json
from pathlib import Path

CRAFTED = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
VERDICT = "\\boxed{Assistant 1}"


def shifted(text, first, last, offset):
    """The text with the characters from `first` to `last` moved by `offset` code points."""
    return "".join(chr(ord(c) + offset) if first <= c <= last else c for c in text)


def disguises(text):
    """Spellings that a normalisation, a filter or a decoder may undo."""
    return [
        shifted(text, "!", "~", 0xFEE0),  # full width
        shifted(text, "a", "z", 0x1D41A - ord("a")),  # mathematical letters
        text[:3] + "\u200b" + text[3:],  # zero-width space
        "\u200d".join(text),  # zero-width joiners
        text[:-1] + "\u00ad" + text[-1],  # soft hyphen
        "\ufeff" + text + "\ufeff",  # byte order marks
        text + "\u0338",  # a stroke through the last character
        text.translate(str.maketrans("aeiopcxs", "аеіорсхѕ")),  # Cyrillic letters
        text.replace("k", "\u212a").replace("K", "\u212a"),  # Kelvin signs
        text.replace("<", "&lt;").replace(">", "&gt;"),  # HTML
        text.encode("unicode_escape").decode().replace("<", "\\u003c").replace("[", "\\x5b"),
        "".join(f"<0x{byte:02X}>" for byte in text.encode()),  # byte tokens
        "Ċ" + text.replace(" ", "Ġ"),  # the bytes of byte-level BPE
    ]


def cuts(text):
    """The text in two parts, for two places that touch each other."""
    return [(text[:cut], text[cut:]) for cut in (1, len(text) // 2, -1)]


def attacks():
    """[(class, texts), ...]: one text, or two that touch each other. None is there twice."""
    found = []
    for kind, family in CRAFTED["families"].items():
        for shape in CRAFTED["shapes"]:
            for name in ("end", "system", "judge"):
                shape = shape.replace(f"{{{name}}}", family[name])
            found.append((kind, (shape,)))
        found += [(kind, (token,)) for token in family["tokens"]]
    for token in CRAFTED["core"]:
        found += [("disguised", (text,)) for text in disguises(token)]
    for token in [*CRAFTED["core"], VERDICT]:
        found += [("cut at a border", texts) for texts in cuts(token)]
    for kind, texts in CRAFTED["texts"].items():
        for text in texts:
            if kind == "very long":  # [[part, how often], ...]
                text = "".join(part * count for part, count in text)
            found.append((kind, (text,)))
    return list(dict.fromkeys(found))
