// The symbols of LaTeX that stand for a character, by the class that decides the space around them (The TeXbook, chapter 17).

/** Entries of a table: "name character name character ...". */
function symbols(kind, text) {
  const words = text.trim().split(/\s+/);
  return words.flatMap((name, at) => (at % 2 ? [] : [[name, { kind, text: words[at + 1] }]]));
}

export const SYMBOLS = new Map([
  ...symbols("letter", `
    alpha α beta β gamma γ delta δ epsilon ϵ varepsilon ε zeta ζ eta η theta θ vartheta ϑ iota ι kappa κ varkappa ϰ lambda λ mu μ
    nu ν xi ξ omicron ο pi π varpi ϖ rho ρ varrho ϱ sigma σ varsigma ς tau τ upsilon υ phi ϕ varphi φ chi χ psi ψ omega ω
    digamma ϝ ell ℓ hbar ℏ hslash ℏ imath ı jmath ȷ partial ∂ wp ℘`),
  ...symbols("upright", `
    Gamma Γ Delta Δ Theta Θ Lambda Λ Xi Ξ Pi Π Sigma Σ Upsilon Υ Phi Φ Psi Ψ Omega Ω Alpha Α Beta Β Epsilon Ε Zeta Ζ Eta Η Iota Ι
    Kappa Κ Mu Μ Nu Ν Omicron Ο Rho Ρ Tau Τ Chi Χ aleph ℵ beth ℶ gimel ℷ Re ℜ Im ℑ infty ∞ emptyset ∅ varnothing ∅ nabla ∇ forall ∀
    exists ∃ nexists ∄ top ⊤ bot ⊥ angle ∠ measuredangle ∡ triangle △ Box □ square □ blacksquare ■ Diamond ◇ lozenge ◊ clubsuit ♣
    diamondsuit ♢ heartsuit ♡ spadesuit ♠ flat ♭ natural ♮ sharp ♯ mho ℧ eth ð degree ° copyright © S § P ¶ dag † ddag ‡ pounds £
    euro € yen ¥ checkmark ✓ bigstar ★ complement ∁ Bbbk 𝕜 Finv Ⅎ surd √ prime ′ backprime ‵ AA Å ss ß o ø O Ø ae æ AE Æ oe œ OE Œ
    R ℝ N ℕ Z ℤ Q ℚ C ℂ reals ℝ`),
  ...symbols("ordinary", `
    neg ¬ lnot ¬ ldots … dots … dotsc … dotsb ⋯ dotsm ⋯ dotsi ⋯ dotso … cdots ⋯ vdots ⋮ ddots ⋱ iddots ⋰ % % # # $ $ _ _ & &
    backslash \\ textbackslash \\ colon : textdegree ° textunderscore _ textdollar $ textbar | textless < textgreater >`),
  ...symbols("binary", `
    pm ± mp ∓ times × div ÷ cdot ⋅ ast ∗ star ⋆ circ ∘ bullet ∙ cap ∩ cup ∪ uplus ⊎ sqcap ⊓ sqcup ⊔ vee ∨ lor ∨ wedge ∧ land ∧
    setminus ∖ smallsetminus ∖ wr ≀ diamond ⋄ oplus ⊕ ominus ⊖ otimes ⊗ oslash ⊘ odot ⊙ bigcirc ◯ dagger † ddagger ‡ amalg ⨿
    bigtriangleup △ bigtriangledown ▽ triangleleft ◃ triangleright ▹ ltimes ⋉ rtimes ⋊ boxtimes ⊠ boxplus ⊞ boxminus ⊟ boxdot ⊡
    barwedge ⊼ veebar ⊻ intercal ⊺ divideontimes ⋇ centerdot ⋅ circledast ⊛ circledcirc ⊚`),
  ...symbols("relation", `
    leq ≤ le ≤ geq ≥ ge ≥ leqslant ⩽ geqslant ⩾ neq ≠ ne ≠ equiv ≡ sim ∼ simeq ≃ approx ≈ approxeq ≊ cong ≅ propto ∝ varpropto ∝
    doteq ≐ ll ≪ gg ≫ lll ⋘ ggg ⋙ prec ≺ succ ≻ preceq ⪯ succeq ⪰ lesssim ≲ gtrsim ≳ lessgtr ≶ subset ⊂ supset ⊃ subseteq ⊆
    supseteq ⊇ subsetneq ⊊ supsetneq ⊋ nsubseteq ⊈ nsupseteq ⊉ sqsubset ⊏ sqsupset ⊐ sqsubseteq ⊑ sqsupseteq ⊒ in ∈ ni ∋ owns ∋
    notin ∉ vdash ⊢ dashv ⊣ models ⊨ vDash ⊨ Vdash ⊩ Vvdash ⊪ nvdash ⊬ nvDash ⊭ mid ∣ nmid ∤ parallel ∥ nparallel ∦ perp ⊥
    asymp ≍ bowtie ⋈ smile ⌣ frown ⌢ lt < gt > nleq ≰ ngeq ≱ nless ≮ ngtr ≯ ncong ≇ nsim ≁ coloneqq ≔ coloneq ≔ eqqcolon ≕
    vcentcolon ∶ triangleq ≜ therefore ∴ because ∵ between ≬ trianglelefteq ⊴ trianglerighteq ⊵ lhd ⊲ rhd ⊳ unlhd ⊴ unrhd ⊵
    gets ← leftarrow ← to → rightarrow → leftrightarrow ↔ Leftarrow ⇐ Rightarrow ⇒ Leftrightarrow ⇔ implies ⟹ impliedby ⟸ iff ⟺
    longleftarrow ⟵ longrightarrow ⟶ longleftrightarrow ⟷ Longleftarrow ⟸ Longrightarrow ⟹ Longleftrightarrow ⟺ mapsto ↦
    longmapsto ⟼ hookleftarrow ↩ hookrightarrow ↪ leftharpoonup ↼ leftharpoondown ↽ rightharpoonup ⇀ rightharpoondown ⇁
    rightleftharpoons ⇌ leftrightharpoons ⇋ uparrow ↑ downarrow ↓ updownarrow ↕ Uparrow ⇑ Downarrow ⇓ Updownarrow ⇕ nearrow ↗
    searrow ↘ swarrow ↙ nwarrow ↖ leadsto ⇝ rightsquigarrow ⇝ nrightarrow ↛ nleftarrow ↚ nRightarrow ⇏ nLeftarrow ⇍
    twoheadrightarrow ↠ twoheadleftarrow ↞ rightrightarrows ⇉ leftleftarrows ⇇ leftrightarrows ⇆ rightleftarrows ⇄
    curvearrowright ↷ curvearrowleft ↶ circlearrowright ↻ circlearrowleft ↺ multimap ⊸`),
  ...symbols("operator", `
    sum ∑ prod ∏ coprod ∐ bigcap ⋂ bigcup ⋃ bigsqcup ⨆ bigvee ⋁ bigwedge ⋀ bigoplus ⨁ bigotimes ⨂ bigodot ⨀ biguplus ⨄`),
  ...symbols("integral", "int ∫ iint ∬ iiint ∭ oint ∮ oiint ∯ oiiint ∰ intop ∫ smallint ∫"),
  ...symbols("open", `
    { { lbrace { lbrack [ lparen ( langle ⟨ lfloor ⌊ lceil ⌈ lvert | lVert ‖ lgroup ⟮ llbracket ⟦ ulcorner ⌜ llcorner ⌞`),
  ...symbols("close", `
    } } rbrace } rbrack ] rparen ) rangle ⟩ rfloor ⌋ rceil ⌉ rvert | rVert ‖ rgroup ⟯ rrbracket ⟧ urcorner ⌝ lrcorner ⌟`),
  ...symbols("bar", "vert | Vert ‖ | ‖"),
]);

/** What a character of its own means, where it is neither a letter nor a digit. */
export const CHARACTERS = new Map([
  ...symbols("binary", "+ + - − * ∗ ± ± × × ÷ ÷ · ⋅ ∩ ∩ ∪ ∪ ∧ ∧ ∨ ∨ ⊕ ⊕ ⊗ ⊗ ∘ ∘"),
  ...symbols("relation", "= = < < > > : : ≤ ≤ ≥ ≥ ≠ ≠ ≈ ≈ ≡ ≡ ∈ ∈ ∉ ∉ ⊂ ⊂ ⊆ ⊆ → → ← ← ↔ ↔ ⇒ ⇒ ⇔ ⇔ ∼ ∼ ∝ ∝ ↦ ↦ ⟶ ⟶"),
  ...symbols("open", "( ( [ [ ⟨ ⟨ ⌊ ⌊ ⌈ ⌈"),
  ...symbols("close", ") ) ] ] ⟩ ⟩ ⌋ ⌋ ⌉ ⌉ ! !  ? ?"),
  ...symbols("punctuation", ", , ; ;"),
  ...symbols("bar", "| | ‖ ‖ ∣ ∣"),
  ...symbols("operator", "∑ ∑ ∏ ∏"),
  ...symbols("integral", "∫ ∫ ∮ ∮"),
  ...symbols("upright", "∞ ∞ ∅ ∅ ∇ ∇ ∀ ∀ ∃ ∃ ° °"),
]);

/** Names that are written upright, such as sin. Limits stand below those of the second set. */
const words = (text) => text.trim().split(/\s+/);
export const FUNCTIONS = new Set(words(`
  sin cos tan cot sec csc sinh cosh tanh coth sech csch arcsin arccos arctan arccot arcsec arccsc arcsinh arccosh arctanh exp log ln
  lg lb arg deg dim hom ker tr rank sgn sign erf Tr Var Cov`));
export const LIMITS = new Map([
  ...words("lim max min sup inf det gcd lcm argmax argmin Pr").map((name) => [name, name]),
  ["limsup", "lim sup"], ["liminf", "lim inf"], ["varlimsup", "lim sup"], ["varliminf", "lim inf"], ["injlim", "inj lim"],
  ["projlim", "proj lim"],
]);

/** Spaces, in em. */
export const SPACES = new Map([
  [",", 0.1667], ["thinspace", 0.1667], [":", 0.2222], [">", 0.2222], ["medspace", 0.2222], [";", 0.2778], ["thickspace", 0.2778],
  ["!", -0.1667], ["negthinspace", -0.1667], [" ", 0.25], ["space", 0.25], ["nobreakspace", 0.25], ["enspace", 0.5], ["quad", 1],
  ["qquad", 2],
]);

/** Marks above a letter. */
export const ACCENTS = new Map([
  ["hat", "ˆ"], ["check", "ˇ"], ["tilde", "˜"], ["acute", "´"], ["grave", "`"], ["dot", "˙"], ["ddot", "¨"], ["dddot", "⃛"],
  ["breve", "˘"], ["bar", "¯"], ["vec", "→"], ["mathring", "˚"],
]);

/** Marks that are as wide as what they stand on, above it or below it. */
export const WIDE = new Map([
  ["widehat", ["mover", "\u0302"]], ["widetilde", ["mover", "~"]], ["widecheck", ["mover", "ˇ"]],
  ["overrightarrow", ["mover", "→"]], ["overleftarrow", ["mover", "←"]], ["overleftrightarrow", ["mover", "↔"]],
  ["underrightarrow", ["munder", "→"]], ["underleftarrow", ["munder", "←"]],
]);

/** Lines above or below: the class of what has one. No font is needed for them. */
export const LINED = new Map([
  ["overline", "overlined"], ["widebar", "overlined"], ["underline", "underlined"], ["underbar", "underlined"],
]);
export const BRACES = new Map([
  ["overbrace", ["mover", "⏞"]], ["underbrace", ["munder", "⏟"]], ["overbracket", ["mover", "⎴"]], ["underbracket", ["munder", "⎵"]],
  ["overparen", ["mover", "⏜"]], ["underparen", ["munder", "⏝"]],
]);

/** Arrows that grow with what is written on them. */
export const ARROWS = new Map([
  ["xrightarrow", "→"], ["xleftarrow", "←"], ["xleftrightarrow", "↔"], ["xRightarrow", "⇒"], ["xLeftarrow", "⇐"],
  ["xLeftrightarrow", "⇔"], ["xmapsto", "↦"], ["xrightleftharpoons", "⇌"], ["xlongequal", "="], ["xhookrightarrow", "↪"],
]);

/** What may follow \left, \right, \middle and \big, beside the symbols above. "." is an empty one. */
export const DELIMITERS = new Map([
  ..."()[]|/".split("").map((one) => [one, one]),
  [".", ""], ["<", "⟨"], [">", "⟩"], ["\\backslash", "\\"], ["\\|", "‖"],
]);

/** Environments of rows and cells: the marks around them, and the class that says how their cells stand. */
export const TABLES = new Map([
  ["matrix", ["", "", ""]], ["pmatrix", ["(", ")", ""]], ["bmatrix", ["[", "]", ""]], ["Bmatrix", ["{", "}", ""]],
  ["vmatrix", ["|", "|", ""]], ["Vmatrix", ["‖", "‖", ""]], ["smallmatrix", ["", "", "small"]], ["array", ["", "", ""]],
  ["cases", ["{", "", "cases"]], ["dcases", ["{", "", "cases"]], ["rcases", ["", "}", "cases"]],
  ...words("aligned align alignat alignedat split eqnarray flalign").map((name) => [name, ["", "", "aligned"]]),
  ...words("gather gathered multline equation displaymath math").map((name) => [name, ["", "", "gathered"]]),
]);
