#!/usr/bin/env python3
"""Writes src/model/unicode_tables.h and src/route/wordpiece_tables.h: what the tokenizers must know about Unicode, in
compact tables.

The authority is Hugging Face `tokenizers` itself: every table is what the library answers when asked about each code
point. It uses three Unicode versions at once (measured with 0.23.3): its regex engine 16.0, its Digits pre-tokenizer
17.0, its NFC normaliser 9.0, so a table from one version of the standard would not agree with it. `unicodedata` only
supplies candidates for the NFC tables; a version older than 9.0 would not do.

    python3 -m venv venv && venv/bin/pip install tokenizers==0.23.3 && venv/bin/python tools/make_unicode.py
"""

import pathlib
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

SRC = pathlib.Path(__file__).resolve().parent.parent / "src"
OUT = SRC / "model/unicode_tables.h"
OUT_WORDPIECE = SRC / "route/wordpiece_tables.h"
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


def packed(number):
    """7 bits a byte, the lowest first; the top bit says that more follow."""
    out = []
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return out + [number]


def change_points(value_of, bits):
    """(changes, index): distance from the change before << bits | value, packed, where the value changes; starts at 0.
    No change lies across a block of 32 bytes: one of distance 0 to the same value fills its end. index: the code point
    of the first change of each block."""
    changes, index, last, at = [], [], None, 0
    for c in range(LAST):
        value = value_of(c)
        if value == last:
            continue
        entry = packed(c - at << bits | value)
        while len(changes) % 32 + len(entry) > 32:
            changes.append(last)
        if len(changes) % 32 == 0:
            index.append(c)
        changes += entry
        last, at = value, c
    return changes, index


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


def wordpiece():
    """(class changes, lower-case runs) of BERT's normaliser and pre-tokenizer, for code points in form D.

    A code point is dropped (control characters and, in form D, nonspacing marks), or space, punctuation or part of a
    word. Checked over all of Unicode: the four tables and the CJK ranges in wordpiece.c give what the library gives.
    """
    step = lambda **on: normalizers.BertNormalizer(
        **{"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False, **on}
    ).normalize_str
    clean, strip, lower, cjk = step(clean_text=True), step(strip_accents=True), step(lowercase=True), step(handle_chinese_chars=True)
    nfd, whole = normalizers.NFD().normalize_str, normalizers.BertNormalizer(strip_accents=True).normalize_str
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    kept, dropped, space, punctuation = range(4)
    classes, lowered = {}, {}
    for c in SCALARS:
        x = chr(c)
        if not clean(x) or not strip(x):
            classes[c] = dropped
        elif clean(x) == " ":
            classes[c] = space
        elif len(split("a" + x + "a")) == 3:
            classes[c] = punctuation
        if lower(x) != x and nfd(x) == x:
            lowered[c] = ord(lower(x))

    def folded(c):
        x = chr(c)
        if classes.get(c) in (dropped, space):
            return " " if classes[c] == space else ""
        y = "".join(chr(lowered.get(ord(d), ord(d))) for d in nfd(x) if classes.get(ord(d)) != dropped)
        return " " + y + " " if len(cjk(x)) == 3 else y

    assert all(folded(c) == whole(chr(c)) for c in SCALARS)
    changes, n_changes, last, at = [], 0, kept, 0
    for c in range(LAST):
        value = classes.get(c, last if 0xD800 <= c < 0xE000 else kept)
        if value != last:
            changes += packed(c - at << 2 | value)
            n_changes += 1
            last, at = value, c
    runs = []  # [first, count, step, delta]
    for c in sorted(lowered):
        delta = lowered[c] - c
        if runs:
            first, count, gap, d = runs[-1]
            if d == delta and count < 1023 and (c - first == count * gap if count > 1 else c - first in (1, 2)):
                runs[-1] = [first, count + 1, c - first if count == 1 else gap, d]
                continue
        runs.append([c, 1, 1, delta])
    return changes, n_changes, [(f << 11 | n << 1 | (g - 1), d & 0xFFFFFFFF) for f, n, g, d in runs]


def write_wordpiece():
    changes, n_changes, runs = wordpiece()
    OUT_WORDPIECE.write_text(
        "/* Generated by tools/make_unicode.py from Hugging Face tokenizers: do not edit. Included by wordpiece.c alone. */\n"
        "/* clang-format off */\n"
        "/* distance from the change before << 2 | class from here on (kept, dropped, space, punctuation), in bytes of 7 bits,\n"
        " * the lowest first; the top bit says that more follow */\n"
        "static const uint8_t class_changes[] = {\n" + rows(changes, "0x{:x}".format, 24) + "\n};\n"
        "enum { N_CLASS_CHANGES = %d };\n" % n_changes +
        "/* first << 11 | count << 1 | every second one; what is added */\n"
        "static const uint32_t lower_runs[][2] = {\n" + rows(runs, lambda r: "{0x%x, 0x%x}" % r, 6) + "\n};\n"
        "/* clang-format on */\n"
    )
    print("wordpiece: %d bytes" % (len(changes) + 8 * len(runs)))


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
    ranks = sorted({0} | set(ccc.values()))  # a class by its rank: 6 bits do
    assert len(ranks) <= 64
    orders, orders_index = change_points(lambda c: ranks.index(ccc.get(c, 0)), 6)
    pairs, singles, excluded = decompositions()
    seconds = {p[2] for p in pairs if p[0] not in excluded} | set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    unstable = {c for c in SCALARS if c in ccc or c in seconds or nfc(chr(c)) != chr(c)}
    assert not any(c < 128 for c in unstable)
    ascii_classes = [class_of(c) for c in range(128)]
    classes, classes_index = change_points(lambda c: class_of(c) | (UNSTABLE if c in unstable else 0), 4)
    # first those that compose, then those that only decompose; both by composed
    low = sorted((p for p in pairs if max(p) < 0x10000), key=lambda p: (p[0] in excluded, p[0]))
    high = [p for p in pairs if max(p) >= 0x10000]
    n_composing = sum(p[0] not in excluded for p in low)
    runs = []  # consecutive code points with a singleton decomposition: (first, index of its target)
    for i, (c, _) in enumerate(singles):
        if not i or c != singles[i - 1][0] + 1:
            runs.append((c, i))
    runs.append((LAST, len(singles)))
    assert {t >> 16 for _, t in singles} <= {0, 2}
    planes = [sum((singles[i][1] >> 17) << (i % 8) for i in range(at, min(at + 8, len(singles)))) for at in range(0, len(singles), 8)]

    hexa = "0x{:x}".format
    parts = [
        ("uint8_t", "ascii_classes[128]", rows(ascii_classes, str, 32), 128),
        ("uint8_t", "class_changes[]", rows(classes, hexa, 24), len(classes)),
        ("uint32_t", "class_index[]", rows(classes_index, hexa, 12), 4 * len(classes_index)),
        ("uint8_t", "ccc_changes[]", rows(orders, hexa, 24), len(orders)),
        ("uint32_t", "ccc_index[]", rows(orders_index, hexa, 12), 4 * len(orders_index)),
        ("uint8_t", "ccc_ranks[]", rows(ranks, str, 32), len(ranks)),
        ("uint16_t", "pairs[][3]", rows(low, lambda p: "{0x%x, 0x%x, 0x%x}" % p, 5), 6 * len(low)),
        ("uint32_t", "n_composing", str(n_composing), 0),
        ("uint32_t", "high_pairs[][3]", rows(high, lambda p: "{0x%x, 0x%x, 0x%x}" % p, 4), 12 * len(high)),
        ("uint32_t", "high_excluded_first", hexa(min(c for c in excluded if c >= 0x10000)), 0),
        ("uint32_t", "single_runs[][2]", rows(runs, lambda r: "{0x%x, %d}" % r, 8), 8 * len(runs)),
        ("uint16_t", "single_targets[]", rows([t & 0xFFFF for _, t in singles], hexa, 16), 2 * len(singles)),
        ("uint8_t", "single_planes[]", rows(planes, hexa, 24), len(planes)),
    ]
    # the astral exclusions are the musical symbols, behind every astral pair that composes
    cut = min(c for c in excluded if c >= 0x10000)
    assert all((p[0] in excluded) == (p[0] >= cut) for p in high)
    why = {
        "class_changes[]": "distance from the change before << 4 | not a boundary of form C << 3 | class, where that changes;\n"
        " * in bytes of 7 bits, the lowest first; the top bit says that more follow",
        "class_index[]": "the code point of the first change in each 32 bytes",
        "ccc_changes[]": "distance from the change before << 6 | rank of the canonical combining class",
        "ccc_ranks[]": "the class of each rank",
        "pairs[][3]": "composed, first, second; by composed, first those that compose",
        "n_composing": "pairs from here on only decompose",
        "high_pairs[][3]": "the same beyond U+FFFF",
        "high_excluded_first": "high pairs from here on only decompose",
        "single_planes[]": "a bit for each target, set when it lies in plane 2",
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
    class_bytes = sum(p[3] for p in parts[:3])
    print("classes: %d bytes, NFC: %d bytes" % (class_bytes, sum(p[3] for p in parts) - class_bytes))
    print({n.split("[")[0]: s for _, n, _, s in parts})


if __name__ == "__main__":
    main()
    write_wordpiece()
