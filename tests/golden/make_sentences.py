#!/usr/bin/env python3
"""Writes sentences.txt, sentences.ids and sentences.f16: 500 texts of our own, their WordPiece ids by Hugging Face
tokenizers and their embeddings by sentence-transformers, in f32 on the CPU.

    venv/bin/pip install sentence-transformers==6.2.0 transformers==5.24.0 tokenizers==0.23.3
    venv/bin/python make_sentences.py FOLDER      the all-MiniLM-L6-v2 of sentence-transformers

sentences.txt has a text per line with \\n, \\r, \\t, \\0 and \\\\ for what a line cannot hold; sentences.ids the ids of each, cut at
256; sentences.f16 [500][384] halves, little-endian. Special tokens' names are not among the texts: Skipstone reads
them as plain text, Hugging Face does not.
"""

import pathlib
import random
import sys

HERE = pathlib.Path(__file__).resolve().parent

EDGES = [
    "", " ", "\t\n\r ", "a", "A", ".", "...", "!?", "0", "3.14159", "1,000,000", "-", "--", "_", "__init__",
    "don't", "won't've", "e-mail@example.org", "https://example.org/a/b?c=d&e=f#g", "C:\\Temp\\new.txt", "#hashtag @user $5 50%",
    "\u00e9", "e\u0301", "\u00c5ngstr\u00f6m \u212b", "\u0130stanbul \u0131\u011f\u0131r", "\u1e9e\u00df", "\ufb01ne \ufb02ight", "\u00bd \u00b2 \u2460 \u2168",
    "\u200bzero\u200bwidth\u200b", "soft\u00adhyphen", "non\u00a0breaking\u2003spaces\u3000here", "bom\ufeffinside", "nul\0inside", "bell\x07 del\x7f",
    "line\nbreaks\r\nand\ttabs", "\U0001f600", "\U0001f44d\U0001f3fd ok \U0001f1eb\U0001f1f7", "\U0001f468\u200d\U0001f469\u200d\U0001f467 family",
    "\u2764\ufe0f", "\u4f60\u597d", "\u4f60\u597dworld\u4f60\u597d", "\u6771\u4eac\u3067\u3059\u3002", "\U00020000\U0002a6df", "\uf900\u2f00", "\ud55c\uad6d\uc5b4", "\ud55cabc",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\u1780\u1798\u17d2\u1796\u17bb\u1787\u17b6", "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0", "\u13a3\u13b3\u13a9", "\U00010400\U00010428", "\u037e \u0387 \u1fef", "\u00ab\u00bb\u2039\u203a\u201e\u201c", "\u2581", "a\u2581the",
    "\u0344\u0340", "a\u0323\u0302\u0301b", "\u03a3\u03a3\u03a3", "\u039f\u0394\u039f\u03a3 \u03bf\u03b4\u03cc\u03c2", "\u0417\u0434\u0440\u0430\u0432\u0441\u0442\u0432\u0443\u0439, \u0451\u0436!", "x" * 99, "x" * 100, "x" * 101, "\u00e9" * 100, "\u4f60" * 300,
    "supercalifragilisticexpialidocious", "pneumonoultramicroscopicsilicovolcanoconiosis", "qwrtpsdfghjklzxcvbnm", "asdf" * 25, "ab" * 51,
    "\ue000private\uf8ff", "\ufffd", "\U000e0001tag", "\u061c\u200e\u200frtl marks", "a.b,c;d:e", "(((nested [brackets] {here})))", "~`^|<>=+*/\\", "$x^2+y^2=z^2$",
    "for (int i = 0; i < n; i++) sum += a[i];", "def f(x):\n    return x ** 2 if x > 0 else None", "SELECT name FROM users WHERE age >= 18 ORDER BY name;",
    "{\"key\": [1, 2.5, null, true], \"s\": \"\\u00e9\"}", "<p class=\"a\">text &amp; more</p>", "```python\nprint('hi')\n```", "ls -la | grep '\\.txt$' > out 2>&1",
]

OTHERS = [
    "Der M\u00fcller f\u00e4hrt fr\u00fch \u00fcber die gro\u00dfe Br\u00fccke nach K\u00f6ln.", "Wie sp\u00e4t ist es, und wann schlie\u00dft das Museum heute?",
    "Die Donaudampfschifffahrtsgesellschaft sucht einen neuen Kapit\u00e4n.", "L'\u00e9t\u00e9 dernier, nous avons mang\u00e9 des cr\u00eapes pr\u00e8s du ch\u00e2teau.",
    "O\u00f9 est-ce qu'on s'arr\u00eate ? \u00ab L\u00e0-bas \u00bb, r\u00e9pondit-elle.", "\u00bfD\u00f3nde est\u00e1 la biblioteca? \u00a1No lo s\u00e9!", "Ma\u00f1ana por la ma\u00f1ana iremos al mercado a comprar pi\u00f1as.",
    "Qual \u00e8 la ricetta del rag\u00f9 alla bolognese?", "N\u00e3o h\u00e1 p\u00e3o nem queijo na cozinha, s\u00f3 ma\u00e7\u00e3s.", "Zes zwarte zwanen zwommen in de gracht van Leiden.",
    "Sm\u00f6rg\u00e5sbordet stod dukat n\u00e4r g\u00e4sterna \u00e4ntligen kom.", "P\u00e5 l\u00f8rdag spiser vi rundstykker med br\u00f8d og sm\u00f8r.", "P\u00f3jd\u017a, ki\u0144-\u017ce t\u0119 chmurno\u015b\u0107 w g\u0142\u0105b flaszy!",
    "P\u0159\u00edli\u0161 \u017elu\u0165ou\u010dk\u00fd k\u016f\u0148 \u00fap\u011bl \u010f\u00e1belsk\u00e9 \u00f3dy.", "\u00c1rv\u00edzt\u0171r\u0151 t\u00fck\u00f6rf\u00far\u00f3g\u00e9p.", "Pijamal\u0131 hasta ya\u011f\u0131z \u015fof\u00f6re \u00e7abucak g\u00fcvendi.",
    "T\u00f4i mu\u1ed1n \u0111\u1eb7t m\u1ed9t t\u00f4 ph\u1edf b\u00f2 v\u00e0 hai ly c\u00e0 ph\u00ea s\u1eefa \u0111\u00e1.", "\u0421\u044a\u0435\u0448\u044c \u0436\u0435 \u0435\u0449\u0451 \u044d\u0442\u0438\u0445 \u043c\u044f\u0433\u043a\u0438\u0445 \u0444\u0440\u0430\u043d\u0446\u0443\u0437\u0441\u043a\u0438\u0445 \u0431\u0443\u043b\u043e\u043a.",
    "\u041a\u043e\u0433\u0434\u0430 \u043e\u0442\u043f\u0440\u0430\u0432\u043b\u044f\u0435\u0442\u0441\u044f \u043f\u043e\u0435\u0437\u0434 \u0432 \u0421\u0430\u043d\u043a\u0442-\u041f\u0435\u0442\u0435\u0440\u0431\u0443\u0440\u0433?", "\u0427\u0443\u0454\u0448 \u0457\u0457, \u0434\u043e\u0446\u044e, \u0433\u0430? \u041a\u0443\u043c\u0435\u0434\u043d\u0430 \u0436 \u0442\u0438!", "\u0397 \u03b3\u03c1\u03ae\u03b3\u03bf\u03c1\u03b7 \u03b1\u03bb\u03b5\u03c0\u03bf\u03cd \u03c0\u03b7\u03b4\u03ac\u03b5\u03b9 \u03c0\u03ac\u03bd\u03c9 \u03b1\u03c0\u03cc \u03c4\u03bf \u03c3\u03ba\u03cd\u03bb\u03bf.",
    "\u6211\u60f3\u8ba2\u4e00\u5f20\u660e\u5929\u53bb\u4e0a\u6d77\u7684\u706b\u8f66\u7968\u3002", "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u516c\u56ed\u5427\uff01", "\u543e\u8f29\u306f\u732b\u3067\u3042\u308b\u3002\u540d\u524d\u306f\u307e\u3060\u7121\u3044\u3002", "\u30b3\u30f3\u30d4\u30e5\u30fc\u30bf\u30fc\u3067\u65e5\u672c\u8a9e\u3092\u5165\u529b\u3059\u308b\u65b9\u6cd5\u3092\u6559\u3048\u3066\u304f\u3060\u3055\u3044\u3002",
    "\ub0b4\uc77c \uc544\uce68\uc5d0 \uc2dc\uc7a5\uc5d0 \uac00\uc11c \uc0ac\uacfc\ub97c \uc0b4 \uac70\uc608\uc694.", "\u0642\u0631\u0623\u062a\u064f \u0643\u062a\u0627\u0628\u064b\u0627 \u0639\u0646 \u062a\u0627\u0631\u064a\u062e \u0627\u0644\u0623\u0646\u062f\u0644\u0633.", "\u05de\u05d4 \u05d4\u05e9\u05e2\u05d4 \u05e2\u05db\u05e9\u05d9\u05d5 \u05d1\u05d9\u05e8\u05d5\u05e9\u05dc\u05d9\u05dd?", "\u0915\u0943\u092a\u092f\u093e \u092e\u0941\u091d\u0947 \u090f\u0915 \u0917\u093f\u0932\u093e\u0938 \u092a\u093e\u0928\u0940 \u0926\u0940\u091c\u093f\u090f\u0964",
    "\u0e2d\u0e32\u0e2b\u0e32\u0e23\u0e44\u0e17\u0e22\u0e40\u0e1c\u0e47\u0e14\u0e21\u0e32\u0e01", "Nina kitabu kimoja na kalamu mbili mezani.", "E hele k\u0101kou i ke kahakai i k\u0113ia l\u0101.", "Gallia est omnis divisa in partes tres.",
]

TOPICS = {
    "cooking": ["the onion soup", "a sourdough starter", "braised short ribs", "saffron risotto", "lemon curd", "a cast-iron pan", "pickled radishes", "the pressure cooker"],
    "astronomy": ["the rings of Saturn", "a neutron star", "cosmic background radiation", "the Kuiper belt", "a total eclipse", "the Hubble constant", "tidal locking", "dark matter"],
    "law": ["the rental contract", "a breach of warranty", "the statute of limitations", "intellectual property", "a power of attorney", "the witness statement", "due process", "small claims court"],
    "programming": ["a null pointer", "the hash table", "tail recursion", "a race condition", "the garbage collector", "unit tests", "a REST endpoint", "binary search"],
    "medicine": ["high blood pressure", "a broken wrist", "the vaccine schedule", "seasonal allergies", "insulin resistance", "a migraine", "physical therapy", "iron deficiency"],
    "finance": ["compound interest", "an index fund", "the mortgage rate", "quarterly earnings", "a currency hedge", "the tax return", "inflation", "a stock split"],
    "gardening": ["tomato seedlings", "the compost heap", "aphids on the roses", "a raised bed", "pruning apple trees", "clay soil", "drip irrigation", "winter mulch"],
    "history": ["the fall of Constantinople", "the printing press", "the Silk Road", "the French Revolution", "medieval guilds", "the Bronze Age collapse", "the Meiji era", "the Suez Canal"],
}
FRAMES = [
    "What is {x}, and why does it matter?", "Explain {x} to a ten-year-old.", "Yesterday we talked for an hour about {x}.", "Is {x} always a problem, or only sometimes?",
    "Write a short poem about {x}.", "{X}: three common mistakes and how to avoid them.", "I never understood {x} until my neighbour showed me.", "Summarise the debate over {x} in two sentences.",
    "My question is simple - who is responsible for {x}?", "There are 7 things you should know about {x} before 2030.", "\"{X}\", she said, \"is not what you think it is.\"", "Compare {x} with {y}; which one would you choose?",
]


def texts():
    rng = random.Random(20511)
    out = EDGES + OTHERS
    capital = lambda s: s[0].upper() + s[1:]
    items = [(topic, x) for topic, xs in TOPICS.items() for x in xs]
    sentence = lambda: (lambda x, y, f: f.format(x=x, X=capital(x), y=y))(rng.choice(items)[1], rng.choice(items)[1], rng.choice(FRAMES))
    seen = set(out)
    for n_sentences, count in ((1, 240), (2, 50), (4, 30), (9, 20), (16, 16), (40, 8)):
        for _ in range(count):
            while (text := " ".join(sentence() for _ in range(n_sentences))) in seen:
                pass
            seen.add(text)
            out.append(text)
    while len(out) < 500:
        words = " ".join(rng.choice(OTHERS + EDGES[:40]) for _ in range(rng.randint(2, 12)))
        out.append(words)
    assert len(out) == 500, len(out)
    return out


def escaped(text):
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t").replace("\0", "\\0")


def main():
    import numpy
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(sys.argv[1], device="cpu")
    assert model.max_seq_length == 256
    all_texts = texts()
    (HERE / "sentences.txt").write_text("".join(escaped(t) + "\n" for t in all_texts), encoding="utf-8", newline="\n")
    tokenizer = model.tokenizer
    ids = [tokenizer(t, truncation=True, max_length=256)["input_ids"] for t in all_texts]
    (HERE / "sentences.ids").write_text("".join(" ".join(map(str, i)) + "\n" for i in ids))
    vectors = numpy.concatenate([model.encode([t], normalize_embeddings=True) for t in all_texts])
    vectors.astype("<f2").tofile(HERE / "sentences.f16")
    print(len(all_texts), "texts,", sum(map(len, ids)), "tokens, longest", max(map(len, ids)))


if __name__ == "__main__":
    main()
