// The characters that the names of glyphs mean (Adobe Glyph List, as far as text needs it).

const names = (text) => text.trim().split(/\s+/);
const DIGITS = "zero one two three four five six seven eight nine";
const letters = (first) => Array.from({ length: 26 }, (_, at) => String.fromCharCode(first.charCodeAt(0) + at)).join(" ");

// In the order of ASCII, from the space on, and of Latin-1, from U+00A0 on.
const ASCII = names(`space exclam quotedbl numbersign dollar percent ampersand quotesingle parenleft parenright asterisk plus comma hyphen
  period slash ${DIGITS} colon semicolon less equal greater question at ${letters("A")} bracketleft backslash bracketright asciicircum
  underscore grave ${letters("a")} braceleft bar braceright asciitilde`);
const LATIN = names(`nbspace exclamdown cent sterling currency yen brokenbar section dieresis copyright ordfeminine guillemotleft logicalnot
  sfthyphen registered macron degree plusminus twosuperior threesuperior acute mu paragraph periodcentered cedilla onesuperior
  ordmasculine guillemotright onequarter onehalf threequarters questiondown`);
const GREEK = names("Alpha Beta Gamma Delta Epsilon Zeta Eta Theta Iota Kappa Lambda Mu Nu Xi Omicron Pi Rho sigma1 Sigma Tau Upsilon Phi Chi Psi Omega");

const OTHERS = names(`quoteleft ‘ quoteright ’ quotesinglbase ‚ quotedblleft “ quotedblright ” quotedblbase „ dagger † daggerdbl ‡ bullet •
  ellipsis … endash – emdash — perthousand ‰ guilsinglleft ‹ guilsinglright › fraction ⁄ florin ƒ Euro € euro € trademark ™ OE Œ oe œ
  AE Æ ae æ Eth Ð eth ð Thorn Þ thorn þ germandbls ß Germandbls ẞ Oslash Ø oslash ø Lslash Ł lslash ł Dcroat Đ dcroat đ Dslash Đ
  dslash đ Hbar Ħ hbar ħ Eng Ŋ eng ŋ longs ſ kgreenlandic ĸ multiply × divide ÷ dotlessi ı dotlessj ȷ ff ff fi fi fl fl ffi ffi ffl ffl
  circumflex ˆ tilde ˜ caron ˇ breve ˘ dotaccent ˙ ring ˚ ogonek ˛ hungarumlaut ˝ minus − infinity ∞ notequal ≠ lessequal ≤
  greaterequal ≥ approxequal ≈ partialdiff ∂ summation ∑ product ∏ integral ∫ radical √ lozenge ◊ arrowleft ← arrowright → arrowup ↑
  arrowdown ↓ arrowboth ↔ arrowdblright ⇒ arrowdblleft ⇐ arrowdblboth ⇔ element ∈ notelement ∉ union ∪ intersection ∩ emptyset ∅
  universal ∀ existential ∃ gradient ∇ nabla ∇ logicaland ∧ logicalor ∨ propersubset ⊂ propersuperset ⊃ reflexsubset ⊆
  reflexsuperset ⊇ proportional ∝ similar ∼ congruent ≅ equivalence ≡ therefore ∴ angle ∠ perpendicular ⊥ asteriskmath ∗ dotmath ⋅
  openbullet ◦ circleplus ⊕ circlemultiply ⊗ angbracketleft ⟨ angbracketright ⟩ minusplus ∓ lessmuch ≪ greatermuch ≫ prime ′ second ″
  minute ′ aleph ℵ weierstrass ℘ Ifraktur ℑ Rfraktur ℜ epsilon1 ϵ theta1 ϑ phi1 ϕ omega1 ϖ pi1 ϖ rho1 ϱ kappa1 ϰ sigmafinal ς
  visiblespace ␣ nonbreakingspace \u00a0 softhyphen \u00ad checkmark ✓ triangleright ▷ square □ filledbox ■ H18533 ■ numero №
  estimated ℮ afii61352 № commaaccent , periodcentered · middot · slashmath ∕ bardbl ‖ mapsto ↦ star ⋆ heart ♥ club ♣ diamond ♦ spade ♠`);

const NAMES = new Map([
  ...ASCII.map((name, at) => [name, String.fromCharCode(0x20 + at)]),
  ...LATIN.map((name, at) => [name, String.fromCharCode(0xa0 + at)]),
  ...GREEK.map((name, at) => [name, String.fromCharCode(0x391 + at)]),
  ...GREEK.map((name, at) => [name.toLowerCase(), String.fromCharCode(0x3b1 + at)]),
  ...OTHERS.flatMap((name, at) => (at % 2 ? [] : [[name, OTHERS[at + 1]]])),
]);

const ACCENTS = {
  grave: "\u0300", acute: "\u0301", circumflex: "\u0302", tilde: "\u0303", macron: "\u0304", breve: "\u0306", dotaccent: "\u0307",
  dieresis: "\u0308", ring: "\u030a", hungarumlaut: "\u030b", caron: "\u030c", cedilla: "\u0327", commaaccent: "\u0326", ogonek: "\u0328",
};
const ACCENTED = new RegExp(`^([A-Za-z])(${Object.keys(ACCENTS).join("|")})$`);

/** The text of a glyph by its name, such as "A", "Adieresis", "f_f_i", "uni20AC"; "" for a name that tells nothing. */
export function textOfGlyph(name) {
  const base = name.split(".", 1)[0];
  return NAMES.get(base) ?? composed(base) ?? base.split("_").map(partOf).join("");
}

function composed(name) {
  const [, letter, accent] = ACCENTED.exec(name) ?? [];
  return letter && (letter + ACCENTS[accent]).normalize("NFC");
}

function partOf(name) {
  const [, four, more] = /^(?:uni((?:[0-9A-F]{4})+)|u([0-9A-F]{4,6}))$/.exec(name) ?? [];
  if (four) return four.match(/.{4}/g).map((hex) => String.fromCharCode(Number.parseInt(hex, 16))).join("");
  const code = Number.parseInt(more ?? "", 16);
  return code < 0x110000 ? String.fromCodePoint(code) : NAMES.get(name) ?? "";
}
