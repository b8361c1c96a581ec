#!/usr/bin/env python3
"""Writes src/model/unicode_tables.h: what the tokenizer must know about Unicode, in compact tables.

The authority is Hugging Face `tokenizers` itself: every table is what the library answers when asked about each code
point. It uses three Unicode versions at once (measured with 0.23.3): its regex engine 16.0, its Digits pre-tokenizer
17.0, its NFC normaliser 9.0, so a table from one version of the standard would not agree with it. `unicodedata` only
supplies candidates for the NFC tables; a version older than 9.0 would not do.

    python3 -m venv venv && venv/bin/pip install tokenizers==0.23.3 && venv/bin/python tools/make_unicode.py
"""

import pathlib
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

OUT = pathlib.Path(__file__).resolve().parent.parent / "src/model/unicode_tables.h"
LAST = 0x110000
SCALARS = [c for c in range(LAST) if not 0xD800 <= c < 0xE000]
OTHER, LETTER, NUMBER, SPACE, DIGIT_ONLY = range(5)
UNSTABLE = 8  # may combine with what stands before, move, or become something else in form C
nfc = normalizers.NFC().normalize_str


def members(pattern):
    """The code points that the library's regex engine matches."""
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    found = set()
    for at in range(0, len(SCALARS), 4096):
        chars = [chr(c) for c in SCALARS[at : at + 4096]]
        kept = set("".join(piece for piece, _ in split.pre_tokenize_str("".join(chars))))
        found |= {ord(c) for c in chars if c not in kept}
    return found


def digits():
    """What pre_tokenizers.Digits calls a digit."""
    split = pre_tokenizers.Digits(individual_digits=True)
    return {c for c in SCALARS if len(split.pre_tokenize_str("a" + chr(c) + "a")) == 3}


def change_points(value_of, bits):
    """[(first code point << bits | value)], one entry where the value changes; starts at 0."""
    points, last = [], None
    for c in range(LAST):
        value = value_of(c)
        if value != last:
            points.append(c << bits | value)
            last = value
    return points


def combining_classes():
    """Canonical combining classes as the library's normaliser orders by them."""
    classes = {}
    for c in SCALARS:
        k = unicodedata.combining(chr(c))
        if not k:
            continue
        marks = [m for m in "\u0334\u0345\u05b0\u0323\u0301" if unicodedata.combining(m) != k]
        texts = ["\u4e00" + t for m in marks for t in (chr(c) + m, m + chr(c))]
        if all(nfc(t) == unicodedata.normalize("NFC", t) for t in texts):
            classes[c] = k
    return classes


def decompositions():
    """([(composed, first, second)], [(from, to)], the pairs that never compose)"""
    pairs, singles, excluded = [], [], set()
    for c in SCALARS:
        parts = unicodedata.decomposition(chr(c))
        if not parts or parts[0] == "<":
            continue
        parts = [int(p, 16) for p in parts.split()]
        if len(parts) == 1:
            assert nfc(chr(c)) == unicodedata.normalize("NFC", chr(c))
            singles.append((c, parts[0]))
        elif nfc(chr(parts[0]) + chr(parts[1])) == chr(c):
            pairs.append((c, *parts))
        elif nfc(chr(c)) != chr(c):  # decomposes, but is excluded from composition
            excluded.add(c)
            pairs.append((c, *parts))
    return pairs, singles, excluded


def rows(values, form, per_line):
    lines = []
    for at in range(0, len(values), per_line):
        lines.append("    " + ", ".join(form(v) for v in values[at : at + per_line]) + ",")
    return "\n".join(lines)


def main():
    letters, numbers, spaces, digit = members(r"\p{L}"), members(r"\p{N}"), members(r"\s"), digits()
    assert not numbers - digit and not letters & digit

    def class_of(c):
        if c in letters:
            return LETTER
        if c in numbers:
            return NUMBER
        if c in spaces:
            return SPACE
        return DIGIT_ONLY if c in digit else OTHER

    ccc = combining_classes()
    orders = change_points(lambda c: ccc.get(c, 0), 8)
    pairs, singles, excluded = decompositions()
    seconds = {p[2] for p in pairs if p[0] not in excluded} | set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    unstable = {c for c in SCALARS if c in ccc or c in seconds or nfc(chr(c)) != chr(c)}
    assert not any(c < 128 for c in unstable)
    ascii_classes = [class_of(c) for c in range(128)]
    classes = change_points(lambda c: class_of(c) | (UNSTABLE if c in unstable else 0), 4)
    low = [p for p in pairs if max(p) < 0x10000]
    high = [p for p in pairs if max(p) >= 0x10000]
    compose = sorted((i for i, p in enumerate(low) if p[0] not in excluded), key=lambda i: (low[i][1], low[i][2]))
    runs = []  # consecutive code points with a singleton decomposition: (first, index of its target)
    for i, (c, _) in enumerate(singles):
        if not i or c != singles[i - 1][0] + 1:
            runs.append((c, i))
    runs.append((LAST, len(singles)))

    hexa = "0x{:x}".format
    parts = [
        ("uint8_t", "ascii_classes[128]", rows(ascii_classes, str, 32), 128),
        ("uint32_t", "class_points[]", rows(classes, hexa, 12), 4 * len(classes)),
        ("uint32_t", "ccc_points[]", rows(orders, hexa, 12), 4 * len(orders)),
        ("uint16_t", "pairs[][3]", rows(low, lambda p: "{0x%x, 0x%x, 0x%x}" % p, 5), 6 * len(low)),
        ("uint16_t", "compose_order[]", rows(compose, str, 20), 2 * len(compose)),
        ("uint32_t", "high_pairs[][3]", rows(high, lambda p: "{0x%x, 0x%x, 0x%x}" % p, 4), 12 * len(high)),
        ("uint32_t", "high_excluded_first", hexa(min(c for c in excluded if c >= 0x10000)), 0),
        ("uint32_t", "single_runs[][2]", rows(runs, lambda r: "{0x%x, %d}" % r, 8), 8 * len(runs)),
        ("uint32_t", "single_targets[]", rows([t for _, t in singles], hexa, 12), 4 * len(singles)),
    ]
    # the astral exclusions are the musical symbols, behind every astral pair that composes
    cut = min(c for c in excluded if c >= 0x10000)
    assert all((p[0] in excluded) == (p[0] >= cut) for p in high)
    why = {
        "class_points[]": "code point << 4 | not a boundary of form C << 3 | class, where that changes",
        "ccc_points[]": "code point << 8 | canonical combining class, where it changes",
        "pairs[][3]": "composed, first, second; by composed",
        "compose_order[]": "indices into pairs that compose, by (first, second)",
        "high_pairs[][3]": "the same beyond U+FFFF",
        "high_excluded_first": "high pairs from here on only decompose",
        "single_runs[][2]": "runs of code points with a decomposition to one: first, index of its target",
    }
    text = [
        "/* Generated by tools/make_unicode.py from Hugging Face tokenizers: do not edit. Included by unicode.c alone. */",
        "/* clang-format off */",
    ]
    for kind, name, body, size in parts:
        note = why.get(name)
        if note:
            text.append("/* %s */" % note)
        text.append("static const %s %s = " % (kind, name) + (body + ";" if not size else "{\n" + body + "\n};"))
    text.append("/* clang-format on */")
    OUT.write_text("\n".join(text) + "\n")
    class_bytes = parts[0][3] + parts[1][3]
    print("classes: %d bytes, NFC: %d bytes" % (class_bytes, sum(p[3] for p in parts) - class_bytes))
    print({n.split("[")[0]: s for _, n, _, s in parts})


if __name__ == "__main__":
    main()
