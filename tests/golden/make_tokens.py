#!/usr/bin/env python3
"""Token ids by Hugging Face `tokenizers`, for tests/unit/test_tokenizer.c: make_tokens.py MODEL.gguf

    python3 -m venv venv && venv/bin/pip install tokenizers==0.23.3 gguf==0.19.0
    venv/bin/python make_tokens.py ../../models/SmolLM2-135M-Instruct.Q4_1.gguf

tokens.txt  the corpus, one text per line, made here from our own words and from a seeded generator. \\n \\r \\t \\\\ and
            \\xNN (a raw byte) are escapes; everything else is UTF-8 as it is.
tokens.ids  line by line, five fields COUNT:HASH: the ids by the pre-tokenizers smollm, gpt-2, llama-bpe and qwen2 with
            special tokens recognised, then smollm with them as plain text. HASH is FNV-1a (64 bit) over the ids as
            little-endian int32. A sixth field is LENGTH:HASH of the text that the first field's ids decode to, without
            special tokens. The first 300 lines are followed by the ids themselves by smollm.

All four tokenizers share the vocabulary and merges of the model: only what stands before them differs. Invalid UTF-8
becomes U+FFFD first (Python's errors='replace'); qwen2 normalises to NFC first.
"""
import argparse
import pathlib
import random
import unicodedata

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

HERE = pathlib.Path(__file__).resolve().parent
FULL_LINES = 300
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

# ---- the reference ----


def tokenizers_of(path):
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    vocab = {t: i for i, t in enumerate(tokens)}
    level = pre_tokenizers.ByteLevel
    plain = level(add_prefix_space=False, use_regex=False)

    def split(pattern):
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), plain])

    digits = pre_tokenizers.Digits(individual_digits=True)
    forms = {
        "smollm": pre_tokenizers.Sequence([digits, level(add_prefix_space=False)]),
        "gpt-2": level(add_prefix_space=False),
        "llama-bpe": split(LLAMA3),
        "qwen2": split(QWEN2),
    }
    made = {}
    for name, form in forms.items():
        t = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=name == "llama-bpe"))
        t.pre_tokenizer = form
        t.decoder = decoders.ByteLevel()
        if name == "qwen2":
            t.normalizer = normalizers.NFC()
        t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s, k in zip(tokens, types) if k == 3])
        made[name] = t
    return made


def fnv(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = (h ^ b) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def field(ids):
    return "%d:%016x" % (len(ids), fnv(b"".join(i.to_bytes(4, "little") for i in ids)))


# ---- the corpus: our own sentences ----

SENTENCES = """
The lighthouse keeper counted the ships twice and wrote the smaller number down.
She'd've said it wasn't theirs, but they'll never know; I'm sure you're right and he's late.
Please send 3 copies of form 27-B (rev. 2019) to P.O. Box 4471 before 08:30 on 12/05/2024!
Der Müller fährt heute früh über die große Brücke nach Köln, weil das Mehl in den Säcken feucht geworden ist.
Größenwahn, Fußgängerübergänge und Straßenbahnhaltestelle sind lange Wörter.
L'été dernier, nous avons mangé des crêpes près du château où l'hôtesse jouait de la flûte.
Où est-ce qu'on s'arrête ? « Là-bas », répondit-elle, « à côté de l'église ».
El niño pequeño soñó con una cigüeña que volaba sobre el río. ¿Qué hora es? ¡Ya es tarde!
O avião atrasou três horas, então não conseguimos assistir à apresentação da manhã.
La città è più bella quando piove, perché le strade diventano specchi.
Zażółć gęślą jaźń, powiedział stary krawiec, i zamknął drzwi na klucz.
Příliš žluťoučký kůň úpěl ďábelské ódy, zatímco děti skákaly přes louže.
Az öreg kútásó fűrésszel vágta el a gyökeret, és megtörölte a homlokát.
Întâmplarea aceasta s-a petrecut într-o după-amiază ploioasă la țară.
Dün akşam İstanbul'da yağmur yağdı; ılık bir rüzgâr çıktı ve güneş göründü.
Hôm nay trời đẹp, chúng tôi đi dạo quanh hồ và uống cà phê sữa đá.
Ðað er gott veður í dag, sagði þórður og fór út að ganga með hundinn sinn.
Hyvää päivää, yötyöläinen! Äiti osti jäätelöä ja söi sen äkkiä.
På søndag gik vi en tur langs åen, hvor æbletræerne stod i blomst.
Rūta šodien ļoti ātri uzrakstīja garu vēstuli savam draugam.
Ketvirtadienį mūsų šuo atnešė žaislą, kurį pametė kaimynų vaikas.
Gaeilge: Tá an fhuinneog oscailte agus tá an ghaoth ag séideadh isteach.
Mae'r tŷ gwyn ar ben y bryn yn edrych dros y môr.
Сегодня утром почтальон принёс письмо, которое шло из Владивостока целых три недели.
Ёжик в тумане шёл медленно, а лошадь стояла и ждала; объём работы не изменился.
Сьогодні їжак знайшов гриб і поніс його до лісу, де ґава каркала.
Добър ден, искам да купя два хляба и един килограм ябълки.
Љубав је кад чекаш воз који каони никад не стиже, рече Џорџ.
Η θάλασσα ήταν ήρεμη το πρωί, και ο ψαράς άπλωσε τα δίχτυα του στον ήλιο.
Ἐν ἀρχῇ τῆς ὁδοῦ ἦν μικρὰ πηγή, καὶ οἱ ὁδοιπόροι ἔπινον ὕδωρ.
Այսօր առավոտյան հացթուխը բացեց խանութը և տաք հաց բաժանեց երեխաներին։
დღეს დილით მეზობელმა მოიტანა თაფლი და ყურძენი ბაზრიდან.
הבוקר הלכנו לשוק וקנינו לחם טרי, זיתים וגבינה לבנה.
בְּבֹקֶר אֶחָד יָצָא הַזָּקֵן אֶל הַגָּן וְרָאָה שָׁם צִפּוֹר.
ذهبنا هذا الصباح إلى السوق واشترينا خبزًا طازجًا وزيتونًا، ثم عدنا إلى البيت.
كَانَ الْوَلَدُ يَقْرَأُ كِتَابًا عَنِ النُّجُومِ فِي اللَّيْلِ.
امروز صبح باران آمد و کوچه‌ها پر از آب شد؛ بچه‌ها می‌خندیدند.
آج صبح بازار میں بہت بھیڑ تھی، اس لیے ہم جلدی واپس آ گئے۔
आज सुबह बाज़ार में बहुत भीड़ थी, इसलिए हम जल्दी घर लौट आए।
माझ्या आईने काल संध्याकाळी पुरणपोळी बनवली होती.
আজ সকালে নদীর ধারে অনেক নৌকা বাঁধা ছিল, আর জেলেরা জাল শুকাচ্ছিল।
ਅੱਜ ਸਵੇਰੇ ਖੇਤਾਂ ਵਿੱਚ ਧੁੰਦ ਸੀ ਅਤੇ ਪੰਛੀ ਚੁੱਪ ਸਨ।
આજે સવારે વરસાદ પડ્યો અને મોર નાચવા લાગ્યા.
இன்று காலையில் மழை பெய்தது, குழந்தைகள் தெருவில் விளையாடினார்கள்.
ఈ రోజు ఉదయం మా ఊరి చెరువు దగ్గర పక్షులు ఎగురుతున్నాయి.
ಇಂದು ಬೆಳಿಗ್ಗೆ ನಾವು ತೋಟಕ್ಕೆ ಹೋಗಿ ಹಣ್ಣುಗಳನ್ನು ತಂದೆವು.
ഇന്ന് രാവിലെ കടൽത്തീരത്ത് മീൻപിടുത്തക്കാർ വല വീശി.
අද උදේ අපි වෙළඳපොළට ගොස් පළතුරු මිලදී ගත්තෙමු.
เช้าวันนี้ฝนตกหนักมาก เราจึงอยู่บ้านและต้มน้ำชาดื่มกัน
ເຊົ້າມື້ນີ້ຂ້ອຍໄປຕະຫຼາດເພື່ອຊື້ຜັກ
ဒီနေ့မနက် မိုးရွာလို့ ကလေးတွေ အိမ်ထဲမှာပဲ ကစားကြတယ်။
ថ្ងៃនេះព្រឹក ពួកយើងបានទៅផ្សារទិញបន្លែ។
དེ་རིང་ཞོགས་པ་ང་ཚོ་ཁྲོམ་ལ་ཕྱིན་པ་ཡིན།
ዛሬ ጠዋት ወደ ገበያ ሄደን ትኩስ ዳቦ ገዛን።
ᏌᏊ ᎢᏳᏩᎫᏗ ᎠᏂᏔᎵ ᎠᏂᎨᏯ ᎤᏂᏬᏂᏒᎩ.
ᐅᓪᓛᒃᑯᑦ ᐊᓯᕙᖅᑎ ᐊᓂᔪᖅ ᓯᓚᒧᑦ.
Өнөөдөр өглөө морьтон хүн уулын цаанаас ирж, захиа өгөв.
ᠮᠣᠩᠭᠣᠯ ᠪᠢᠴᠢᠭ ᠰᠠᠢᠨ ᠪᠠᠢᠨ᠎ᠠ ᠤᠤ
今天早上邮递员送来一封信，信里说春天已经到了山的那一边。
昨晚臺北下了一場大雨，巷口的貓躲在麵店裡不肯出來。
今朝、駅前のパン屋でカレーパンを３つ買って、公園のベンチで食べました。
ｶﾀｶﾅの半角文字とＡＢＣ１２３の全角文字を混ぜて書いてみる。
「昨日は寒かったですね」と、おばあさんは湯呑みを置きながら言った。
오늘 아침에 우체부가 편지를 가져왔는데, 그 안에는 봄꽃 사진이 들어 있었다.
값싼 닭볶음탕을 먹고 뷁 하고 웃었다. 읽었습니다!
ꦱꦸꦒꦼꦁꦲꦺꦚ꧀ꦗꦁ ꦥꦝꦩꦫꦱꦮꦠ꧀ꦩꦫꦁꦥꦱꦂ
ߊߟߎ߫ ߣߌ߫ ߛߐ߰ߡߊ߬ ߞߊ߲ߞߎߡߊ
ⵜⵉⴼⴰⵡⵉⵏ ⵉ ⵎⴷⴷⵏ ⴰⴽⴽⵯ
𐐔𐐇𐐝𐐀𐐡𐐇𐐓 𐐸𐐹𐑅𐐨𐑉𐐯𐐻 𐌰𐌻𐌰𐌽𐍃 𐍆𐌿𐌻𐌻𐍃
𒀭𒂗𒆤 𒈗 𒆳𒆳𒊏 𓀀𓁐𓂋𓈖𓎟
𝕿𝖍𝖊 𝓆𝓊𝒾𝒸𝓀 𝟏𝟐𝟑 𝔣𝔬𝔵 𝚓𝚞𝚖𝚙𝚜 ℝ⊂ℂ ∀x∈ℤ: x²≥0 ⇒ √(x²)=|x|
He's HE'S he'Ll we'VE I'M you'Re they'D can'T it'ſ o'clock 'tis rock'n'roll ''s 'S' l'll
H₂O + CO₂ → C₆H₁₂O₆; E=mc²; ½ + ¼ = ¾; Ⅷ > Ⅲ; ①②③; ₿0.005 ≈ $312.07 ± 5%
naïve façade — “smart quotes”, ‘single’, „low“, …and an em–dash • bullet · middot
user.name+tag@example.org https://example.org/a/b?q=1&r=%20x#frag ../path/to/file_v2.tar.gz C:\\Users\\me
👩‍👩‍👧‍👦 went 🏃🏽‍♀️ past 🏳️‍🌈 and 🇩🇪🇯🇵🇧🇷 with 1️⃣2️⃣#️⃣ 🤷🏿‍♂️ ❤️‍🔥 👨🏻‍🦰 🧑‍🚀 ☺️ ☺ 🫠 🪿
¯\\_(ツ)_/¯ (╯°□°)╯︵ ┻━┻ ಠ_ಠ ʕ•ᴥ•ʔ ٩(◕‿◕)۶ ▁▂▃▄▅▆▇█ ░▒▓ ♜♞♝♛♚♝♞♜
Z̶a̷l̸g̵o̴ t̷̢̛͓e̵̡̛x̶̢̛͎t̸̛͇ a̐̑̒̓̔̕b͛ͫͬͭͮͯc x͓̽y͓̽z͓̽
""".strip().split("\n")

CODE = r"""
for (size_t i = 0; i < n; i++) sum += a[i] * b[i]; /* dot */
#include <stdint.h>\nint main(void) {\n\treturn 0;\n}\n
def f(x, *, y=None):\n    if x is None:\n        return y or {}\n    return [i**2 for i in range(10) if i % 3 != 0]\n
const answer = await fetch(`/api/${id}?x=${x ?? 0}`, { method: 'POST' }).then(r => r.json());
SELECT u.id, COUNT(*) AS n FROM users u LEFT JOIN orders o ON o.uid = u.id WHERE u.age >= 18 GROUP BY u.id HAVING n > 3;
<div class="row" data-x='1'>&nbsp;&lt;b&gt;</div><!-- note --><br/>
impl<'a, T: Clone + 'static> Iterator for Walk<'a, T> { type Item = &'a T; fn next(&mut self) -> Option<Self::Item> { None } }
grep -rnE '^\\s*(TODO|FIXME):?' --include='*.c' . | awk -F: '{print $1}' | sort -u >> /tmp/out.txt 2>&1
{"name": "skip", "values": [1, 2.5, -3e-10, null, true], "nested": {"k\\u00e9y": "v\\n"}}
\t\tif err != nil {\r\n\t\t\treturn fmt.Errorf("open %q: %w", path, err)\r\n\t\t}\r\n
x=0xDEADBEEF; y=0b1010_1010; z=1_000_000; w=.5e+3f; v=0o755; u=1e-9L;
| a | b |\n|---|:-:|\n| 1 | 2 |\n\n> quote\n\n1. one\n   - two\n\n```sh\n$ ls -la\n```\n
class A:\n  def __init__(self): self._x__y = lambda q: q@q.T  # noqa: E501\n\n\n\n  pass
\\begin{align} \\frac{\\partial f}{\\partial x} &= \\sum_{i=1}^{n} x_i^{2} \\\\ \\end{align}
ERROR 2024-03-01T12:34:56.789Z [worker-3] 0x7ffdeadc0de: segfault at 0 ip 00007f3a (core dumped)
""".strip().split("\n")

SPACES = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2003\u2007\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
NEAR_SPACES = "\u200b\u200c\u200d\u2060\ufeff\u180e\u00ad\x1c\x1f\x00\x7f"
DIGITS = "0123456789٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵०१२३४५০১২৩௧௨௩๐๑๒០១༠༡０１２３𝟎𝟏𝟐𞥐𞥑²³¹¼½ⅣⅫↁ①⑳㊿〇〡一二三零Ⅷ৴௰፩፲\U00011de0\U00011de5\U00016ff4\U00010d40"
MARKS = "\u0300\u0301\u0302\u0303\u0308\u030a\u0323\u0327\u0328\u0331\u0334\u0338\u0345\u0360\u05b0\u05bc\u064b\u0651\u093c\u094d\u0e38\u0f71\u0f74\u1dc0\u20d7\u20dd\u3099\u309a\ufe0f\u0653\u09be\u0bbe\u0dcf\u1039\u302a\U0001d165\U0001d16e"
EMOJI = "😀😂🥹👍👍🏽👩‍💻👨‍👩‍👧🏳️‍🌈🏴‍☠️🇫🇷🇺🇳☕✈️❤️🔥💯🧑🏾‍🤝‍🧑🏻1️⃣🀄🫶🏿🦄"
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>", "<gh_stars>",
           "<issue_start>", "<jupyter_script>", "<empty_output>", "<|im_start", "|im_end|>", "<|", "<<|im_end|>>", "<|IM_END|>",
           "<|im_<|im_end|>", "< |im_end|>", "<repo_", "<file"]  # fmt: skip
BLOCKS = [(0x20, 0x7F), (0xA0, 0x180), (0x180, 0x250), (0x250, 0x300), (0x300, 0x370), (0x370, 0x400), (0x400, 0x530), (0x530, 0x600),
          (0x600, 0x700), (0x700, 0x900), (0x900, 0xD80), (0xD80, 0x1100), (0x1100, 0x1200), (0x1200, 0x1800), (0x1800, 0x1E00),
          (0x1E00, 0x2000), (0x2000, 0x2070), (0x2070, 0x2400), (0x2400, 0x2C00), (0x2C00, 0x3000), (0x3000, 0x3400), (0x3400, 0xA000),
          (0xA000, 0xAC00), (0xAC00, 0xD7B0), (0xF900, 0xFB00), (0xFB00, 0x10000), (0x10000, 0x10E00), (0x10E00, 0x12000),
          (0x12000, 0x17000), (0x17000, 0x1D000), (0x1D000, 0x1D800), (0x1D800, 0x1F000), (0x1F000, 0x1FB00), (0x1FB00, 0x20000),
          (0x20000, 0x20100), (0x2F800, 0x2FA20), (0xE0000, 0xE0100), (0x100000, 0x110000)]  # fmt: skip


def unescape(line):
    """A corpus line to bytes."""
    out, at = bytearray(), 0
    while at < len(line):
        if line[at] != "\\":
            out += line[at].encode()
            at += 1
        elif line[at + 1] == "x":
            out.append(int(line[at + 2 : at + 4], 16))
            at += 4
        else:
            out += {"n": b"\n", "r": b"\r", "t": b"\t", "\\": b"\\"}[line[at + 1]]
            at += 2
    return bytes(out)


def escape(data):
    out = []
    for c in data.decode("utf-8", "surrogateescape"):
        if 0xDC80 <= ord(c) <= 0xDCFF:
            out.append("\\x%02x" % (ord(c) - 0xDC00))
        elif c in "\n\r\t\\":
            out.append({"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}[c])
        elif ord(c) < 32 or ord(c) == 127 or c in "\x85\u2028\u2029":
            out.append("".join("\\x%02x" % b for b in c.encode()))
        else:
            out.append(c)
    return "".join(out)


# ---- the corpus: generated ----


def corpus():
    r = random.Random(20240607)
    texts = [s.encode() for s in SENTENCES] + [unescape(s) for s in CODE]
    seen = set(texts)

    def add(text):
        data = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
        if data not in seen:
            seen.add(data)
            texts.append(data)

    def pick(items, least, most):
        return "".join(r.choice(items) for _ in range(r.randint(least, most)))

    words = sorted({w for s in SENTENCES for w in s.split()})
    latin = [w for w in words if w.isascii()]
    code = [c for s in CODE for c in (unescape(s).decode(),)]
    chars = [[chr(c) for c in range(a, b) if not 0xD800 <= c < 0xE000] for a, b in BLOCKS]

    for a in ("", " ", "x", "\n", "1", "'", '"', "É"):  # contractions
        for s in ("s", "t", "re", "ve", "m", "ll", "d", "l", "r", "v", "\u017f", "rE", "S", "LL", "Ve", "n", "\u212a", "lL"):
            for b in ("", " it", "x", "1", "'s"):
                if r.random() < 0.5:
                    add(a + "'" + s + b)
    for s in SPACES + NEAR_SPACES:  # white space in every position
        for form in ("a{}b", "a {}b", "a{} b", "{}{}a", "a{}{}", "{}1{}{}2", "!{}!{}{}", "{}\n{}x", "x{}\r\n {}\t", "{}'s{}é", "\n{}\n{}"):
            add(form.format(*[s] * form.count("{}")))
    for n in range(1, 40):
        add("\n" * n + "x")
        add("a" + " " * n + "b" + "\t" * n)
        add("\r\n" * n)
        add("7" * n + " " + "x" * n)
        add("-" * n + "=" * n)
    for s in SENTENCES:  # the same letters in other forms
        for form in ("NFD", "NFC", "NFKD"):
            add(unicodedata.normalize(form, s))
        for form in (str.upper, str.lower, str.title, str.swapcase):
            add(form(s))
        add(s.replace(" ", ""))
        add(s.replace(" ", "  "))
        add(s.replace(" ", r.choice(SPACES)))
        add(s[::-1])
        add(s + "\n\n" + r.choice(SENTENCES))
    for _ in range(700):  # sentences of mixed words
        add(" ".join(r.choice(words) for _ in range(r.randint(2, 12))) + r.choice(["", ".", "!", "?", "...", "\n", " "]))
    for _ in range(400):
        add(pick(latin, 1, 6) + r.choice(["'s ", "'LL ", " ", "\n", "_", "-", "/"]) + pick(latin, 1, 3) + pick("0123456789", 0, 9))
    for _ in range(500):  # digits
        add("".join(r.choice([pick(DIGITS, 1, 7), r.choice(SPACES), r.choice(words), r.choice(".,:-%$")]) for _ in range(r.randint(1, 9))))
    for _ in range(300):  # white space between everything
        add("".join(r.choice(words + [r.choice("!?#(),0123")]) + pick(SPACES, 1, 5) for _ in range(r.randint(1, 7))))
    for _ in range(250):
        add(pick(list(EMOJI), 1, 12) + r.choice(["", " ", "!"]) + pick(list(EMOJI) + [" ", "a", "\u200d", "\ufe0f"], 1, 6))
    for _ in range(400):  # marks
        add("".join(r.choice(words + list("aeiouAEsſkKÅがᄀ한क")) + pick(MARKS, 0, 4) for _ in range(r.randint(1, 8))))
    for _ in range(150):  # Hangul, whole and in parts
        add("".join(chr(r.choice([r.randrange(0x1100, 0x1113), r.randrange(0x1161, 0x1176), r.randrange(0x11A7, 0x11C3),
                                  r.randrange(0xAC00, 0xD7A4)])) for _ in range(r.randint(1, 12))))  # fmt: skip
    for block in chars:  # every part of Unicode
        for _ in range(20):
            add("".join(r.choice(block) if r.random() < 0.85 else r.choice(" a1\n'") for _ in range(r.randint(1, 24))))
    for _ in range(500):
        add("".join(r.choice(r.choice(chars)) for _ in range(r.randint(1, 16))))
    for _ in range(300):
        add(pick([chr(c) for c in range(128)], 1, 40))
    for _ in range(250):  # code
        c = r.choice(code)
        a = r.randrange(len(c))
        add(c[a : a + r.randint(1, 60)] + r.choice(["", "\n", "\t", "    "]) + r.choice(code)[: r.randint(1, 60)])
    for _ in range(300):  # special tokens
        add("".join(r.choice(SPECIAL) if r.random() < 0.6 else r.choice(words + [" ", "\n", "user", "1"]) for _ in range(r.randint(1, 8))))
    for _ in range(250):  # bytes that are no UTF-8
        add(bytes(r.choice([r.randrange(256), 0x61, 0x20, r.randrange(0x80, 0xC0)]) for _ in range(r.randint(1, 20))))
    for _ in range(250):
        data = bytearray(r.choice(SENTENCES).encode())
        for _ in range(r.randint(1, 4)):
            at = r.randrange(len(data))
            del data[at : at + r.randint(1, 2)]
            if r.random() < 0.4:
                data[at:at] = bytes([r.randrange(128, 256)])
        add(bytes(data[: r.randint(1, 120)]))
    for bad in (b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x80\x80\x80", b"\xe2\x82", b"\xf0\x9f\x98", b"\xff\xfe", b"\xe2\x28\xa1"):
        for form in (b"%s", b"a%s", b"%sb", b"a %s b", b"%s<|im_end|>", b"\xe2%s"):
            add(form % bad)
    for n in (31, 32, 33, 34, 64, 100, 257, 1000):  # long words: the heap
        add("a" * n)
        add(pick("abcdefghijklmnopqrstuvwxyz", n, n))
        add(" " + pick(latin, n // 8 + 1, n // 8 + 1).replace(".", "").replace(",", ""))
        add("é" * (n // 2))
        add(pick(chars[21], n // 3, n // 3))
        add(pick("=-+*/<>", n, n))
    return texts


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    args = parser.parse_args()
    made = tokenizers_of(args.model)
    texts = corpus()
    lines, ids_lines = [], []
    for i, data in enumerate(texts):
        line = escape(data)
        assert unescape(line) == data, line
        text = data.decode("utf-8", "replace")
        ids = {}
        for name, t in made.items():
            t.encode_special_tokens = False
            ids[name] = t.encode(text, add_special_tokens=False).ids
        made["smollm"].encode_special_tokens = True
        plain = made["smollm"].encode(text, add_special_tokens=False).ids
        decoded = made["smollm"].decode(ids["smollm"], skip_special_tokens=True).encode()
        fields = [field(ids[name]) for name in made] + [field(plain), "%d:%016x" % (len(decoded), fnv(decoded))]
        if i < FULL_LINES:
            fields += [str(t) for t in ids["smollm"]]
        lines.append(line)
        ids_lines.append(" ".join(fields))
    (HERE / "tokens.txt").write_text("\n".join(lines) + "\n", newline="\n")
    (HERE / "tokens.ids").write_text("\n".join(ids_lines) + "\n")
    print("%d lines, %d bytes of text" % (len(lines), sum(map(len, texts))))


if __name__ == "__main__":
    main()
