"""Formulas of the page: which text is one, and what MathML it becomes."""

from __future__ import annotations

import random
import time
from typing import Any

from tests.server.node import evaluated, needs_node

pytestmark = needs_node()

MAX_S = 30  # on a busy machine; alone each takes less than a second

# The tree as markup, without the attributes that tell the space around operators.
SHOW = """
    (() => {
      const told = ([name]) => !["lspace", "rspace", "stretchy", "form", "symmetric", "separator"].includes(name);
      const list = (one) => Object.entries(one.attributes).filter(told).map(([name, value]) => ` ${name}=${value}`).join("");
      const show = (one) => `<${one.name}${list(one)}>${one.children?.map(show).join("") ?? one.text}</${one.name}>`;
      return given.map((source) => { const tree = readFormula(source); return tree && show(tree); });
    })()
"""


def shown(*sources: str) -> Any:
    return evaluated("mathematics/reader.js", "readFormula", SHOW, sources)


def spaces(*sources: str) -> Any:
    """Each operator of each formula with the spaces before it and after it."""
    code = """(() => {
        const operators = (one) => one.children ? one.children.flatMap(operators) : one.name === "mo" ? [one] : [];
        const spaced = (one) => [one.text, one.attributes.lspace, one.attributes.rspace];
        return given.map((source) => operators(readFormula(source)).map(spaced));
    })()"""
    return evaluated("mathematics/reader.js", "readFormula", code, sources)


MEANINGS = {
    "x": "<mi>x</mi>",
    "x^2": "<msup><mi>x</mi><mn>2</mn></msup>",
    "x^23": "<mrow><msup><mi>x</mi><mn>2</mn></msup><mn>3</mn></mrow>",
    "x_i^{n+1}": "<msubsup><mi>x</mi><mi>i</mi><mrow><mi>n</mi><mo>+</mo><mn>1</mn></mrow></msubsup>",
    "f''": "<msup><mi>f</mi><mo>′′</mo></msup>",
    "f'^2": "<msup><mi>f</mi><mrow><mo>′</mo><mn>2</mn></mrow></msup>",
    "3.14 + 1{,}000": "<mrow><mn>3.14</mn><mo>+</mo><mn>1</mn><mo>,</mo><mn>000</mn></mrow>",
    "1,000": "<mn>1,000</mn>",
    r"\frac{a}{b}": "<mfrac><mi>a</mi><mi>b</mi></mfrac>",
    r"\frac12": "<mfrac><mn>1</mn><mn>2</mn></mfrac>",
    r"{a \over b}": "<mfrac><mi>a</mi><mi>b</mi></mfrac>",
    r"\sqrt{2}": "<msqrt><mn>2</mn></msqrt>",
    r"\sqrt[3]{x}": "<mroot><mi>x</mi><mn>3</mn></mroot>",
    r"\binom{n}{k}": "<mrow><mo>(</mo><mfrac linethickness=0><mi>n</mi><mi>k</mi></mfrac><mo>)</mo></mrow>",
    r"\Gamma": "<mi mathvariant=normal>Γ</mi>",
    r"\mathbb{R}": "<mi>ℝ</mi>",
    r"\mathcal{L}": "<mi>ℒ</mi>",
    r"\mathbf{x1}": "<mrow><mi>𝐱</mi><mn>𝟏</mn></mrow>",
    r"\boldsymbol{\theta}": "<mi>𝜽</mi>",
    r"\mathrm{d}": "<mi mathvariant=normal>d</mi>",
    r"\sum_{i=1}^n": "<munderover><mo movablelimits=true>∑</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow>"
    "<mi>n</mi></munderover>",
    r"\int_0^1": "<msubsup><mo>∫</mo><mn>0</mn><mn>1</mn></msubsup>",
    r"\int\limits_0": "<munder><mo movablelimits=false>∫</mo><mn>0</mn></munder>",
    r"\lim_{n}": "<munder><mo movablelimits=true>lim</mo><mi>n</mi></munder>",
    r"\sin x": "<mrow><mo>sin</mo><mi>x</mi></mrow>",
    r"\left(x\right]": "<mrow><mo>(</mo><mi>x</mi><mo>]</mo></mrow>",
    r"\left.x\right|_0": "<msub><mrow><mi>x</mi><mo>|</mo></mrow><mn>0</mn></msub>",
    r"\begin{bmatrix}1&2\\3&4\end{bmatrix}": "<mrow><mo>[</mo><mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>2</mn></mtd></mtr>"
    "<mtr><mtd><mn>3</mn></mtd><mtd><mn>4</mn></mtd></mtr></mtable><mo>]</mo></mrow>",
    r"\begin{cases}1&x\\0\end{cases}": "<mrow><mo>{</mo><mtable class=cases><mtr><mtd><mn>1</mn></mtd><mtd><mi>x</mi></mtd></mtr>"
    "<mtr><mtd><mn>0</mn></mtd></mtr></mtable></mrow>",
    r"\begin{array}{l|r}1&2\end{array}": "<mtable><mtr><mtd class=left><mn>1</mn></mtd>"
    "<mtd class=right><mn>2</mn></mtd></mtr></mtable>",
    r"a &= b \\": "<mtable class=aligned displaystyle=true><mtr><mtd><mi>a</mi></mtd>"
    "<mtd><mrow><mo>=</mo><mi>b</mi></mrow></mtd></mtr></mtable>",
    r"\hat{x}": "<mover accent=true><mi>x</mi><mo>ˆ</mo></mover>",
    r"\overline{AB}": "<mrow class=overlined><mrow><mi>A</mi><mi>B</mi></mrow></mrow>",
    r"\underbrace{x}_{n}": "<munder><munder><mi>x</mi><mo>⏟</mo></munder><mi>n</mi></munder>",
    r"\text{if } x": "<mrow><mtext>if\u00a0</mtext><mi>x</mi></mrow>",
    r"\text{if $x$}": "<mrow><mtext>if\u00a0</mtext><mi>x</mi></mrow>",
    r"\not=": "<mo>≠</mo>",
    r"\boxed{1}": "<mrow class=boxed><mn>1</mn></mrow>",
    r"x \quad y": "<mrow><mi>x</mi><mspace width=1em></mspace><mi>y</mi></mrow>",
    r"a \bmod b": "<mrow><mi>a</mi><mo>mod</mo><mi>b</mi></mrow>",
    r"\big(": "<mo minsize=1.2em maxsize=1.2em>(</mo>",
    r"\operatorname{rank} A": "<mrow><mo>rank</mo><mi>A</mi></mrow>",
    r"\color{red} x": "<mi>x</mi>",
    r"\ce{H2O}": "<mrow><msub><mi mathvariant=normal>H</mi><mn>2</mn></msub><mi mathvariant=normal>O</mi></mrow>",
    r"\unheardof{x}": r"<mrow><mtext>\unheardof</mtext><mi>x</mi></mrow>",
    "100%": "<mrow><mn>100</mn><mo>%</mo></mrow>",
    "速度": "<mrow><mtext>速</mtext><mtext>度</mtext></mrow>",
}


def test_what_a_formula_becomes() -> None:
    assert dict(zip(MEANINGS, shown(*MEANINGS), strict=True)) == MEANINGS


def test_a_minus_without_a_left_operand_is_a_sign() -> None:
    binary, sign, equals = ["−", "0.2222em", "0.2222em"], ["−", "0", "0"], ["=", "0.2778em", "0.2778em"]
    expected = {
        "a-b": [binary],
        "-b": [sign],
        "a=-b": [equals, sign],
        "(-b)": [["(", "0", "0"], sign, [")", "0", "0"]],
        "a - -b": [binary, sign],
        "x^{a-b}": [sign],  # TeX leaves spaces out of scripts
        r"2\sin x": [["sin", "0.1667em", "0.1667em"]],
        r"\sin(x)": [["sin", "0", "0"], ["(", "0", "0"], [")", "0", "0"]],
    }
    assert dict(zip(expected, spaces(*expected), strict=True)) == expected


# As chat models write them.
WRITTEN = r"""
E = mc^2
x = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}
e^{i\pi} + 1 = 0
\int_{-\infty}^{\infty} e^{-x^2} \, dx = \sqrt{\pi}
\sum_{n=1}^{\infty} \frac{1}{n^2} = \frac{\pi^2}{6}
f(x) = \begin{cases} x^2 & \text{if } x \geq 0 \\ -x & \text{otherwise} \end{cases}
\nabla \times \mathbf{E} = -\frac{\partial \mathbf{B}}{\partial t}
\oint_C \vec{F} \cdot d\vec{r} = \iint_S (\nabla \times \vec{F}) \cdot d\vec{S}
P(A \mid B) = \frac{P(B \mid A)\,P(A)}{P(B)}
\hat{\beta} = (X^\top X)^{-1} X^\top y
\text{softmax}(z)_i = \frac{e^{z_i}}{\sum_{j=1}^{K} e^{z_j}}
\text{Attention}(Q, K, V) = \text{softmax}\left(\frac{QK^T}{\sqrt{d_k}}\right)V
\mathcal{L} = -\sum_{i} y_i \log \hat{y}_i
\begin{aligned} a &= b + c \\ &= d + e \end{aligned}
\begin{align*} 2x + 3y &= 7 \\[4pt] x - y &= 1 \end{align*}
A = \begin{pmatrix} a_{11} & \cdots & a_{1n} \\ \vdots & \ddots & \vdots \\ a_{m1} & \cdots & a_{mn} \end{pmatrix}
\det\begin{vmatrix} a & b \\ c & d \end{vmatrix} = ad - bc
\lim_{x \to 0} \frac{\sin x}{x} = 1
\left. \frac{dy}{dx} \right|_{x=0}
\left\{ x \in \mathbb{R} \;\middle|\; x > 0 \right\}
\left\lfloor \frac{n}{2} \right\rfloor
\lVert x \rVert_2 \leq \lVert x \rVert_1
\binom{n}{k} = \frac{n!}{k!(n-k)!}
\forall \varepsilon > 0 \; \exists \delta > 0 : |x - a| < \delta \implies |f(x) - f(a)| < \varepsilon
A \cup B, \quad A \cap B, \quad A \setminus B, \quad A^c
\mathbb{E}[X] = \mu, \quad \operatorname{Var}(X) = \sigma^2
X \sim \mathcal{N}(\mu, \sigma^2)
\underset{x \in S}{\arg\max}\, f(x)
\operatorname*{argmin}_{\theta} J(\theta)
\theta_{t+1} = \theta_t - \eta \nabla_\theta J(\theta_t)
O(n \log n)
a \equiv b \pmod{n}
\gcd(a, b) = \gcd(b, a \bmod b)
\overline{z} = a - bi
\overbrace{1 + 2 + \cdots + n}^{n \text{ terms}}
\underbrace{x + \cdots + x}_{n}
\xrightarrow{\text{heat}} \quad \xleftarrow[b]{a}
\ce{CO2 + H2O <=> H2CO3}
\ce{SO4^{2-}}
H_2O, \; \mathrm{CO_2}
90^\circ, \; 25\,^{\circ}\text{C}
\boxed{x = 42}
\cancel{x} + \not\subset
\dfrac{1}{1 + \dfrac{1}{x}}
\cfrac{1}{1 + \cfrac{1}{2}}
\tfrac12 mv^2
\sqrt[n]{x}
\ddot{x} + 2\zeta\omega_0\dot{x} + \omega_0^2 x = 0
i\hbar\frac{\partial}{\partial t}\Psi(\mathbf{r},t) = \hat{H}\Psi(\mathbf{r},t)
\langle \psi | \phi \rangle
\bigl( \bigl[ x \bigr] \bigr) \Bigg| \Big/
\sum_{\substack{i=1 \\ i \neq j}}^{n} a_i
\prod_{p \text{ prime}} \frac{1}{1 - p^{-s}}
\text{Area} = \pi r^2 \approx 3.14 \times 5^2 = 78.5 \text{ cm}^2
\$5 + \$6 = \$11
50\% \text{ of } 80
1\,000\,000
\begin{array}{c|cc} & A & B \\ \hline 1 & a & b \end{array}
\left[ \begin{array}{cc|c} 1 & 0 & 3 \\ 0 & 1 & 2 \end{array} \right]
\mathbf{v} = \begin{bmatrix} 1 \\ 2 \\ 3 \end{bmatrix}
x \in [0, 1), \; y \in (0, 1]
\neg (p \land q) \equiv \neg p \lor \neg q
p \Rightarrow q \iff \neg q \Rightarrow \neg p
\aleph_0 < 2^{\aleph_0}
\therefore x = 2 \tag{1}
{}_{92}^{238}\mathrm{U}
{n \choose k}
\displaystyle\sum_{i=1}^n i = \frac{n(n+1)}{2}
\widehat{ABC} \cong \widetilde{DEF}
\overrightarrow{AB} \parallel \overleftrightarrow{CD}
\triangle ABC, \angle ABC
\mathfrak{g}, \mathscr{F}, \mathsf{T}, \mathtt{x}
\bm{\Sigma}^{-1/2}
\max_{1 \le i \le n} a_i, \; \limsup_{n\to\infty} a_n
f: A \to B, \quad x \mapsto x^2
A^{-1} = \frac{1}{\det A} \operatorname{adj}(A)
\mathrm{km/h}, \; \mathrm{m}\cdot\mathrm{s}^{-2}
y' + p(x)y = q(x), \; y'' = 0
\begin{equation} a^2 + b^2 = c^2 \end{equation}
\hspace{1em} x \phantom{y} z
\left(\sum_{k=1}^n a_k b_k\right)^2 \leq \left(\sum_{k=1}^n a_k^2\right)\left(\sum_{k=1}^n b_k^2\right)
\stackrel{\text{def}}{=} \; \coloneqq \; \triangleq
\iiint_V \rho \, dV = \oiint_S \vec{E} \cdot d\vec{A}
""".strip().splitlines()


def test_the_formulas_of_chat_models_are_understood() -> None:
    for source, markup in zip(WRITTEN, shown(*WRITTEN), strict=True):
        assert markup is not None, source
        assert "\\" not in markup, f"{source}: {markup}"


def test_what_makes_no_sense_is_left_as_it_was_written() -> None:
    sources = ["{", "}", "a}", r"\frac{a}", r"\left( x", r"\left x", r"\begin{matrix} a", r"\begin{list}a\end{list}", "x^", "x_{"]
    assert shown(*sources, "x" * 10_000) == [None] * (len(sources) + 1)


HOSTILE = [
    "{" * 8000,
    "{" * 39 + "x" + "}" * 39,
    "\\frac" * 1600,
    "\\sqrt" * 1600,
    "x^" * 4000,
    "x'^'" * 2000,
    "\\left(" * 1300,
    "\\begin{matrix}" * 570,
    "\\\\" * 4000,
    "&" * 8000,
    "\\text{$" * 1100,
    "\\(" * 4000,
    "a\\over" * 1300,
    "\\not" * 2000,
    "\\displaystyle" * 600,
    "\\bf" * 2600,
    "\\ce{" * 2000,
    "_" * 8000,
    "[" * 8000,
    "\\constructor \\__proto__ \\toString \\hasOwnProperty",
]


def test_hostile_formulas_end_quickly() -> None:
    begun = time.monotonic()
    assert len(shown(*HOSTILE)) == len(HOSTILE)
    assert time.monotonic() - begun < MAX_S


def test_no_formula_raises_anything() -> None:
    seed = 20261201
    print("seed", seed)
    chance = random.Random(seed)
    pieces = sorted({piece for source in WRITTEN for piece in source.replace("\\", " \\").split()} | set("{}[]()^_&'$\\|<>"))
    sources = ["".join(chance.choices(pieces, k=chance.randint(1, 14))) for _ in range(3000)]
    trees = shown(*sources)
    assert len(trees) == 3000
    assert sum(tree is not None for tree in trees) > 300


def pieces_of(text: str) -> Any:
    return evaluated("markdown.js", "readBlocks", "readBlocks(given).map(({ source, ...block }) => block)", text)


def formulas_of(*texts: str) -> Any:
    """The formulas of each Markdown text, in order."""
    code = """(() => {
        const found = (one) => Array.isArray(one) ? one.flatMap(found)
          : !one || typeof one !== "object" ? [] : one.kind === "math" ? [one.text] : found(Object.values(one));
        return given.map((text) => found(readBlocks(text)));
    })()"""
    return evaluated("markdown.js", "readBlocks", code, texts)


SPANS = {
    "$x$": ["x"],
    r"\(x\)": ["x"],
    "$$x$$": ["x"],
    r"\[x\]": ["x"],
    "$$\nx\n+ y\n$$": ["x\n+ y"],
    "so:\n$$\nx\n$$\nand": ["x"],
    "- item $x$\n  $$y$$": ["x", "y"],
    "1. item\n\n   \\[\n   x\n   \\]": ["x"],
    "| $a$ | b |\n|--|--|\n| c | $d$ |": ["a", "d"],
    "# $x$": ["x"],
    "> $$x$$": ["x"],
    "**$x$**": ["x"],
    "the $n$th": ["n"],
    "$$x$$.": ["x."],
    "$$x$$ and $$y$$": ["x", "y"],
    "\\begin{align}\na &= b\n\\end{align}": ["\\begin{align}\na &= b\n\\end{align}"],
    "\\[\na\n\n= b\n\\]": ["a\n\n= b"],
    r"$\$5$": [r"\$5"],
    "costs $5 and $6": [],
    "$6, and `$x$`": [],
    "from $5 to $10, or US$7/HK$8": [],
    "**$5**-**$6**": [],
    r"\$x\$": [],
    "`$x$`": [],
    "```\n$x$\n\\[x\\]\n```": [],
    "~~~latex\n$$x$$\n~~~": [],
    "$x": [],
    "$$\nx": [],
    r"\[ x": [],
    r"\( a * b * c": [],
    "$$\n\n$$ x": [],
}


def test_which_text_is_a_formula() -> None:
    assert dict(zip(SPANS, formulas_of(*SPANS), strict=True)) == SPANS


def test_a_formula_on_its_way_is_text_without_marks() -> None:
    assert pieces_of(r"so \( a * b * c") == [{"kind": "paragraph", "pieces": [{"kind": "text", "text": r"so \( a * b * c"}]}]
    whole = "Let $a_1$ be\n\n\\[\n\\frac{a}{b} - c\n\\]\n\nand \\(x\\)."
    prefixes = [whole[:end] for end in range(len(whole) + 1)]
    counts = [len(found) for found in formulas_of(*prefixes)]
    assert counts == sorted(counts), "none comes early and goes again"
    assert counts[-1] == 3


def test_hostile_markdown_ends_quickly() -> None:
    begun = time.monotonic()
    formulas_of("$$x\n" * 20_000, "\\[\n\n" * 10_000, "$a\\$" * 20_000, "\\(a " * 20_000, "$a " * 30_000)
    assert time.monotonic() - begun < MAX_S
